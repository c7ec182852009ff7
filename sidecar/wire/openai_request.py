"""The two request shapes, Chat Nest's and OpenAI's, checked and brought to what goes upstream."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from policies.api.call import LIMIT_FIELDS, MANY_FIELDS

from .json_body import BadRequest

MAX_SAFE_INTEGER = 2**53 - 1
MAX_ANSWERS = 128
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
FIELDS = frozenset({*LIMIT_FIELDS, *MANY_FIELDS, "messages", "model", "models", "stream", "stream_options", "user"})
"""Fields that limits depend on."""
OPTIONS = frozenset({"include_usage"})
PLAIN = frozenset({"role", "content"})
PARTS = PLAIN | {"type", "text"}
"""The same in a message and in its parts."""
COUNTED, OPTIONAL = frozenset({*LIMIT_FIELDS, *MANY_FIELDS}), frozenset({"user", "stream_options"})
USUAL = FIELDS | {"temperature", "top_p", "stop", "tools", "tool_choice", "response_format", "seed"}
"""Fields that need no second look, all in lower case."""


def check_openai(body: dict[str, Any]) -> None:
    """Raise `BadRequest` unless *body* is a chat completion request as far as limits depend on it."""
    if not body.keys() <= USUAL:
        _check_spelling(body, FIELDS)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        msg = "'messages' must be a non-empty list of messages."
        raise BadRequest(msg, "messages")
    for at, message in enumerate(messages):
        if not _is_plain(message):
            _check_message(message, f"messages[{at}]")
    if not COUNTED.isdisjoint(body):
        _check_counts(body)
    if not isinstance(body.get("stream", False), bool):
        _typed(body, "stream", bool, "true or false")
    if not isinstance(body.get("model", ""), str):
        _typed(body, "model", str, "a string")
    if not OPTIONAL.isdisjoint(body):
        _check_options(body)


def _check_counts(body: dict[str, Any]) -> None:
    for field in LIMIT_FIELDS:
        positive_integer(body.get(field), field)
    for field in MANY_FIELDS:
        if (positive_integer(body.get(field), field) or 1) > MAX_ANSWERS:
            msg = f"'{field}' must be from 1 to {MAX_ANSWERS}."
            raise BadRequest(msg, field)


def _check_options(body: dict[str, Any]) -> None:
    _typed(body, "user", str, "a string")
    _typed(body, "stream_options", dict, "an object")
    options = body.get("stream_options") or {}
    if not options.keys() <= OPTIONS:
        _check_spelling(options, OPTIONS, "stream_options.")
    if not isinstance(options.get("include_usage", False), bool | None):
        msg = "'stream_options.include_usage' must be true or false."
        raise BadRequest(msg, "stream_options.include_usage")


def positive_integer(value: object, field: str) -> int | None:
    """Return *value* if it is None or an integer from 1 to 2^53 - 1; raises `BadRequest` that names *field*."""
    if value is None or (type(value) is int and 1 <= value <= MAX_SAFE_INTEGER):
        return value
    msg = f"'{field}' must be a positive integer, at most {MAX_SAFE_INTEGER}."
    raise BadRequest(msg, field)


def _typed(body: dict[str, Any], field: str, kind: type, wanted: str) -> None:
    value = body.get(field)
    if value is not None and not isinstance(value, kind):
        msg = f"'{field}' must be {wanted}."
        raise BadRequest(msg, field)


def _check_spelling(data: dict[str, Any], fields: Collection[str], where: str = "") -> None:
    """Raise `BadRequest` for a key that is one of *fields* but for its case: servers in Go read it as that one."""
    for key in data.keys() - fields:
        if (right := key.casefold()) in fields:
            msg = f"'{where}{key}' must be spelt '{where}{right}': to some servers it is the same field, to others not."
            raise BadRequest(msg, where + key)


def _is_plain(message: object) -> bool:
    """Whether *message* is a known role's text and no more: most are, and need no closer look."""
    if type(message) is not dict or message.keys() != PLAIN:
        return False
    role = message["role"]
    return type(message["content"]) is str and type(role) is str and role in ROLES


def _check_message(message: object, where: str) -> None:
    if not isinstance(message, dict):
        msg = f"'{where}' must be an object with 'role' and 'content'."
        raise BadRequest(msg, where)
    if not message.keys() <= PARTS:
        _check_spelling(message, PARTS, f"{where}.")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        msg = f"'{where}.role' must be one of {', '.join(sorted(ROLES))}."
        raise BadRequest(msg, f"{where}.role")
    if isinstance(content, str) or (content is None and role == "assistant"):
        return
    if not isinstance(content, list) or not content:
        msg = f"'{where}.content' must be a string or a list of parts."
        raise BadRequest(msg, f"{where}.content")
    for at, part in enumerate(content):
        if not _is_part(part) or not part.keys() <= PARTS:
            _check_part(part, f"{where}.content[{at}]")


def _check_part(part: object, where: str) -> None:
    if isinstance(part, dict):
        _check_spelling(part, PARTS, f"{where}.")
    if not _is_part(part):
        msg = f"'{where}' must be an object with 'type', and a string 'text' if it is a text."
        raise BadRequest(msg, where)


def _is_part(part: object) -> bool:
    if not isinstance(part, dict) or not isinstance(kind := part.get("type"), str):
        return False
    return isinstance(part.get("text", None if kind == "text" else ""), str)
