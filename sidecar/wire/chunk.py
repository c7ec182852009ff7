"""Decode what upstream sends, chunks of a stream and whole answers: only the fields that are used, of any type."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import msgspec

from policies.api.event import Event

from .usage_fields import Reported, read_report

MAX_CHOICES = 1_024
"""A choice with an index from here on is counted as choice 0."""
_EMPTY_JSON_BYTES = b"[]{}, \t\r\nnul"
"""Bytes of JSON without content, such as `[{}]` or `[null]`."""


class Delta(msgspec.Struct, gc=False):
    """Part of an answer (`delta`), or all of it (`message`)."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: msgspec.Raw | None = None
    function_call: msgspec.Raw | None = None
    audio: msgspec.Raw | None = None

    @property
    def has_tool(self) -> bool:
        """Whether it has a tool call or audio with content."""
        return has_content(self.tool_calls) or has_content(self.function_call) or has_content(self.audio)


class Choice(msgspec.Struct, gc=False):
    """One of the `n` answers."""

    delta: Delta | None = None
    message: Delta | None = None
    index: Annotated[int, msgspec.Meta(ge=0, lt=MAX_CHOICES)] = 0
    finish_reason: str | None = None


class Chunk(msgspec.Struct, gc=False):
    """One JSON object from upstream."""

    choices: list[Choice] | None = None
    usage: Reported | None = None
    error: msgspec.Raw | None = None


Item: TypeAlias = "tuple[Choice | None, bytes, bytes]"
"""An event that is not built yet: its choice (None for a frame without one), its own bytes, its frame's JSON."""

EMPTY_DELTA = Delta()
decode_chunk = msgspec.json.Decoder(Chunk).decode
"""Decode one chunk.  A builtin, because it is called for every token; `read_repaired` reads what it refuses."""


def has_content(raw: msgspec.Raw | None) -> bool:
    """Whether the JSON in *raw* holds anything: `[{}]` and `[null]` do not."""
    return raw is not None and bytes(raw).strip(_EMPTY_JSON_BYTES) != b""


def read_chunk(payload: bytes) -> Chunk:
    """Return the chunk in *payload*; a field of an unexpected type is read as absent.

    Raises `ValueError` unless *payload* is a JSON object.
    """
    try:
        return decode_chunk(payload)
    except msgspec.ValidationError:
        return _read_leniently(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        msg = "not JSON"
        raise ValueError(msg) from error


def read_repaired(payload: bytes) -> tuple[Chunk, bytes]:
    """Return the chunk in *payload*, and *payload*, with lone surrogates replaced.

    Raises `ValueError` unless *payload* is a JSON object.
    """
    try:
        return read_chunk(payload), payload
    except ValueError:
        payload = _without_lone_surrogates(payload)
    return read_chunk(payload), payload


def _without_lone_surrogates(payload: bytes) -> bytes:
    """Return the JSON in *payload* with U+FFFD for lone surrogates, as from a server that splits an emoji over two events.

    Raises `ValueError` if it is not JSON for another reason.
    """
    if b"\\ud" not in payload.lower():
        msg = "not JSON"
        raise ValueError(msg)
    try:
        text = json.dumps(json.loads(payload), ensure_ascii=False)
    except RecursionError as error:
        msg = "nested too deeply"
        raise ValueError(msg) from error
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def decode_json(payload: bytes) -> object:
    """Return the JSON value in *payload*; raises `ValueError` unless it is JSON that can be decoded."""
    try:
        value: object = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        msg = "not JSON"
        raise ValueError(msg) from error
    return value


def decode_object(payload: bytes) -> dict[str, Any]:
    """Return the JSON object in *payload* with all its fields; raises `ValueError` for anything else."""
    data = decode_json(payload)
    if not isinstance(data, dict):
        msg = "not a JSON object"
        raise ValueError(msg)  # noqa: TRY004  # callers handle it like invalid JSON
    return data


def _read_leniently(payload: bytes) -> Chunk:
    data = decode_object(payload)
    error = data.get("error")
    return Chunk(
        choices=[_choice(each) for each in _list(data.get("choices")) if isinstance(each, dict)],
        usage=read_report(data.get("usage")),
        error=None if error is None else msgspec.Raw(msgspec.json.encode(error)),
    )


def _choice(data: dict[str, Any]) -> Choice:
    index, finish = data.get("index"), data.get("finish_reason")
    return Choice(
        delta=_delta(data.get("delta")),
        message=_delta(data.get("message")),
        index=index if type(index) is int and 0 <= index < MAX_CHOICES else 0,
        finish_reason=finish if isinstance(finish, str) else None,
    )


def _delta(data: object) -> Delta | None:
    if not isinstance(data, dict):
        return None
    return Delta(
        content=_text(data.get("content")),
        reasoning=_text(data.get("reasoning")),
        reasoning_content=_text(data.get("reasoning_content")),
        refusal=_text(data.get("refusal")),
        tool_calls=_raw(data.get("tool_calls")),
        function_call=_raw(data.get("function_call")),
        audio=_raw(data.get("audio")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _raw(value: object) -> msgspec.Raw | None:
    return msgspec.Raw(msgspec.json.encode(value)) if value else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def event_of(choice: Choice, raw: bytes, payload: bytes) -> Event:
    """Return the event of *choice*, which is a piece of a stream or a whole answer."""
    part = choice.delta
    whole = part is None and choice.message is not None
    if part is None:
        part = choice.message or EMPTY_DELTA
    return Event(
        raw=raw,
        payload=payload,
        text=part.content or part.refusal or "",
        reasoning=part.reasoning or part.reasoning_content or "",
        tool=(part.tool_calls is not None or part.function_call is not None or part.audio is not None)
        and part.has_tool,
        finish=choice.finish_reason or None,
        index=choice.index,
        whole=whole,
    )


def events_of(items: Sequence[Item]) -> list[Event]:
    """Return the events of *items*, in order."""
    return [
        Event(raw=raw, payload=payload, index=-1) if choice is None else event_of(choice, raw, payload)
        for choice, raw, payload in items
    ]
