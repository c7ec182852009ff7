"""Keep what a stream of the Responses API has shown so far, so that its end can be written before upstream has ended it."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

import msgspec

from sidecar.wire.decoding.own_choice import DECODE_FAULTS

from .response_event import ADDED_ITEM, DELTA_ENDING, DONE_ENDING, DONE_ITEM, Key, PartKind, ResponseEvent, kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_KEPT_CHARACTERS = 4_194_304
"""Characters of text, and bytes of items, that are kept of one answer. An item that exceeds them is left out of the end.

A text is kept in up to four bytes a character, and written four times at an early end. Measured: 90 ms.
"""
MAX_KEPT_PARTS = 4_096
"""Items and parts that are kept of one answer."""


class OutlinePart(msgspec.Struct, eq=False, kw_only=True):
    """One text of an item: of a part of its content, of its reasoning, or the arguments of a call."""

    name: str
    """The type of its deltas without the ending: "response.output_text"."""
    item_key: Key
    place: int
    fields: dict[str, str | int]
    """The fields that name its place in events."""
    delta_type: str
    kind: PartKind
    output_index: int | None
    item_id: str | None
    content_index: int | None
    summary_index: int | None
    text: StringIO = msgspec.field(default_factory=StringIO)
    is_whole: bool = True
    """Whether all of its text was kept."""
    is_announced: bool = False
    """Whether an event has added it as a part, which another event must close."""
    is_text_done: bool = False
    is_closed: bool = False


class OutlineItem(msgspec.Struct, eq=False):
    """One output item, as events have shown it."""

    key: Key
    output_index: int | None = None
    added: bytes = b""
    """Its JSON when it began; empty where no event has announced it."""
    done: bytes = b""
    """Its JSON when it was complete."""


class _Identified(msgspec.Struct, gc=False):
    id: str | None = None


_decode_identified = msgspec.json.Decoder(_Identified).decode


class Outline:
    """What a client has got of one answer: the response object, its items, and their texts, up to *room* characters."""

    __slots__ = ("_by_key", "_current", "_room", "items", "parts", "response", "sequence")

    def __init__(self, room: int = MAX_KEPT_CHARACTERS) -> None:
        self.response = b""
        """The JSON of the response object of the first event that has one."""
        self.sequence = -1
        """The last `sequence_number`; -1 where upstream sends none."""
        self.items: dict[Key, OutlineItem] = {}
        self.parts: dict[tuple[Key, str, int], OutlinePart] = {}
        self._by_key: dict[Key, list[OutlinePart]] = {}
        self._current: OutlinePart | None = None
        self._room = room

    def add_delta(self, event: ResponseEvent, delta: str) -> OutlinePart | None:
        """Note *event*, which adds *delta* to a part; return the part. Called for each token."""
        part = self._current
        if (
            part is None
            or event.type != part.delta_type
            or event.output_index != part.output_index
            or event.item_id != part.item_id
            or event.content_index != part.content_index
            or event.summary_index != part.summary_index
        ):
            if (part := self.part(event, event.type.removesuffix(DELTA_ENDING), adds=True)) is None:
                return None
            self._current = part
        if event.sequence_number is not None:
            self.sequence = event.sequence_number
        self._room -= len(delta)
        if self._room >= 0:
            part.text.write(delta)
        else:
            part.is_whole = False
        return part

    def add_other(self, event: ResponseEvent) -> None:
        """Note any other event."""
        name = event.type
        if event.sequence_number is not None:
            self.sequence = event.sequence_number
        if event.response is not None and not self.response and self._takes(event.response):
            self.response = bytes(event.response)
        if name in (ADDED_ITEM, DONE_ITEM) and event.item is not None:
            self._add_item(event, event.item)
        elif name.endswith("_part.added"):
            for part_name in part_names(name, event.part):
                if (part := self.part(event, part_name, adds=True)) is not None:
                    part.is_announced = True
        elif name.endswith("_part.done"):
            for part_name in part_names(name, event.part):
                if (part := self.part(event, part_name)) is not None:
                    part.is_closed = part.is_text_done = True
        elif name.endswith(DONE_ENDING) and (part := self.part(event, name.removesuffix(DONE_ENDING))) is not None:
            part.is_text_done = True

    def add_rest(self, part: OutlinePart | None, text: str) -> str:
        """Note that the *part* has *text* in all; return what no delta has shown of it."""
        if part is None or not part.is_whole or len(text) <= part.text.tell():
            return ""
        rest = text[part.text.tell() :]
        self._room -= len(rest)
        if self._room >= 0:
            part.text.write(rest)
        else:
            part.is_whole = False
        return rest

    def part(self, event: ResponseEvent, name: str, *, adds: bool = False) -> OutlinePart | None:
        """Return the part of *name* that *event* belongs to; None where there is none, and no room to add it."""
        key = event.item_key, name, event.place
        found = self.parts.get(key)
        if found is not None or not adds or len(self.parts) >= MAX_KEPT_PARTS:
            return found
        named = ("item_id", "output_index", "content_index", "summary_index")
        fields = {field: value for field in named if (value := getattr(event, field)) is not None}
        part = self.parts[key] = OutlinePart(
            name=name,
            item_key=event.item_key,
            place=event.place,
            fields=fields,
            delta_type=name + DELTA_ENDING,
            kind=kind_of(name + DELTA_ENDING),
            output_index=event.output_index,
            item_id=event.item_id,
            content_index=event.content_index,
            summary_index=event.summary_index,
        )
        self._by_key.setdefault(event.item_key, []).append(part)
        return part

    def parts_of(self, key: Key) -> Sequence[OutlinePart]:
        """Return the parts of the item with *key*, in the order in which they began."""
        return self._by_key.get(key, ())

    def close_item(self, key: Key) -> None:
        """Note that the item with *key* is complete."""
        for part in self.parts_of(key):
            part.is_closed = part.is_text_done = True

    def _add_item(self, event: ResponseEvent, raw: msgspec.Raw) -> None:
        key = item_key_of(event)
        item = self.items.get(key)
        if item is None:
            if len(self.items) >= MAX_KEPT_PARTS:
                return
            item = self.items[key] = OutlineItem(key, event.output_index)
        kept = bytes(raw) if self._takes(raw) else b""
        if event.type == DONE_ITEM:
            item.done = kept
            self.close_item(key)
        else:
            item.added = kept

    def _takes(self, raw: msgspec.Raw) -> bool:
        self._room -= len(raw)
        return self._room >= 0


def item_id_of(raw: msgspec.Raw | bytes) -> str | None:
    """Return the id of the item in *raw*; None where it has none."""
    try:
        return _decode_identified(raw).id
    except DECODE_FAULTS:
        return None


def item_key_of(event: ResponseEvent) -> Key:
    """Return the key of the item that *event* is of or has."""
    if event.item_key is not None or event.item is None:
        return event.item_key
    return item_id_of(event.item)


class _PartType(msgspec.Struct, gc=False):
    type: str = ""


_decode_part_type = msgspec.json.Decoder(_PartType).decode


def part_names(name: str, part: msgspec.Raw | None) -> Sequence[str]:
    """Return the names of the text of *part*, which an event of the type *name* opens or closes; empty if it has none."""
    if "summary" in name:
        return ("response.reasoning_summary_text",)
    try:
        kind = _decode_part_type(part).type if part is not None else ""
    except DECODE_FAULTS:
        return ()
    return (f"response.{kind}",) if kind in ("output_text", "refusal", "reasoning_text") else ()
