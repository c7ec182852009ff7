"""What upstream says instead of an answer: error objects, in a wrapper or bare, alone or beside the last of its text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .chunk import decoded

if TYPE_CHECKING:
    from .chunk import Chunk


class MalformedAnswer(str):
    """Something that is no answer at all; upstream may have worked on the prompt all the same."""

    __slots__ = ()


NOT_JSON = MalformedAnswer("the stream has an event that is not JSON")
MODEL_FAILED = {"message": "the model failed", "code": "error"}


def find_error(chunk: Chunk, payload: bytes) -> object:
    """Return the error object in *chunk*, None where it has none; an empty one is none, as OpenAI's SDKs have it."""
    if chunk.error is not None and (said := innermost_error(bytes(chunk.error))):
        return said
    return None if chunk.choices or chunk.usage is not None else _bare_error(payload)


def _bare_error(payload: bytes) -> object:
    try:
        data = decoded(payload)
    except ValueError:
        return None
    named = data.get("code") is not None or data.get("type") is not None
    return data if data.get("object") == "error" or (named and isinstance(data.get("message"), str)) else None


def innermost_error(payload: bytes) -> object:
    """Return the innermost of what an error's bytes say, or their text."""
    try:
        said: object = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return payload.decode("utf-8", "replace")
    if isinstance(said, dict) and said.get("error"):
        return said["error"]
    return said


def without_error(payload: bytes) -> bytes:
    """Return the chunk in *payload* without its error; raises `ValueError` where it cannot be made anew."""
    data = decoded(payload)
    data.pop("error", None)
    return msgspec.json.encode(data)
