"""Number the parts of an answer for policies, and find text that no delta has shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from policies.api.decoding.values import decode_forwarded
from sidecar.wire.decoding.own_choice import DECODE_FAULTS
from sidecar.wire.responses.events.closing_events import is_text_item
from sidecar.wire.responses.events.outline import MAX_KEPT_PARTS, item_id_of, item_key_of, part_names
from sidecar.wire.responses.events.output_items import item_texts, output_items, text_of_part
from sidecar.wire.responses.events.response_event import (
    ADDED_ITEM,
    DELTA_ENDING,
    DONE_ENDING,
    DONE_ITEM,
    REFUSAL_NAME,
    SUMMARY_NAME,
    TERMINAL_TYPES,
    TEXT_TYPES,
    Key,
    PartKind,
    ResponseEvent,
    kind_of,
)

PLACE_FIELDS = ("item_id", "output_index", "content_index", "summary_index")
NO_PART = -1


class SeenPart(msgspec.Struct, eq=False, kw_only=True):
    """One part of the answer that policies have seen."""

    number: int
    name: str
    fields: dict[str, Any]
    """The fields that name its place."""
    characters: int = 0
    is_text: bool = False
    is_open: bool = True
    item_key: Key = None


class SeenParts:
    """What policies have seen of one answer."""

    def __init__(self) -> None:
        self._parts: dict[tuple[Key, str, int], SeenPart] = {}
        self._calls: dict[Key, int] = {}
        self._keys: dict[Key, None] = {}
        self._open: list[SeenPart] = []
        self._last_text: SeenPart | None = None
        self._count = 0

    @property
    def has_calls(self) -> bool:
        """Whether the answer has an item other than a message and reasoning."""
        return bool(self._calls)

    @property
    def last(self) -> int:
        """The number of the last part with text, else of the last part; 0 for an answer without parts."""
        return self._last_text.number if self._last_text is not None else max(0, self._count - 1)

    def add(self, event: ResponseEvent, name: str, delta: object) -> int:
        """Note the *delta* of a part, and return the number of the part. Called for each token."""
        key = event.item_key, name, event.place
        part = self._parts.get(key)
        if part is None:
            part = self._new_part(event, name)
        part.characters += len(delta) if isinstance(delta, str) else 0
        return part.number

    def _new_part(self, event: ResponseEvent, name: str) -> SeenPart:
        fields = {field: value for field in PLACE_FIELDS if (value := getattr(event, field)) is not None}
        kind = kind_of(name + DELTA_ENDING)
        key = event.item_key
        if self.is_full:  # further parts count as the last one
            return next(reversed(self._parts.values()))
        number = self._calls.get(key, NO_PART) if kind is PartKind.OTHER else NO_PART
        if number < 0:
            number, self._count = self._count, self._count + 1
        is_text = name + DELTA_ENDING in TEXT_TYPES
        part = SeenPart(number=number, name=name, fields=fields, is_text=is_text, item_key=key)
        self._parts[key, name, event.place] = part
        self._keys[key] = None
        if is_text:
            self._open.append(part)
            self._last_text = part
        return part

    def seen(self, key: Key, name: str, place: int) -> SeenPart | None:
        """Return the part of *name* at *place* of the item with *key*."""
        return self._parts.get((key, name, place))

    @property
    def is_full(self) -> bool:
        """Whether further parts share one number, so that their repetitions cannot be compared with what was shown."""
        return len(self._parts) >= MAX_KEPT_PARTS

    def has_item(self, key: Key) -> bool:
        """Whether a part or a call of the item with *key* was seen."""
        return key in self._keys or key in self._calls

    def closes(self, event: ResponseEvent) -> int | None:
        """Return the number of the open text that *event* closes; None where it closes none."""
        name = event.type
        if not self._open or not name.endswith(DONE_ENDING):
            return None
        if name == DONE_ITEM:
            key = item_key_of(event)
            closed = [part for part in self._open if part.item_key == key]
        else:
            names = part_names(name, event.part) if event.part is not None else (name.removesuffix(DONE_ENDING),)
            found = [self.seen(event.item_key, each, event.place) for each in names]
            closed = [part for part in self._open if part in found]
        for part in closed:
            part.is_open = False
            self._open.remove(part)
        return closed[-1].number if closed else None

    def call(self, event: ResponseEvent) -> int:
        """Return the number of the call whose item *event* has; `NO_PART` for a message or reasoning."""
        data = _decoded(event.item)
        if is_text_item(data):
            return NO_PART
        key = item_key_of(event)
        if key not in self._calls and len(self._calls) < MAX_KEPT_PARTS:
            part = next((each for each in self._parts.values() if each.item_key == key), None)
            self._calls[key] = self._count if part is None else part.number
            self._count += part is None
        return self._calls.get(key, NO_PART)

    def number_of(self, event: ResponseEvent) -> int:
        """Return the number of the part or call that *event* reports about; `NO_PART` for none."""
        part = self.seen(event.item_key, event.type.removesuffix(DONE_ENDING), event.place)
        return part.number if part is not None else self._calls.get(event.item_key, NO_PART)

    def place_of(self, number: int) -> SeenPart | None:
        """Return the text with *number*, else the last one; None for an answer without text."""
        found = (part for part in self._parts.values() if part.number == number and part.is_text)
        return next(found, self._last_text)

    def unseen(self, event: ResponseEvent) -> Iterator[dict[str, Any]]:
        """Yield events for the text in *event* that no delta has shown."""
        name = event.type
        place = {field: value for field in PLACE_FIELDS if (value := getattr(event, field)) is not None}
        if event.part is not None:
            for each in part_names(name, event.part):
                yield from self._rest(event.item_key, each, place, text_of_part(event.part), is_announced=True)
        elif event.item is not None and name in (ADDED_ITEM, DONE_ITEM):
            key = item_key_of(event)
            more = {} if event.output_index is None else {"output_index": event.output_index}
            yield from self._unseen_item(event.item, key, more, is_announced=name == ADDED_ITEM)
        elif name in TERMINAL_TYPES and event.response is not None:
            for at, item in enumerate(output_items(event.response)):
                yield from self._unseen_output(item, at)
        elif name.endswith(DONE_ENDING) and event.repeated:
            each = name.removesuffix(DONE_ENDING)
            if kind_of(each + DELTA_ENDING) is not PartKind.OTHER:
                yield from self._rest(event.item_key, each, place, event.repeated, is_announced=True)

    def _unseen_output(self, item: msgspec.Raw, at: int) -> Iterator[dict[str, Any]]:
        key = self.key_in_output(item_id_of(item), at)
        found = list(self._unseen_item(item, key, {"output_index": at} if key == at else {}, is_announced=False))
        if found and not self.has_item(key):
            fields = _decoded(item)
            yield {"type": ADDED_ITEM, "output_index": at, "item": {**fields, "status": "in_progress", "content": []}}
        yield from found

    def key_in_output(self, identity: str | None, at: int) -> Key:
        """Return the key of the item with *identity* that is at the place *at* of the output of a response object."""
        return at if identity is None or self.has_item(at) or not self.has_item(identity) else identity

    def _unseen_item(
        self, item: msgspec.Raw, key: Key, place: dict[str, Any], *, is_announced: bool
    ) -> Iterator[dict[str, Any]]:
        if (identity := item_id_of(item)) is not None:
            place = {"item_id": identity, **place}
        for text in item_texts(item):
            if text.name:
                index = "summary_index" if text.name == SUMMARY_NAME else "content_index"
                yield from self._rest(
                    key, text.name, {**place, index: text.place}, text.text, is_announced=is_announced
                )

    def _rest(
        self, key: Key, name: str, place: dict[str, Any], text: str, *, is_announced: bool
    ) -> Iterator[dict[str, Any]]:
        index = place.get("summary_index", place.get("content_index")) or 0
        part = self.seen(key, name, index)
        shown = 0 if part is None else part.characters
        if len(text) <= shown or (part is None and self.is_full):
            return
        if part is None and not is_announced:
            kind = "reasoning_summary_part" if name == SUMMARY_NAME else "content_part"
            field = "refusal" if name == REFUSAL_NAME else "text"
            begun = {"type": name.removeprefix("response."), field: ""}
            if name == SUMMARY_NAME:
                begun["type"] = "summary_text"
            yield {"type": f"response.{kind}.added", **place, "part": begun}
        yield {"type": name + DELTA_ENDING, **place, "delta": text[shown:]}


def _decoded(raw: msgspec.Raw | None) -> dict[str, Any]:
    try:
        data = {} if raw is None else decode_forwarded(raw)
    except DECODE_FAULTS:
        return {}
    return data if isinstance(data, dict) else {}
