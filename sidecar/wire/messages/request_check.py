"""Check requests to the Messages API, as far as limits depend on them, and what the sidecar writes into them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from policies.api.call import MANY_FIELDS
from policies.api.requests.parts import MAX_TEXT_NESTING
from sidecar.wire.request.json_body import BadRequest
from sidecar.wire.request.openai_request import (
    CHECKED_PER_STEP,
    MAX_ITEMS,
    MAX_USER_LENGTH,
    check_spelling,
    openai_steps,
)
from sidecar.wire.request.request_counts import add_ceiling

GOVERNED_FIELDS = frozenset({"system", "metadata", "tools", "thinking", "fallbacks", "speed", "service_tier"})
"""Fields of this API that limits depend on, beside those of all APIs."""
PART_FIELDS = frozenset({"type", "text", "content", "source", "data", "thinking", "input", "name"})
"""Fields of parts and of their sources from which the size and the text of the prompt are read."""
MIN_THINKING_TOKENS = 1_024
"""Least `budget_tokens` that Anthropic accepts."""
CEILING_FIELD = "max_tokens"


def message_steps(body: dict[str, Any]) -> Generator[None, None, int]:
    """Raise `BadRequest` unless policies can govern *body*, in steps of a few milliseconds; return its messages and parts.

    Numbers and switches are written in one way. A ceiling under another name is also written as `max_tokens`, which is the
    one that servers of this API read.
    """
    items = yield from openai_steps(body)
    check_spelling(body, GOVERNED_FIELDS)
    items += yield from _nested_items(body)
    if items > MAX_ITEMS:
        msg = f"'messages' and 'system' have more than {MAX_ITEMS} messages and parts in all."
        raise BadRequest(msg, "messages")
    for field in MANY_FIELDS:
        if type(many := body.get(field)) is int and many > 1:
            msg = f"'{field}' must be 1: an answer of the Messages API is one message."
            raise BadRequest(msg, field)
    add_ceiling(body, CEILING_FIELD)
    _check_metadata(body.get("metadata"))
    return items


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict):
        return
    check_spelling(metadata, frozenset({"user_id"}), "metadata")
    user = metadata.get("user_id")
    if isinstance(user, str) and len(user) > MAX_USER_LENGTH:
        msg = f"'metadata.user_id' has {len(user)} characters; send at most {MAX_USER_LENGTH}."
        raise BadRequest(msg, "metadata.user_id")


def _nested_items(body: dict[str, Any]) -> Generator[None, None, int]:
    """Check the names in the parts of results, documents and instructions; return how many parts there are."""
    waiting = [("system", body.get("system"), MAX_TEXT_NESTING)]
    waiting += [(f"messages[{at}]", message.get("content"), -1) for at, message in enumerate(body["messages"])]
    items = checked = 0
    while waiting:
        where, value, depth = waiting.pop()
        is_message = depth < 0
        for part in value if isinstance(value, list) else [value]:
            if not isinstance(part, dict):
                continue
            items, checked = items + (not is_message), checked + 1 + len(part)
            check_spelling(part, PART_FIELDS, where)
            source = part.get("source")
            if isinstance(source, dict):
                check_spelling(source, PART_FIELDS, f"{where}.source")
            below = MAX_TEXT_NESTING if is_message else depth - 1
            for inner in (part.get("content"), source.get("content") if isinstance(source, dict) else None):
                if isinstance(inner, list | dict) and below:
                    waiting.append((where, inner, below))
            if checked > CHECKED_PER_STEP:
                checked = 0
                yield
        if items > MAX_ITEMS:
            break
    return items


def with_fitting_thinking(body: dict[str, Any]) -> dict[str, Any]:
    """Return *body* with a budget of thinking below its ceiling, as Anthropic requires where a policy has lowered that.

    Where the ceiling has no room for the least budget, thinking is switched off.
    """
    thinking, ceiling = body.get("thinking"), body.get(CEILING_FIELD)
    if not isinstance(thinking, dict) or type(ceiling) is not int:
        return body
    budget = thinking.get("budget_tokens")
    if type(budget) is not int or budget < ceiling:
        return body
    if ceiling <= MIN_THINKING_TOKENS:
        return {**body, "thinking": {"type": "disabled"}}
    return {**body, "thinking": {**thinking, "budget_tokens": max(MIN_THINKING_TOKENS, ceiling // 2)}}
