"""Count the output of complete items, where no deltas have shown it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from policies.api.decoding.token_counts import DATA_BYTES_PER_TOKEN, least_tokens, streamed_tokens, value_tokens
from sidecar.wire.chunk import decode_object
from sidecar.wire.decoding.own_choice import DECODE_FAULTS, is_object
from sidecar.wire.decoding.value_count import holds_many_values
from sidecar.wire.whole_answer import first_items

PART_LISTS = ("content", "summary")
"""Fields of an item that hold its parts."""
ITEM_STATES = frozenset({"object", "created_by", "encrypted_content", "annotations", "logprobs"})
"""Fields of an item or a part that hold no output of their own. Reasoning that is encrypted is counted by the usage alone."""
SMALL_FIELD_BYTES = 65_536
_NO_JSON = msgspec.Raw()


class ItemFields(msgspec.Struct, gc=False):
    """The parts of an item."""

    content: msgspec.Raw = _NO_JSON
    summary: msgspec.Raw = _NO_JSON


class TextPart(msgspec.Struct, gc=False):
    """A part of an item with text."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None


class Counted(NamedTuple):
    """Output tokens: an estimate, and the fewest that it can be."""

    tokens: int = 0
    least: int = 0

    def plus(self, other: Counted) -> Counted:
        """Return both together."""
        return Counted(self.tokens + other.tokens, self.least + other.least)


_decode_item_fields = msgspec.json.Decoder(ItemFields).decode
decode_text_part = msgspec.json.Decoder(TextPart).decode


def text_of_part(raw: msgspec.Raw) -> str:
    """Return the text of a part; empty if it has none."""
    try:
        part = decode_text_part(raw)
    except DECODE_FAULTS:
        return ""
    return part.text or part.refusal or ""


def counted_text(text: str, *, whole: bool = True) -> Counted:
    """Count *text*, a whole one or one piece of a stream."""
    return Counted(streamed_tokens(text, whole=whole), least_tokens(text, whole=whole)) if text else Counted()


def counted_item(raw: msgspec.Raw | bytes) -> Counted:
    """Count the output in an item. Linear in its size; raises `AnswerTooComplex` for more than 1,024 parts."""
    try:
        fields = _decode_item_fields(raw)
    except DECODE_FAULTS:
        return Counted()
    counted = Counted()
    for part in parts_in(fields):
        counted = counted.plus(counted_part(part))
    return counted.plus(_other_fields(bytes(raw), (*PART_LISTS, *ITEM_STATES)))


def parts_in(fields: ItemFields) -> Iterator[msgspec.Raw]:
    """Yield the parts of an item."""
    for field in PART_LISTS:
        raw = getattr(fields, field)
        if len(raw):
            yield from first_items(raw)


def counted_part(raw: msgspec.Raw) -> Counted:
    """Count the output in one part of an item."""
    text = text_of_part(raw)
    return counted_text(text) if text else _other_fields(bytes(raw), tuple(ITEM_STATES))


def _other_fields(raw: bytes, known: Sequence[str]) -> Counted:
    if holds_many_values(raw):
        return Counted(len(raw) // DATA_BYTES_PER_TOKEN, 1)
    if not is_object(msgspec.Raw(raw)):
        return counted_text(raw.decode("utf-8", "replace")) if raw[:1] == b'"' else Counted()
    try:
        data = decode_object(raw)
    except ValueError:
        return Counted()
    tokens = value_tokens({name: value for name, value in data.items() if name not in known}, whole=True)
    return Counted(tokens, min(tokens, 1))
