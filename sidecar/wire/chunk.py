"""Decode what upstream sends, chunks of a stream and whole answers: only the fields that are used, of any type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec

from policies.api.decoding.choices import MAX_CHOICES, choice_index, content_texts, other_tokens, reasoning_text
from policies.api.decoding.token_counts import DATA_BYTES_PER_TOKEN
from policies.api.decoding.values import decode_number, decode_values
from policies.api.event import Event

from .decoding.own_choice import own_payloads
from .decoding.repair import repaired
from .decoding.value_count import holds_many_values
from .usage_fields import Reported, read_report

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


class _Fields(msgspec.Struct, gc=False):
    delta: dict[str, Any] | None = None
    message: dict[str, Any] | None = None


class _AllFields(msgspec.Struct, gc=False):
    choices: list[_Fields] = []


class _RawFields(msgspec.Struct, gc=False):
    delta: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()


class _AllRawFields(msgspec.Struct, gc=False):
    choices: list[_RawFields] = []


Item: TypeAlias = "tuple[Choice | list[Choice] | None, bytes, bytes]"
"""Events that are not built yet: a choice, or all choices of a frame with several, or None for a frame without one; the
frame's bytes, empty for several choices; its JSON."""

EMPTY_DELTA = Delta()
decode_chunk = msgspec.json.Decoder(Chunk).decode
"""Decode one chunk.  A builtin, because it is called for every token; `read_repaired` reads what it refuses."""
_decode_raw_fields = msgspec.json.Decoder(_AllRawFields).decode
_decode_all_fields = msgspec.json.Decoder(_AllFields, float_hook=decode_number).decode


def other_outputs(payload: bytes, *, many: bool) -> list[int]:
    """Return for each choice of the chunk in *payload* the tokens in fields that `Delta` lacks; 0 if all are empty.

    Call it only if `Delta` has found no output: the same output is often in two fields.  Empty if *payload* cannot be
    decoded.  *many*: it has more than `MAX_EVENT_VALUES` values, as only a whole answer can; they count by their size.
    """
    if many:
        return _outputs_of_many(payload)
    try:
        choices = _decode_all_fields(payload).choices
    except (msgspec.MsgspecError, RecursionError):
        try:
            found = [each for each in _list(decode_object(payload).get("choices")) if isinstance(each, dict)]
        except ValueError:  # for example a number out of range
            return []
        choices = [_Fields(_object(each.get("delta")), _object(each.get("message"))) for each in found]
    return [_other_tokens(fields) for fields in choices]


def _outputs_of_many(payload: bytes) -> list[int]:
    """Return what `other_outputs` does for a whole answer with many values, which has few choices."""
    try:
        parts = [each.delta if len(each.delta) else each.message for each in _decode_raw_fields(payload).choices]
    except (msgspec.MsgspecError, RecursionError):
        return [len(payload) // DATA_BYTES_PER_TOKEN]
    return [_tokens_of_raw(bytes(part)) for part in parts]


def _tokens_of_raw(part: bytes) -> int:
    if holds_many_values(part):
        return len(part) // DATA_BYTES_PER_TOKEN
    fields = decode_json(part) if part else None
    return other_tokens(fields, whole=True) if isinstance(fields, dict) else 0


def _other_tokens(fields: _Fields) -> int:
    if (part := fields.delta) is not None:
        return other_tokens(part, whole=False) if part else 0
    return other_tokens(fields.message, whole=True) if fields.message else 0


def has_content(raw: msgspec.Raw | None) -> bool:
    """Whether the JSON in *raw* holds anything: `[{}]` and `[null]` do not."""
    return raw is not None and bytes(raw).strip(_EMPTY_JSON_BYTES) != b""


def read_chunk(payload: bytes) -> Chunk:
    """Return the chunk in *payload*; a field of an unexpected type is read as absent.

    *payload* has at most `MAX_EVENT_VALUES` values.  Raises `ValueError` unless it is a JSON object.
    """
    try:
        return decode_chunk(payload)
    except msgspec.ValidationError:
        return _read_leniently(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        msg = "not JSON"
        raise ValueError(msg) from error


def read_repaired(payload: bytes) -> tuple[Chunk, bytes]:
    """Return the chunk in *payload*, and *payload* as valid JSON.

    Lone surrogates are replaced, and `NaN` and `Infinity`, which servers in Python write as log probabilities, become
    null (sgl-project/sglang#4097).  Raises `ValueError` unless *payload* is a JSON object otherwise, and for one of more
    than 1 MB that would have to be repaired.
    """
    return repaired(payload, read_chunk)


def decode_json(payload: bytes) -> object:
    """Return the JSON value in *payload*; raises `ValueError` unless it is JSON that can be decoded."""
    try:
        value: object = decode_values(payload)
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
    """Return the chunk in *payload*, of whose values the types are unexpected."""
    data = decode_object(payload)
    error = data.get("error")
    return Chunk(
        choices=[choice_of_object(each) for each in _list(data.get("choices")) if isinstance(each, dict)],
        usage=read_report(data.get("usage")),
        error=None if error is None else msgspec.Raw(msgspec.json.encode(error)),
    )


def choice_of_object(data: dict[str, Any]) -> Choice:
    """Return the choice in decoded JSON; a field of an unexpected type is read as absent."""
    finish = data.get("finish_reason")
    return Choice(
        delta=_delta(data.get("delta")),
        message=_delta(data.get("message")),
        index=choice_index(data.get("index")),
        finish_reason=finish if isinstance(finish, str) else None,
    )


def _delta(data: object) -> Delta | None:
    if not isinstance(data, dict):
        return None
    content, thoughts = content_texts(data.get("content"))
    return Delta(
        content=content or None,
        reasoning=reasoning_text(data.get("reasoning")) or thoughts or None,
        reasoning_content=reasoning_text(data.get("reasoning_content")) or None,
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


def _object(value: object) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


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
    events: list[Event] = []
    for choice, raw, payload in items:
        if type(choice) is Choice:
            events.append(event_of(choice, raw, payload))
        elif isinstance(choice, list):
            own = own_payloads([each.index for each in choice], payload)
            events += [event_of(each, b"", own_payload) for each, own_payload in zip(choice, own, strict=True)]
        else:
            events.append(Event(raw=raw, payload=payload, index=-1))
    return events


class ChunkForm(NamedTuple):
    """How an API writes its chunks.

    *decode* reads one, and raises an error of msgspec for what *read* may still read, with fields of unexpected types;
    *read* raises `ValueError`. *events_of* makes events of what was read.
    """

    decode: Callable[[bytes], Chunk]
    read: Callable[[bytes], Chunk]
    events_of: Callable[[Sequence[Item]], list[Event]]


CHAT_CHUNKS = ChunkForm(decode_chunk, read_chunk, events_of)
