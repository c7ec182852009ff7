"""Check the body of a Chat Nest request and return its parts."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from policies.api.call import Caps, Message

from .json_body import BadRequest
from .openai_request import check_type, positive_integer

INVALID_MESSAGES = "Invalid messages payload"


def chat_nest_messages(body: dict[str, Any], roles: Collection[str]) -> list[Message]:
    """Return the messages in the form that upstream accepts; *roles* are allowed.  Raises `BadRequest`."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest(INVALID_MESSAGES, "messages", "'messages' must be a non-empty list.")
    kept = []
    for at, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadRequest(
                INVALID_MESSAGES, "messages", f"messages[{at}] must be an object with 'role' and 'content'."
            )
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or role not in roles:
            detail = f"messages[{at}].role must be one of: {', '.join(roles)}."
            raise BadRequest(INVALID_MESSAGES, "messages", detail)
        if not isinstance(content, str):
            raise BadRequest(INVALID_MESSAGES, "messages", f"messages[{at}].content must be a string.")
        kept.append({"role": role, "content": content})
    return kept


def chat_nest_caps(body: dict[str, Any]) -> Caps:
    """Return the limits that the client sets for itself.  Raises `BadRequest`."""
    return Caps(
        day_tokens=positive_integer(body.get("dailyTokenLimit"), "dailyTokenLimit"),
        request_tokens=positive_integer(body.get("maxTokensPerRequest"), "maxTokensPerRequest"),
    )


def chat_nest_profile(body: dict[str, Any]) -> str | None:
    """Return the profile that the client names.  Raises `BadRequest` unless it is a string."""
    check_type(body, "profile", str, "a string")
    check_type(body, "aiUsageProfile", str, "a string")
    name: str | None = body.get("profile")
    return name if name is not None else body.get("aiUsageProfile")


def system_prompt(body: dict[str, Any]) -> str | None:
    """Return the body's system prompt.  Raises `BadRequest` unless it is a string."""
    check_type(body, "systemPrompt", str, "a string")
    prompt: str | None = body.get("systemPrompt")
    return prompt
