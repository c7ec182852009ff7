"""Decode what upstream sends on `/completions`: chunks and whole answers have one shape, with `text` in each choice."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from policies.api.decoding.choices import MAX_CHOICES, choice_index
from sidecar.wire.chunk import Choice, Chunk, Delta, choice_of_object, decode_object
from sidecar.wire.decoding.own_choice import DECODE_FAULTS, is_object
from sidecar.wire.usage_fields import Reported, read_report
from sidecar.wire.whole_answer import first_items


class _TextChoice(msgspec.Struct, gc=False):
    text: str | None = None
    index: Annotated[int, msgspec.Meta(ge=0, lt=MAX_CHOICES)] = 0
    finish_reason: str | None = None
    delta: Delta | None = None
    """That of a server that streams in the form of chat completions here."""


class _TextChunk(msgspec.Struct, gc=False):
    choices: list[_TextChoice] | None = None
    usage: Reported | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Text(msgspec.Struct, gc=False):
    text: str | None = None


class _Texts(msgspec.Struct, gc=False):
    choices: list[_Text] = []


class _Choices(msgspec.Struct, gc=False):
    choices: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_TextChunk).decode
_decode_texts = msgspec.json.Decoder(_Texts).decode
_decode_choices = msgspec.json.Decoder(_Choices).decode
_decode_text = msgspec.json.Decoder(_Text).decode


def decode_text_chunk(payload: bytes) -> Chunk:
    """Return the chunk in *payload*, with each text as the content of a `delta`. Raises an error of msgspec."""
    found = _decode(payload)
    choices = None if found.choices is None else [_choice(each) for each in found.choices]
    return Chunk(choices, found.usage, found.error if len(found.error) else None)


def _choice(found: _TextChoice) -> Choice:
    delta = Delta(content=found.text) if found.text is not None or found.delta is None else found.delta
    return Choice(delta=delta, index=found.index, finish_reason=found.finish_reason)


def read_text_chunk(payload: bytes) -> Chunk:
    """Return the chunk in *payload*; a field of an unexpected type is read as absent.

    Raises `ValueError` unless it is a JSON object.
    """
    try:
        return decode_text_chunk(payload)
    except msgspec.ValidationError:
        data = decode_object(payload)
    except (msgspec.DecodeError, RecursionError) as fault:
        msg = "not JSON"
        raise ValueError(msg) from fault
    listed, error = data.get("choices"), data.get("error")
    return Chunk(
        choices=[
            _choice_of_object(each) for each in (listed if isinstance(listed, list) else ()) if isinstance(each, dict)
        ],
        usage=read_report(data.get("usage")),
        error=None if error is None else msgspec.Raw(msgspec.json.encode(error)),
    )


def _choice_of_object(data: dict[str, Any]) -> Choice:
    text, choice = data.get("text"), choice_of_object(data)
    if isinstance(text, str) or choice.delta is None:
        choice.delta = Delta(content=text if isinstance(text, str) else None)
    choice.index = choice_index(data.get("index"))
    return choice


def texts_in(payload: bytes) -> list[str | None]:
    """Return the text of each choice of the whole answer *payload*, in order; None for one of another type.

    No other value is created, however many there are. Raises `AnswerTooComplex` beyond `MAX_CHOICES`.
    """
    try:
        return [each.text for each in _decode_texts(payload).choices]
    except DECODE_FAULTS:
        pass
    try:
        listed = first_items(_decode_choices(payload).choices)
    except DECODE_FAULTS:
        return []
    return [text_of(each) for each in listed if is_object(each)]


def text_of(choice: msgspec.Raw) -> str | None:
    """Return the text of *choice*, a JSON object; None for a value of another type."""
    try:
        return _decode_text(choice).text
    except DECODE_FAULTS:
        return None
