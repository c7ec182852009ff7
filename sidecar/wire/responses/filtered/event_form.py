"""Show the events of a Responses answer to policies, and write them as policies have changed them.

The API repeats each text: in a `.done` event, in the part, in the item, and in the response object at the end. Each repetition
is written with the text of the deltas that the client has got. So text that a policy removed reaches the client nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from policies.api.event import Event, OrderedForm
from sidecar.wire.responses.events.closing_events import encoded_event, ending_events
from sidecar.wire.responses.events.outline import Outline, item_key_of
from sidecar.wire.responses.events.response_event import (
    DELTA_ENDING,
    DONE_ITEM,
    TERMINAL_TYPES,
    TEXT_NAME,
    TEXT_TYPES,
    Key,
    PartKind,
    ReadItem,
    ResponseEvent,
    event_of_object,
    is_silent,
    kind_of,
    read_event,
)
from sidecar.wire.responses.events.response_object import incomplete_reason

from .seen_parts import SeenParts
from .shown_texts import ShownTexts, shallow_fields
from .whole_events import WholeEvents, rebuilt_response

NEEDLESS_FIELDS = ("obfuscation", "logprobs")
"""Fields of a delta that describe its original text."""
MAX_SHOWN_CHARACTERS = 16_777_216
"""Characters of text that are written again where upstream repeats them; a longer text is repeated only so far."""
REASON_BY_FINISH = {"length": "max_output_tokens", "content_filter": "content_filter"}
FINISH_BY_REASON = {"max_output_tokens": "length", "content_filter": "content_filter"}


class ResponsesForm(OrderedForm):
    """See `policies.api.event.OrderedForm`. One per answer; it takes the events in order, once each."""

    def __init__(self) -> None:
        self._seen = SeenParts()
        """What upstream has sent, as it was shown to policies."""
        self._shown = Outline(MAX_SHOWN_CHARACTERS)
        """What the client has got."""
        self._texts = ShownTexts(self._seen, self._shown)
        self._whole: WholeEvents | None = None
        self._withheld: set[Key] = set()
        """Calls of tools that policies have not let through yet, or have dropped."""

    def events_of(self, items: Sequence[ReadItem]) -> list[Event]:
        """Return the events of *items*, in order, for policies."""
        events: list[Event] = []
        for event, raw, payload in items:
            if type(event.delta) is str:
                events.append(self._delta_event(event, event.delta, raw, payload))
            else:
                self._add_other(events, event, raw, payload)
        return events

    def _delta_event(self, event: ResponseEvent, delta: str, raw: bytes, payload: bytes) -> Event:
        number = self._seen.add(event, event.type.removesuffix(DELTA_ENDING), delta)
        return self._event_of(event, delta, raw, payload, number)

    def _event_of(self, event: ResponseEvent, delta: str, raw: bytes, payload: bytes, number: int) -> Event:
        kind = kind_of(event.type)
        return Event(
            raw=raw,
            payload=payload,
            text=delta if kind is PartKind.TEXT else "",
            reasoning=delta if kind is PartKind.REASONING else "",
            tool=kind is PartKind.OTHER and bool(delta),
            index=number,
            form=self,
        )

    def _add_other(self, events: list[Event], event: ResponseEvent, raw: bytes, payload: bytes) -> None:
        """Append the events of *event*: text that it has in front of its deltas first, then itself."""
        seen, name = self._seen, event.type
        unseen = self._unseen(event)
        is_added = name.endswith(".added")
        if not is_added:
            events += unseen
        number, finish, tool = -1, None, False
        if name in TERMINAL_TYPES:
            number, finish = seen.last, self._finish_of(event)
        elif (key := seen.closes(event)) is not None:
            number, finish = key, "stop"
        elif event.item is not None and (number := seen.call(event)) >= 0:
            tool = True
            if name == DONE_ITEM:
                self._withheld.add(item_key_of(event))
        elif event.item is None and event.part is None and event.response is None and kind_of(name) is PartKind.OTHER:
            number = seen.number_of(event)
            if number < 0 and not is_silent(name):  # output of a type that is not known
                number = seen.last
            tool = number >= 0
        events.append(Event(raw=raw, payload=payload, tool=tool, finish=finish, index=number, form=self))
        if is_added:
            events += unseen

    def _unseen(self, event: ResponseEvent) -> list[Event]:
        """Return events for the text in *event* that no delta has shown, so that policies read it as they read deltas."""
        found: list[Event] = []
        for fields in self._seen.unseen(event):
            data = {**fields, **({} if event.sequence_number is None else {"sequence_number": event.sequence_number})}
            made, payload = event_of_object(data), msgspec.json.encode(data)
            if type(made.delta) is str:
                found.append(self._delta_event(made, made.delta, b"", payload))
            else:
                found.append(Event(payload=payload, index=-1, form=self))
        return found

    def _finish_of(self, event: ResponseEvent) -> str:
        reason = incomplete_reason(event.response)
        if reason:
            return FINISH_BY_REASON.get(reason, reason)
        return "tool_calls" if self._seen.has_calls else "stop"

    def whole_events(self, payload: bytes) -> list[Event]:
        """Return the events of a whole answer, one for each text, each reasoning and each call."""
        self._whole = WholeEvents(payload)
        return self._whole.events(self)

    def encoded(self, event: Event) -> bytes:
        """See `EventForm.encoded`."""
        if event.raw or not event.payload:
            return event.raw
        data = event.data
        if isinstance(data.get("delta"), str) and data.get("type") in TEXT_TYPES:
            data["delta"] = event.text
        return encoded_event(data)[0] if isinstance(data.get("type"), str) else b""

    def with_payload(self, event: Event, data: dict[str, Any]) -> Event:
        """See `EventForm.with_payload`."""
        payload = msgspec.json.encode(data)
        if event.whole:
            text = self._whole.text_in(data, event.index) if self._whole is not None else event.text
            return msgspec.structs.replace(event, payload=payload, raw=b"", text=text)
        delta, kind = data.get("delta"), kind_of(str(data.get("type")))
        if not isinstance(delta, str):
            return msgspec.structs.replace(event, payload=payload, raw=b"")
        return msgspec.structs.replace(
            event,
            payload=payload,
            raw=b"",
            text=delta if kind is PartKind.TEXT else "",
            reasoning=delta if kind is PartKind.REASONING else "",
            tool=kind is PartKind.OTHER and bool(delta),
        )

    def rebuilt_answer(self, payload: bytes, events: Sequence[Event], unchanged: Sequence[Event]) -> bytes:
        """See `EventForm.rebuilt_answer`."""
        assert self._whole is not None  # for the type: the events of a whole answer came from it
        return rebuilt_response(self._whole, events, unchanged, REASON_BY_FINISH)

    def written(self, events: Sequence[Event]) -> bytes:
        """See `OrderedForm.written`."""
        return b"".join(map(self._written, events))

    def _written(self, event: Event) -> bytes:
        if not event.payload:
            return self._ended(event.finish) if event.finish is not None else self._inserted_text(event)
        try:
            read, _ = read_event(event.payload)
        except ValueError:
            return event.raw
        if type(delta := read.delta) is str:
            return self._written_delta(event, read, delta)
        before = self._inserted_text(event) if event.text else b""
        return before + self._written_other(event, read)

    def _written_delta(self, event: Event, read: ResponseEvent, delta: str) -> bytes:
        is_changed = read.type in TEXT_TYPES and event.text != delta
        if event.raw and not is_changed and self._is_next(read):
            self._shown.add_delta(read, delta)
            return event.raw
        data = event.data
        if is_changed:
            for name in NEEDLESS_FIELDS:
                if name in data:
                    data[name] = [] if name == "logprobs" else ""
            data["delta"] = event.text
        return self._note(data)

    def _written_other(self, event: Event, read: ResponseEvent) -> bytes:
        if event.tool and read.item is not None:
            self._withheld.discard(item_key_of(read))
        data = self._texts.corrected(event.payload, read, self._withheld)
        if data is None and event.raw and self._is_next(read):
            self._shown.add_other(read)
            return event.raw
        return self._note(shallow_fields(event.payload) if data is None else data)

    def _is_next(self, read: ResponseEvent) -> bool:
        """Whether the number of *read* is above that of the last event; it is not behind events that were added."""
        return read.sequence_number is None or read.sequence_number > self._shown.sequence

    def _note(self, data: dict[str, Any]) -> bytes:
        """Return *data* as the next event, numbered, and note it as shown."""
        made = event_of_object(data)
        if not made.type:
            return b""
        if not self._is_next(made):
            data["sequence_number"] = made.sequence_number = self._shown.sequence + 1
        if type(made.delta) is str:
            self._shown.add_delta(made, made.delta)
        else:
            self._shown.add_other(made)
        return encoded_event(data)[0]

    def _inserted_text(self, event: Event) -> bytes:
        """Return a delta with the text that a policy has added, for the part that the event is of, or for the last text."""
        place = self._seen.place_of(event.index)
        if not event.text or place is None:
            return b""
        data: dict[str, Any] = {"type": place.name + DELTA_ENDING, **place.fields, "delta": event.text}
        if place.name == TEXT_NAME:
            data["logprobs"] = []
        if self._shown.sequence >= 0:
            data["sequence_number"] = self._shown.sequence + 1
        return self._note(data)

    def _ended(self, finish: str) -> bytes:
        """Return the events that end the answer where a policy has stopped it."""
        written = b""
        for fields in ending_events(self._shown, REASON_BY_FINISH.get(finish), None):
            written += encoded_event(fields)[0]
        return written
