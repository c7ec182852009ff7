"""Turn a whole answer into chunks for a client that streams: one for each choice, and one for requested usage."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import msgspec

from policies.api.decoding.choices import own_indexes
from policies.api.event import Event

from .chunk import Choice
from .decoding.own_choice import DECODE_FAULTS, copied_fields, decode_fields, is_object, one_line
from .decoding.value_count import LARGE_EVENT_BYTES, holds_many_values
from .whole_answer import WholeAnswer, first_items

HEAD_FIELDS = ("id", "created", "model")
WRITTEN_STEP_BYTES = 8_192
"""Bytes of choices that are written in one step.  Measured: 6 ms where they are tool calls without a field."""
_NO_JSON = msgspec.Raw()
_EMPTY_OBJECT = msgspec.Raw(b"{}")


class _Parts(msgspec.Struct, gc=False):
    choices: msgspec.Raw = _NO_JSON
    usage: msgspec.Raw = _NO_JSON


class _KnownFields(msgspec.Struct, gc=False):
    """The fields of a choice that are kept where it may have a million others."""

    message: msgspec.Raw = _NO_JSON
    delta: msgspec.Raw = _NO_JSON
    finish_reason: msgspec.Raw = _NO_JSON
    logprobs: msgspec.Raw = _NO_JSON


class _Calls(msgspec.Struct, gc=False):
    tool_calls: msgspec.Raw = _NO_JSON


_decode_calls = msgspec.json.Decoder(_Calls).decode
_decode_parts = msgspec.json.Decoder(_Parts).decode
_decode_known = msgspec.json.Decoder(_KnownFields).decode
_decode_index = msgspec.json.Decoder(int).decode


def number_choices(choices: Sequence[Choice]) -> None:
    """Set the index of each of *choices*, those of one answer, to its position if two have the same index."""
    indexes = own_indexes([choice.index for choice in choices])
    for choice, index in zip(choices, indexes, strict=True):
        choice.index = index


def chunks_steps(events: Sequence[Event], answer: WholeAnswer, *, usage: bool) -> Generator[None, None, list[Event]]:
    """Return the chunks of *answer*, whose choices are *events*, in order; *usage*: add a chunk with its usage.

    Raises `AnswerTooComplex` for a message with more than `MAX_CHOICES` tool calls.
    """
    head = {name: raw for name, raw in copied_fields(answer.payload).items() if name in HEAD_FIELDS}
    head["object"] = msgspec.Raw(b'"chat.completion.chunk"')
    parts = _decode_parts(answer.payload)
    yield
    choices = [raw for raw in first_items(parts.choices) if is_object(raw)]
    written = 0
    for event, raw in zip(events, choices, strict=True):
        written += len(raw)
        if written > WRITTEN_STEP_BYTES:
            written = 0
            yield
        streamed = _streamed(raw, event.index, may_have_many=answer.has_many_values)
        if len(raw) > LARGE_EVENT_BYTES:
            yield
        _write(event, {**head, "choices": [streamed]})
    yield
    chunks = list(events)
    if usage and is_object(parts.usage):
        chunks.append(_write(Event(index=-1), {**head, "choices": [], "usage": parts.usage}))
    return chunks


def _streamed(raw: msgspec.Raw, index: int, *, may_have_many: bool) -> dict[str, object]:
    """Return the choice in *raw* with its message as a `delta`.

    *may_have_many*: it may have more than `MAX_EVENT_VALUES` values; then only known fields are kept.
    """
    if may_have_many and holds_many_values(bytes(raw)):
        known = msgspec.structs.asdict(_decode_known(raw))
        fields: dict[str, msgspec.Raw] = {name: value for name, value in known.items() if len(value)}
    else:
        fields = decode_fields(raw)
    message, delta = fields.pop("message", _NO_JSON), fields.get("delta", _NO_JSON)
    found = next((part for part in (delta, message) if is_object(part)), _EMPTY_OBJECT)
    return {**fields, "index": index, "delta": _delta(found, may_have_many=may_have_many)}


def _delta(message: msgspec.Raw, *, may_have_many: bool) -> object:
    """Return *message* with an index for each tool call, which clients of streams need."""
    calls = first_items(_decode_calls(message).tool_calls)
    if not calls or (may_have_many and holds_many_values(bytes(message))):
        return message
    numbered = [_numbered(call, at) for at, call in enumerate(calls)]
    return {**decode_fields(message), "tool_calls": numbered}


def _numbered(call: msgspec.Raw, at: int) -> object:
    if not is_object(call):
        return call
    fields = decode_fields(call)
    try:
        _decode_index(fields.get("index", _NO_JSON))
    except DECODE_FAULTS:
        return {**fields, "index": at}
    return call


def _write(event: Event, chunk: dict[str, object]) -> Event:
    payload = one_line(msgspec.json.encode(chunk))
    event.payload, event.raw, event.whole = payload, b"data: " + payload + b"\n\n", False
    return event
