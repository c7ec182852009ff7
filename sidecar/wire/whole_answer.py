"""Read an answer that came as one JSON object, in steps, without an object for each of its values.

An answer has many values if it has log probabilities: 150 for each token with `top_logprobs = 20`. They stay JSON.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import cache
from typing import Any, NamedTuple

import msgspec

from policies.api.decoding.choices import MAX_CHOICES

from .chunk import Choice, Chunk, choice_of_object, decode_json, read_repaired
from .decoding.own_choice import DECODE_FAULTS, is_object
from .decoding.repair import repaired
from .decoding.steps import utf8_steps, values_steps
from .decoding.value_count import LARGE_EVENT_BYTES, MAX_EVENT_VALUES, holds_many_values
from .usage_fields import Reported, read_report

MAX_ANSWER_VALUES = 1_000_000
"""JSON values of one answer; 6,000 tokens with 20 log probabilities each have 900,000. Measured: 20 ms to skip as many."""
MAX_USAGE_BYTES = 65_536

_NO_JSON = msgspec.Raw()


class AnswerTooComplex(ValueError):
    """An answer has more values or choices than are read."""


class WholeAnswer(NamedTuple):
    """An answer: what is used of it, its JSON, and its bytes for clients, which may have `NaN`.

    *has_many_values*: it has more than `MAX_EVENT_VALUES`.
    """

    chunk: Chunk
    payload: bytes
    body: bytes
    has_many_values: bool = False


class _Parts(msgspec.Struct, gc=False):
    choices: msgspec.Raw = _NO_JSON
    usage: msgspec.Raw = _NO_JSON
    error: msgspec.Raw = _NO_JSON


class _ChoiceFields(msgspec.Struct, gc=False):
    """The fields of a choice that are used."""

    delta: msgspec.Raw = _NO_JSON
    message: msgspec.Raw = _NO_JSON
    index: msgspec.Raw = _NO_JSON
    finish_reason: msgspec.Raw = _NO_JSON


_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_choice_fields = msgspec.json.Decoder(_ChoiceFields).decode
_decode_parts = msgspec.json.Decoder(_Parts).decode
_decode_choice = msgspec.json.Decoder(Choice).decode
_decode_usage = msgspec.json.Decoder(Reported).decode


def whole_answer_steps(body: bytes) -> Generator[None, None, WholeAnswer]:
    """Read *body*, with U+FFFD for bad UTF-8.  Raises `AnswerTooComplex`, or `ValueError` unless it is a JSON object."""
    if not body.isascii():
        body = yield from utf8_steps(body)
    if len(body) <= LARGE_EVENT_BYTES:
        return _answer(*read_repaired(body), body)
    values = yield from values_steps(body, MAX_ANSWER_VALUES)
    if values > MAX_ANSWER_VALUES:
        msg = f"the answer has more than {MAX_ANSWER_VALUES} values"
        raise AnswerTooComplex(msg)
    yield
    if values <= MAX_EVENT_VALUES:
        answer = _answer(*read_repaired(body), body)
        yield
        return answer
    parts, payload = repaired(body, _parts)
    yield
    choices = []
    for raw in first_items(parts.choices):
        if is_object(raw):
            choices.append(_choice(raw))
            if len(raw) > LARGE_EVENT_BYTES:
                yield
    error = parts.error if len(parts.error) else None
    return WholeAnswer(Chunk(choices, _usage(parts.usage), error), payload, body, has_many_values=True)


def _answer(chunk: Chunk, payload: bytes, body: bytes) -> WholeAnswer:
    if chunk.choices and len(chunk.choices) > MAX_CHOICES:
        raise _too_many_choices()
    return WholeAnswer(chunk, payload, body)


def _too_many_choices() -> AnswerTooComplex:
    return AnswerTooComplex(f"the answer has more than {MAX_CHOICES} choices, or tool calls in one message")


def _parts(body: bytes) -> _Parts:
    try:
        return _decode_parts(body)
    except DECODE_FAULTS as error:
        msg = "not a JSON object"
        raise ValueError(msg) from error


def _choice(raw: msgspec.Raw) -> Choice:
    try:
        return _decode_choice(raw)
    except DECODE_FAULTS:
        found = msgspec.structs.asdict(_decode_choice_fields(raw))
    parts = {name: bytes(part) for name, part in found.items() if len(part)}
    if any(map(holds_many_values, parts.values())):
        msg = "a choice of unexpected types has too many values"
        raise AnswerTooComplex(msg)
    return choice_of_object({name: decode_json(part) for name, part in parts.items()})


def _usage(raw: msgspec.Raw) -> Reported | None:
    try:
        return _decode_usage(raw) if is_object(raw) else None
    except DECODE_FAULTS:
        return read_report(decode_json(bytes(raw))) if len(raw) <= MAX_USAGE_BYTES else None


def first_items(raw: msgspec.Raw) -> Sequence[msgspec.Raw]:
    """Return the items of the JSON list *raw*, empty for anything else; raises `AnswerTooComplex` beyond `MAX_CHOICES`.

    No object is created for items beyond these, however many there are.
    """
    try:
        if len(raw) <= MAX_CHOICES:  # too short for as many items
            return _decode_items(raw)
        found = _items_decoder().decode(raw)
    except DECODE_FAULTS:
        return []
    items = [item for name in found.__struct_fields__ if len(item := getattr(found, name))]
    if len(items) > MAX_CHOICES:
        raise _too_many_choices()
    return items


@cache
def _items_decoder() -> msgspec.json.Decoder[Any]:
    """Return the decoder of a list as an object with one field for each item; msgspec skips further items."""
    fields = [(f"item_{at}", msgspec.Raw, _NO_JSON) for at in range(MAX_CHOICES + 1)]
    return msgspec.json.Decoder(msgspec.defstruct("Items", fields, array_like=True))
