"""Show a whole answer to policies, and write it again as they have changed it; the rest stays as upstream sent it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from policies.api.event import Event
from sidecar.wire.decoding.own_choice import DECODE_FAULTS, decode_fields, is_object
from sidecar.wire.responses.events.closing_events import TEXT_ITEMS
from sidecar.wire.responses.events.output_items import decode_text_part, text_of_part
from sidecar.wire.whole_answer import first_items

if TYPE_CHECKING:
    from policies.api.event import EventForm

MESSAGE_TYPE, REFUSAL_TYPE = "message", "refusal"
TEXT_PART_TYPES = frozenset({"output_text", REFUSAL_TYPE})


class _ItemHead(msgspec.Struct, gc=False):
    type: str = ""
    content: msgspec.Raw = msgspec.Raw()
    summary: msgspec.Raw = msgspec.Raw()


_decode_head = msgspec.json.Decoder(_ItemHead).decode
_decode_output = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Place(NamedTuple):
    """Where one event's part is: the number of its item, and that of its part in the content; -1 for the whole item."""

    item: int
    part: int = -1


class WholeEvents:
    """The parts of one whole answer, *payload*: one for each text of a message, one for each other item."""

    def __init__(self, payload: bytes) -> None:
        self.fields = _decode_output(payload)
        self.items: list[msgspec.Raw] = list(first_items(self.fields.get("output", msgspec.Raw(b"[]"))))
        self.places: list[_Place] = []

    def events(self, form: EventForm) -> list[Event]:
        """Return the events. Each text has the finish `stop`, because it is complete."""
        events: list[Event] = []
        for at, raw in enumerate(self.items):
            head = _head(raw)
            if head.type == MESSAGE_TYPE:
                for number, part in enumerate(first_items(head.content) if len(head.content) else ()):
                    if _part_type(part) in TEXT_PART_TYPES:
                        events.append(
                            self._event(form, raw, _Place(at, number), text=text_of_part(part), finish="stop")
                        )
            elif head.type in TEXT_ITEMS:
                found = [first_items(each) for each in (head.summary, head.content) if len(each)]
                reasoning = "".join(text_of_part(part) for parts in found for part in parts)
                events.append(self._event(form, raw, _Place(at), reasoning=reasoning))
            else:
                events.append(self._event(form, raw, _Place(at), tool=True))
        if not events:
            events.append(Event(payload=bytes(msgspec.json.encode(self.fields)), index=-1, whole=True, form=form))
        return events

    def _event(self, form: EventForm, raw: msgspec.Raw, place: _Place, **fields: Any) -> Event:
        self.places.append(place)
        return Event(payload=bytes(raw), index=len(self.places) - 1, whole=True, form=form, **fields)

    def text_in(self, item: dict[str, Any], index: int) -> str:
        """Return the text of the part with *index* in a changed *item*; empty if it has none."""
        place = self.places[index] if 0 <= index < len(self.places) else _Place(0)
        content = item.get("content")
        part = content[place.part] if isinstance(content, list) and 0 <= place.part < len(content) else None
        text = (part.get("text") or part.get("refusal")) if isinstance(part, dict) else ""
        return text if isinstance(text, str) else ""


def rebuilt_response(
    whole: WholeEvents, events: Sequence[Event], unchanged: Sequence[Event], reasons: Mapping[str, str]
) -> bytes:
    """Return the answer with its texts as in *events*; an item is left out if its event was dropped, a text becomes empty.

    *unchanged* are the events before the policies. *reasons* are those of an answer that a policy stopped, by its finish.
    """
    own: dict[int, list[Event]] = {}
    stopped = None
    for event in events:
        if event.payload or event.text:
            own.setdefault(event.index, []).append(event)
        elif event.finish is not None:
            stopped = event.finish
    changed: dict[int, msgspec.Raw] = {}
    dropped: set[int] = set()
    for before in unchanged:
        kept = own.get(before.index, [])
        if before.index < 0 or (len(kept) == 1 and kept[0] is before):
            continue
        place = whole.places[before.index]
        raw = changed.get(place.item, whole.items[place.item])
        raw = next((msgspec.Raw(each.payload) for each in kept if each.payload != before.payload and each.payload), raw)
        if place.part < 0:
            if not kept:
                dropped.add(place.item)
            changed[place.item] = raw
            continue
        changed[place.item] = _with_text(raw, place.part, "".join(event.text for event in kept))
    fields: dict[str, Any] = dict(whole.fields)
    fields["output"] = [changed.get(at, raw) for at, raw in enumerate(whole.items) if at not in dropped]
    if "output_text" in fields:
        fields["output_text"] = "".join(event.text for event in events if event.text)
    if stopped is not None and (reason := reasons.get(stopped)) is not None:
        fields |= {"status": "incomplete", "incomplete_details": {"reason": reason}}
    return msgspec.json.encode(fields)


def _with_text(raw: msgspec.Raw, number: int, text: str) -> msgspec.Raw:
    """Return the item *raw* with *text* in the part with *number* of its content, and without the log probabilities of it."""
    try:
        item: dict[str, Any] = dict(decode_fields(raw))
        parts: list[Any] = list(first_items(item["content"]))
        part: dict[str, Any] = dict(decode_fields(parts[number]))
    except (KeyError, IndexError, *DECODE_FAULTS):
        return raw
    field = "refusal" if _part_type(parts[number]) == REFUSAL_TYPE else "text"
    if text_of_part(parts[number]) == text:
        return raw
    part[field] = text
    if "logprobs" in part:
        part["logprobs"] = []
    parts[number] = part
    item["content"] = parts
    return msgspec.Raw(msgspec.json.encode(item))


def _head(raw: msgspec.Raw) -> _ItemHead:
    try:
        return _decode_head(raw) if is_object(raw) else _ItemHead()
    except DECODE_FAULTS:
        return _ItemHead()


def _part_type(raw: msgspec.Raw) -> str:
    try:
        return decode_text_part(raw).type if is_object(raw) else ""
    except DECODE_FAULTS:
        return ""
