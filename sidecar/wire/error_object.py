"""Error objects of an upstream: one set of rules for events of a stream, whole answers and bodies of error responses.

Accepted shapes, all of them seen in the field:

- `{"error": {"message": …, "type": …, "code": …}}`: OpenAI and most others; also with a second `error` inside;
- `{"error": "text"}` (Ollama), `{"error": true, "message": …}`, `{"message": …}`, `{"msg": …}`;
- `{"message": {"detail": …}}` (Mistral), an object in `message`;
- `{"detail": "text"}` and `{"detail": [{"loc": […], "msg": …}, …]}` (FastAPI);
- `[{"error": {…}}]` (Google's OpenAI endpoint) and `{"errors": [{"message": …, "code": …}, …]}` (Cloudflare, watsonx), of
  which the first item counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from .chunk import decode_json, decode_object
from .decoding.own_choice import DECODE_FAULTS, decode_fields, one_line

if TYPE_CHECKING:
    from .chunk import Chunk

MAX_ERROR_NESTING = 4
"""Objects in objects that are searched for a message."""
MAX_ERROR_BYTES = 65_536
"""Bytes of an error response that are read, and of an error object that are decoded. A larger object is read as text."""
MAX_UNREAD_BYTES = 4_096
"""Bytes of a larger error object that are read as text."""
MAX_VALIDATION_FAULTS = 5
"""FastAPI faults that are quoted in one message."""


class PlainText(str):
    """A text that upstream sent where an error object belongs. It is classified, but not shown to clients."""

    __slots__ = ()


class MalformedAnswer(str):
    """Why an answer under status 200 is not an answer; upstream may have processed the prompt all the same."""

    __slots__ = ()


NOT_JSON = MalformedAnswer("the stream has an event that is not JSON")
MODEL_FAILED = {"message": "the model failed", "code": "error"}
"""The error object of a choice that ends with `finish_reason: "error"`."""


def error_object(value: object) -> dict[str, Any]:
    """Return the error object in *value*, decoded JSON of any shape; empty where it has none.

    `message` of the result is always a string.  Other fields are as upstream sent them, and of any type.
    """
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, str):
        return {"message": PlainText(value)}
    if isinstance(value, dict) and (inner := value.get("error")) and isinstance(inner, dict | list):
        value = inner
    elif isinstance(value, dict) and _has_errors(value):
        value = value["errors"][0]
    return _unwrapped(value, MAX_ERROR_NESTING)


def _has_errors(value: dict[str, Any]) -> bool:
    errors = value.get("errors")
    is_listed = isinstance(errors, list) and errors and isinstance(errors[0], dict) and errors[0].get("message")
    return bool(is_listed) and not value.get("message")


def _unwrapped(value: object, depth: int) -> dict[str, Any]:
    """Return *value* with a message: its own, else that of the object or text in `error` or `detail`."""
    if isinstance(value, str):
        return {"message": value}
    if isinstance(value, list):
        faults = "; ".join(filter(None, map(_validation_fault, value[:MAX_VALIDATION_FAULTS])))
        return {"message": faults} if faults else _unwrapped(value[0], depth - 1) if value and depth else {}
    if not isinstance(value, dict):
        return {}
    fields = {key: field for key, field in value.items() if key not in ("error", "detail")}
    for key in ("message", "msg"):
        if (text := value.get(key)) and isinstance(text, str):
            return {**fields, "message": text}
    for key in ("error", "detail") if depth else ():
        inner = value.get(key)
        if isinstance(inner, str | dict | list) and (found := _unwrapped(inner, depth - 1)):
            return fields | found
    if depth and isinstance(inner := value.get("message"), dict | list):
        return {**fields, "message": _unwrapped(inner, depth - 1).get("message", "")}
    return {**fields, "message": ""}


def _validation_fault(fault: object) -> str:
    """Return one of FastAPI's faults as text, without the input that it quotes; empty for anything else."""
    if not isinstance(fault, dict) or not isinstance(fault.get("msg"), str):
        return ""
    path = fault.get("loc")
    return f"{'.'.join(map(str, path))}: {fault['msg']}" if isinstance(path, list) and path else str(fault["msg"])


def decode_error(payload: bytes) -> dict[str, Any] | None:
    """Return the error object in the JSON of *payload*; None where it is not JSON."""
    if len(payload) > MAX_ERROR_BYTES:
        return _unread(payload)
    try:
        return error_object(decode_json(payload))
    except ValueError:
        return None


def error_of_event(payload: bytes) -> dict[str, Any]:
    """Return the error object in the data of an `event: error`; text that is not JSON becomes its message."""
    found = decode_error(payload)
    return {"message": PlainText(payload.decode("utf-8", "replace"))} if found is None else found


def error_of_list(payload: bytes) -> dict[str, Any] | None:
    """Return the error object in a JSON list whose first item has an `error` (Google); None for any other *payload*."""
    if len(payload) > MAX_ERROR_BYTES:
        return None
    try:
        items = decode_json(payload)
    except ValueError:
        return None
    is_error = isinstance(items, list) and items and isinstance(items[0], dict) and items[0].get("error")
    return error_object(items) if is_error else None


def unreadable_event(payload: bytes, name: str) -> dict[str, Any] | MalformedAnswer:
    """Return why the event *name* with *payload*, which is no object, ends its stream: its error, or that it is not JSON."""
    found = error_of_event(payload) if name == "error" else error_of_list(payload)
    return NOT_JSON if found is None else found


def find_error(chunk: Chunk, payload: bytes) -> dict[str, Any] | None:
    """Return the error object in *chunk*, whose bytes are *payload*; None where it is not an error.

    An empty or false `error` is none, as in OpenAI's SDKs.  An object without `error` may be an error only if it has
    neither choices nor usage.  It is one with `object: "error"`, a message beside a code or a type, a list `errors`, or
    `detail` as its only field.  One of more than 64 kB is not decoded.
    """
    if chunk.error is not None and len(chunk.error) > MAX_ERROR_BYTES:
        return _unread(bytes(chunk.error))
    if chunk.error is not None and (error := _error_value(bytes(chunk.error))):
        return error_object({"error": error} if isinstance(error, str | dict | list) else _fields(payload))
    if chunk.choices or chunk.usage is not None:
        return None
    data = _fields(payload)
    is_named = data.get("code") is not None or data.get("type") is not None
    has_message = is_named and isinstance(data.get("message"), str)
    is_error = has_message or data.get("object") == "error" or data.keys() == {"detail"} or _has_errors(data)
    return error_object(data) if is_error else None


def _unread(payload: bytes) -> dict[str, Any]:
    return {"message": PlainText(payload[:MAX_UNREAD_BYTES].decode("utf-8", "replace"))}


def _error_value(payload: bytes) -> object:
    try:
        return decode_json(payload)
    except ValueError:  # for example a number out of range
        return payload.decode("utf-8", "replace")


def _fields(payload: bytes) -> dict[str, Any]:
    if len(payload) > MAX_ERROR_BYTES:
        return {}
    try:
        return decode_object(payload)
    except ValueError:
        return {}


_CHOICES_DECODER = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def without_error(payload: bytes) -> bytes:
    """Return the chunk in *payload* without its error and those of its choices (OpenRouter).

    They are not redacted.  Raises `ValueError` where the chunk cannot be encoded again.
    """
    try:
        fields = decode_fields(payload)
        if payload.count(b'"error"') > ("error" in fields) and (choices := fields.get("choices")) is not None:
            fields["choices"] = _without_errors(choices)
    except DECODE_FAULTS as error:
        msg = "not a JSON object"
        raise ValueError(msg) from error
    fields.pop("error", None)
    return one_line(msgspec.json.encode(fields))


def _without_errors(choices: msgspec.Raw) -> msgspec.Raw:
    parts = _CHOICES_DECODER.decode(choices)
    for part in parts:
        part.pop("error", None)
    return msgspec.Raw(msgspec.json.encode(parts))
