"""Check OpenAI requests: the body of a chat completion, as far as limits depend on it, and the path of one model."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from policies.api.call import LIMIT_FIELDS, MANY_FIELDS

from .json_body import BadRequest

MAX_SAFE_INTEGER = 2**53 - 1
MAX_REQUESTED_CHOICES = 128
MESSAGE_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
CHECKED_FIELDS = frozenset(
    {*LIMIT_FIELDS, *MANY_FIELDS, "messages", "model", "models", "stream", "stream_options", "user"}
)
"""Fields that limits depend on: another spelling of one of them is refused."""
COMMON_FIELDS = CHECKED_FIELDS | {"temperature", "top_p", "stop", "tools", "tool_choice", "response_format", "seed"}
"""Fields in lower case whose spelling is not checked, which saves 0.4 µs for a request with three of them."""
STREAM_OPTIONS = frozenset({"include_usage"})
MESSAGE_FIELDS = frozenset({"role", "content", "type", "text"})
"""Checked fields of a message and of its parts."""
COUNT_FIELDS, OPTIONAL_FIELDS = frozenset({*LIMIT_FIELDS, *MANY_FIELDS}), frozenset({"user", "stream_options"})
MODEL_ROUTE, MODEL_PREFIX = "/v1/models/{id}", "/v1/models/"
"""The route of one model, as calls and records name it, and the start of its paths. It is not a path itself."""
ENCODED_SLASH_STATE = "sidecar.encoded_slash"
"""The key in a call's `state` that is set where the client has percent-encoded the slashes of a model's id."""
MAX_MODEL_ID_LENGTH = 256
_ID_SEGMENT = re.compile(r"(?!\.+$)[\w.:@+~,=()\- ]+")
"""A part of an id between slashes.  Parts of dots alone, `%`, `;`, `?`, `#` and `\\` could lead a server to another path."""


def check_openai(body: dict[str, Any]) -> None:
    """Raise `BadRequest` unless *body* is a chat completion request as far as limits depend on it."""
    if not body.keys() <= COMMON_FIELDS:
        _check_spelling(body, CHECKED_FIELDS)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        msg = "'messages' must be a non-empty list of messages."
        raise BadRequest(msg, "messages")
    for at, message in enumerate(messages):
        _check_message(message, at)
    if not COUNT_FIELDS.isdisjoint(body):
        _check_counts(body)
    if not isinstance(body.get("stream", False), bool):
        check_type(body, "stream", bool, "true or false")
    if not isinstance(body.get("model", ""), str):
        check_type(body, "model", str, "a string")
    if not OPTIONAL_FIELDS.isdisjoint(body):
        _check_options(body)


def _check_counts(body: dict[str, Any]) -> None:
    for field in LIMIT_FIELDS:
        positive_integer(body.get(field), field)
    for field in MANY_FIELDS:
        if (positive_integer(body.get(field), field) or 1) > MAX_REQUESTED_CHOICES:
            msg = f"'{field}' must be from 1 to {MAX_REQUESTED_CHOICES}."
            raise BadRequest(msg, field)


def _check_options(body: dict[str, Any]) -> None:
    check_type(body, "user", str, "a string")
    check_type(body, "stream_options", dict, "an object")
    options = body.get("stream_options") or {}
    if not options.keys() <= STREAM_OPTIONS:
        _check_spelling(options, STREAM_OPTIONS, "stream_options.")
    if not isinstance(options.get("include_usage", False), bool | None):
        msg = "'stream_options.include_usage' must be true or false."
        raise BadRequest(msg, "stream_options.include_usage")


def positive_integer(value: object, field: str) -> int | None:
    """Return *value* if it is None or an integer from 1 to 2^53 - 1; raises `BadRequest` for *field* otherwise."""
    if value is None or (type(value) is int and 1 <= value <= MAX_SAFE_INTEGER):
        return value
    msg = f"'{field}' must be a positive integer, at most {MAX_SAFE_INTEGER}."
    raise BadRequest(msg, field)


def check_type(body: dict[str, Any], field: str, expected: type, description: str) -> None:
    """Raise `BadRequest` unless *field* is absent, null or of the *expected* type, which the error calls *description*."""
    value = body.get(field)
    if value is not None and not isinstance(value, expected):
        msg = f"'{field}' must be {description}."
        raise BadRequest(msg, field)


def _check_spelling(data: dict[str, Any], fields: Collection[str], where: str = "") -> None:
    """Raise `BadRequest` for a key that equals one of *fields* except for case: servers in Go accept it as that field."""
    for key in data.keys() - fields:
        if (right := key.casefold()) in fields:
            msg = f"'{where}{key}' must be spelt '{where}{right}': to some servers it is the same field, to others not."
            raise BadRequest(msg, where + key)


def _check_message(message: object, at: int) -> None:
    if not isinstance(message, dict):
        msg = f"'messages[{at}]' must be an object with 'role' and 'content'."
        raise BadRequest(msg, f"messages[{at}]")
    if not message.keys() <= MESSAGE_FIELDS:
        _check_spelling(message, MESSAGE_FIELDS, f"messages[{at}].")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in MESSAGE_ROLES:
        msg = f"'messages[{at}].role' must be one of {', '.join(sorted(MESSAGE_ROLES))}."
        raise BadRequest(msg, f"messages[{at}].role")
    if isinstance(content, str) or (content is None and role == "assistant"):
        return
    if not isinstance(content, list) or not content:
        msg = f"'messages[{at}].content' must be a string or a list of parts."
        raise BadRequest(msg, f"messages[{at}].content")
    for number, part in enumerate(content):
        if not _is_part(part) or not part.keys() <= MESSAGE_FIELDS:
            _check_part(part, f"messages[{at}].content[{number}]")


def _check_part(part: object, where: str) -> None:
    if isinstance(part, dict):
        _check_spelling(part, MESSAGE_FIELDS, f"{where}.")
    if not _is_part(part):
        msg = f"'{where}' must be an object with 'type', and a string 'text' if it is a text."
        raise BadRequest(msg, where)


def _is_part(part: object) -> bool:
    if not isinstance(part, dict) or not isinstance(part_type := part.get("type"), str):
        return False
    return isinstance(part.get("text", None if part_type == "text" else ""), str)


def model_id(path: str) -> str | None:
    """Return the id in *path*, the decoded path of a request for one model; None if no model can have it.

    Ids may have slashes, as `meta-llama/Llama-3.1-8B`, and colons, as `qwen3:8b`.
    """
    name = path.removeprefix(MODEL_PREFIX).removesuffix("/")
    is_id = len(name) <= MAX_MODEL_ID_LENGTH and all(map(_ID_SEGMENT.fullmatch, name.split("/")))
    return name if is_id else None
