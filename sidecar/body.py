"""Bytes of a request to a JSON object that every server can read; nothing here knows what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

MAX_DEPTH = 100
MANY_BRACKETS = 64

_DECODER = msgspec.json.Decoder()


class BadRequest(Exception):
    """A request that is not as specified: *message* says what is wrong and what would be right, *param* where."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.param = message, param


def json_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in *raw*.

    Raises `BadRequest` for anything else: no body, bad UTF-8, lone surrogates, NUL, more than 100 levels, another type.
    """
    if not raw.strip():
        msg = "The request has no body. Send a JSON object."
        raise BadRequest(msg)
    try:
        value = _DECODER.decode(raw)
    except RecursionError:
        raise _too_deep() from None
    except UnicodeDecodeError:
        msg = "The body is not valid UTF-8."
        raise BadRequest(msg) from None
    except msgspec.MsgspecError as error:
        msg = f"The body is not valid JSON: {error}"
        raise BadRequest(msg) from None
    if not isinstance(value, dict):
        msg = "The body is not a JSON object."
        raise BadRequest(msg)
    if raw.count(b"{") + raw.count(b"[") > MANY_BRACKETS:
        _check_depth(value)
    if b"\\u0000" in raw and any("\0" in text for text in _strings(value)):
        msg = "The body has a NUL character (\\u0000) in a text. Remove it: servers cut texts there."
        raise BadRequest(msg)
    return value


def _too_deep() -> BadRequest:
    return BadRequest(f"The body is nested more than {MAX_DEPTH} levels deep.")


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise _too_deep()


def _inside(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        return (inner for inner in value.values() if isinstance(inner, dict | list))
    if isinstance(value, list):
        return (inner for inner in value if isinstance(inner, dict | list))
    return iter(())


def _strings(value: object) -> Iterator[str]:
    todo = [value]
    while todo:
        match todo.pop():
            case str() as text:
                yield text
            case dict() as mapping:
                todo += mapping.keys()
                todo += mapping.values()
            case list() as items:
                todo += items
