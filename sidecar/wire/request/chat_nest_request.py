"""Check the body of a Chat Nest request and return its parts."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from policies.api.call import Caps
from policies.api.requests.parts import Message

from .json_body import BadRequest
from .openai_request import MAX_ITEMS, check_type, positive_integer

INVALID_MESSAGES = "Invalid messages payload"
JOINED_BY = "\n\n"
"""Between messages of the user that become one: models read it as the end of a paragraph."""


def chat_nest_messages(body: dict[str, Any], roles: Collection[str]) -> list[Message]:
    """Return the messages in the form that upstream accepts, without empty answers; *roles* are allowed.

    Raises `BadRequest`.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest(INVALID_MESSAGES, "messages", "'messages' must be a non-empty list.")
    if len(messages) > MAX_ITEMS:
        raise BadRequest(INVALID_MESSAGES, "messages", f"'messages' has more than {MAX_ITEMS} messages.")
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
    return without_empty_answers(kept)


def without_empty_answers(messages: list[Message]) -> list[Message]:
    """Return *messages*, whose contents are strings, without empty ones of the assistant.

    After an error, Chat Nest's hook keeps the empty answer that it was filling, and sends it with each further message.
    Some models refuse an empty answer, others two messages of the user in a row, so the messages of the user around it
    become one. *messages* of empty answers alone are returned as they are.
    """
    if not any(_is_empty_answer(message) for message in messages):
        return messages
    kept: list[tuple[str, list[str]]] = []
    is_behind_empty = False
    for message in messages:
        if _is_empty_answer(message):
            is_behind_empty = True
            continue
        if is_behind_empty and message["role"] == "user" and kept and kept[-1][0] == "user":
            kept[-1][1].append(message["content"])
        else:
            kept.append((message["role"], [message["content"]]))
        is_behind_empty = False
    return [{"role": role, "content": JOINED_BY.join(pieces)} for role, pieces in kept] or messages


def _is_empty_answer(message: Message) -> bool:
    content = message["content"]
    return message["role"] == "assistant" and (not content or content.isspace())


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
