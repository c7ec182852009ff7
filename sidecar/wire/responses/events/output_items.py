"""Count the output of complete items, where no deltas have shown it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from policies.api.decoding.token_counts import DATA_BYTES_PER_TOKEN, least_tokens, streamed_tokens, value_tokens
from sidecar.wire.chunk import decode_json
from sidecar.wire.decoding.own_choice import DECODE_FAULTS, decode_fields
from sidecar.wire.decoding.value_count import holds_many_values
from sidecar.wire.output_tokens import NO_OUTPUT, CountedOutput
from sidecar.wire.whole_answer import AnswerTooComplex, first_items

from .response_event import SUMMARY_NAME, TYPE_PREFIX

PART_LISTS = ("content", "summary")
"""Fields of an item that hold its parts."""
ITEM_STATES = frozenset({"object", "created_by", "encrypted_content", "annotations", "logprobs"})
"""Fields of an item or a part that hold no output of their own. Reasoning that is encrypted is counted by the usage alone."""
TEXT_KINDS = frozenset({"output_text", "refusal", "reasoning_text"})
"""Types of parts of the content whose text is streamed."""
_NO_JSON = msgspec.Raw()


class ItemFields(msgspec.Struct, gc=False):
    """The parts of an item."""

    content: msgspec.Raw = _NO_JSON
    summary: msgspec.Raw = _NO_JSON


class _Output(msgspec.Struct, gc=False):
    output: msgspec.Raw = _NO_JSON


class TextPart(msgspec.Struct, gc=False):
    """A part of an item with text."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None


_decode_item_fields = msgspec.json.Decoder(ItemFields).decode
_decode_output = msgspec.json.Decoder(_Output).decode
decode_text_part = msgspec.json.Decoder(TextPart).decode


def text_of_part(raw: msgspec.Raw) -> str:
    """Return the text of a part; empty if it has none."""
    try:
        part = decode_text_part(raw)
    except DECODE_FAULTS:
        return ""
    return part.text or part.refusal or ""


class ItemText(NamedTuple):
    """A text of an item: the name of its deltas, its place, and itself."""

    name: str
    place: int
    text: str


def item_texts(raw: msgspec.Raw) -> list[ItemText]:
    """Return the texts of the item in *raw*; none of one with more than 1,024 parts. Nothing else of it is decoded."""
    found: list[ItemText] = []
    try:
        fields = _decode_item_fields(raw)
        for name in PART_LISTS:
            listed = getattr(fields, name)
            for at, each in enumerate(first_items(listed) if len(listed) else ()):
                if kind := _part_name(each, name):
                    found.append(ItemText(kind, at, text_of_part(each)))  # easier to read
    except (AnswerTooComplex, *DECODE_FAULTS):
        return found
    return found


def output_items(response: msgspec.Raw) -> Sequence[msgspec.Raw]:
    """Return the items of a response object; none if it has no list of at most 1,024."""
    try:
        output = _decode_output(response).output
        return first_items(output) if len(output) else ()
    except (AnswerTooComplex, *DECODE_FAULTS):
        return ()


def _part_name(raw: msgspec.Raw, field: str) -> str:
    if field == "summary":
        return SUMMARY_NAME
    try:
        kind = decode_text_part(raw).type
    except DECODE_FAULTS:
        return ""
    return f"{TYPE_PREFIX}{kind}" if kind in TEXT_KINDS else ""


def counted_text(text: str, *, whole: bool = True) -> CountedOutput:
    """Count *text*, a whole one or one piece of a stream."""
    return CountedOutput(streamed_tokens(text, whole=whole), least_tokens(text, whole=whole)) if text else NO_OUTPUT


def counted_item(raw: msgspec.Raw | bytes) -> CountedOutput:
    """Count the output in an item. Linear in its size; raises `AnswerTooComplex` for more than 1,024 parts."""
    try:
        fields = _decode_item_fields(raw)
    except DECODE_FAULTS:
        return NO_OUTPUT
    counted = NO_OUTPUT
    for part in parts_in(fields):
        counted = counted.plus(counted_part(part))
    return counted.plus(_other_fields(bytes(raw), (*PART_LISTS, *ITEM_STATES)))


def parts_in(fields: ItemFields) -> Iterator[msgspec.Raw]:
    """Yield the parts of an item."""
    for field in PART_LISTS:
        raw = getattr(fields, field)
        if len(raw):
            yield from first_items(raw)


def counted_part(raw: msgspec.Raw) -> CountedOutput:
    """Count the output in one part of an item."""
    text = text_of_part(raw)
    return counted_text(text) if text else _other_fields(bytes(raw), tuple(ITEM_STATES))


def _other_fields(raw: bytes, known: Sequence[str]) -> CountedOutput:
    """Count the fields of an object that are not *known*; a field with many values counts by its size."""
    try:
        fields = decode_fields(raw)
    except DECODE_FAULTS:
        return counted_text(raw.decode("utf-8", "replace")) if raw[:1] == b'"' else NO_OUTPUT
    tokens = 0
    for name, value in fields.items():
        if name in known:
            continue
        each = bytes(value)
        try:
            many = holds_many_values(each)
            tokens += len(each) // DATA_BYTES_PER_TOKEN if many else value_tokens({name: decode_json(each)}, whole=True)
        except ValueError:
            continue
    return CountedOutput(tokens, min(tokens, 1))
