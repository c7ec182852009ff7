"""The events of policies for one message, and how changed ones are written, so that the stream stays well-formed.

A client of the Messages API gets blocks one after another: a start, deltas, a stop, each with the number of the block.
Policies hold text back, drop events and end answers early. Then blocks are renumbered, and text whose block has ended gets a
block of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import msgspec

from policies.api.decoding.values import decode_forwarded
from policies.api.event import Batch, Event, WholeBatch
from sidecar.wire.decoding.own_choice import one_line

from .stream_event import (
    BLOCK_DELTA,
    BLOCK_START,
    BLOCK_STOP,
    MESSAGE_DELTA,
    MESSAGE_STOP,
    STOP_EVENT,
    RawEvent,
    StreamEvent,
    block_of,
    named_event,
    read_message_event,
)
from .whole_message import WholeMessage, message_fields

STOP_REASONS: Mapping[str, str] = MappingProxyType(
    {"length": "max_tokens", "content_filter": "refusal", "stop": "end_turn", "tool_calls": "tool_use"}
)
"""Anthropic's names of the finishes of chat completions, which policies use."""
MAX_WAITING_CHARACTERS = 65_536
"""Characters of text that wait for the end of a block that is no text; where more come, the block is ended."""
_OWN_BLOCK = -1
"""Stands for the index of a block that upstream did not send."""


class MessageEvents:
    """The form of the events of one answer (`policies.api.event.EventForm`). It knows what the client has got so far."""

    __slots__ = (
        "_begun",
        "_has_ended",
        "_is_text",
        "_number",
        "_open",
        "_waiting",
        "_waiting_size",
        "last_text",
        "outputs",
    )

    def __init__(self) -> None:
        self.outputs = 0
        """Output tokens up to the batch whose events were built last."""
        self.last_text = 0
        """The index of the last block of text."""
        self._open: int | None = None
        """Upstream's index of the block that the client has open."""
        self._number = self._begun = 0
        """The client's index of this block, and how many blocks it has got."""
        self._is_text = self._has_ended = False
        self._waiting: list[str] = []
        """Text that waits for the end of a block that is no text."""
        self._waiting_size = 0

    def event_of(self, event: StreamEvent, payload: bytes) -> Event:
        """Return the event for policies: with the index of its block, or -1 if it has neither output nor a finish.

        It has no `raw`, so that it is written by `encoded`, which must see all events.
        """
        made = Event(payload=payload, index=-1, form=self)
        if event.type == BLOCK_DELTA and (delta := event.delta) is not None:
            made.index, made.text, made.reasoning = event.index, delta.text or "", delta.thinking or ""
            made.tool = bool(delta.partial_json)
            self.last_text = event.index if made.text else self.last_text
        elif event.type == BLOCK_START:
            block = block_of(event.content_block)
            made.text, made.reasoning, made.tool = block.text or "", block.thinking or "", block.is_tool
            if made.text or made.reasoning or made.tool:
                made.index = event.index
            self.last_text = event.index if block.type == "text" else self.last_text
        elif event.type == MESSAGE_DELTA and event.delta is not None and event.delta.stop_reason:
            made.index, made.finish = self.last_text, event.delta.stop_reason
        return made

    def with_payload(self, event: Event, data: dict[str, Any]) -> Event:
        """See `EventForm.with_payload`. *data* is one event of a stream, or one block of a whole answer."""
        payload = one_line(msgspec.json.encode(data))
        if event.whole:
            block = block_of(msgspec.Raw(payload))
            parts = {"text": block.text or "", "reasoning": block.thinking or "", "tool": block.is_tool}
            return msgspec.structs.replace(event, raw=b"", payload=payload, **parts)
        made = self.event_of(read_message_event(payload)[0], payload)
        made.index = event.index
        return made

    def encoded(self, event: Event) -> bytes:
        """See `EventForm.encoded`. Called for all events of an answer, in order, where a policy reads them."""
        if self._has_ended:
            return b""
        if event.form is None:
            return self._finish(event, None) if event.finish is not None else self._text(event.text)
        shape = read_message_event(event.payload)[0]
        if shape.type == MESSAGE_STOP:
            return self._finish(event, None)  # a policy has dropped the finish
        if event.finish is not None:
            return self._finish(event, event.payload if shape.type == MESSAGE_DELTA else None)
        if shape.type == MESSAGE_DELTA and event.index >= 0:  # its finish follows in an event of its own
            return self._text(event.text)
        if shape.type == BLOCK_START:
            return self._start(event, shape)
        if shape.type == BLOCK_DELTA:
            return self._delta(event, shape)
        if shape.type == BLOCK_STOP:
            return self._end_block() if shape.index == self._open else b""
        return named_event(shape.type, event.payload)

    def cut(self, open_blocks: Sequence[int], usage: Mapping[str, int]) -> Batch:
        """Return the last batch of an answer that ends early: the stops of its *open_blocks*, and the reason."""
        ending = {"stop_reason": "max_tokens", "stop_sequence": None}
        payload = msgspec.json.encode({"type": MESSAGE_DELTA, "delta": ending, "usage": usage})
        raw = b"".join([*map(_stop, open_blocks), named_event(MESSAGE_DELTA, payload), STOP_EVENT])
        event = Event(payload=payload, index=self.last_text, finish="max_tokens", form=self)
        return Batch(events=[event], raw=raw, last=True)

    def _start(self, event: Event, shape: StreamEvent) -> bytes:
        before = self._end_block() if self._open is not None else b""
        self._open, self._number = shape.index, self._begun
        self._begun += 1
        block = block_of(shape.content_block)
        self._is_text = block.type == "text"
        is_same = (block.text or "") == event.text
        if is_same and self._number == shape.index:
            return before + named_event(BLOCK_START, event.payload)
        data: dict[str, Any] = decode_forwarded(event.payload)
        data["index"] = self._number
        if not is_same and isinstance(data.get("content_block"), dict):
            data["content_block"]["text"] = event.text
        return before + named_event(BLOCK_START, msgspec.json.encode(data))

    def _delta(self, event: Event, shape: StreamEvent) -> bytes:
        if shape.index != self._open:
            return self._text(event.text)
        text = "" if shape.delta is None else shape.delta.text or ""
        if text == event.text and self._number == shape.index:
            return named_event(BLOCK_DELTA, event.payload)
        data: dict[str, Any] = decode_forwarded(event.payload)
        data["index"] = self._number
        more = b""
        if text != event.text:
            if text:
                data["delta"]["text"] = event.text
            else:
                more = self._text(event.text)
        return named_event(BLOCK_DELTA, msgspec.json.encode(data)) + more

    def _text(self, text: str) -> bytes:
        """Return *text* as a delta of the open block, or of one of its own."""
        if not text:
            return b""
        if self._open is not None and not self._is_text:
            self._waiting.append(text)
            self._waiting_size += len(text)
            return self._end_block() if self._waiting_size > MAX_WAITING_CHARACTERS else b""
        start = b""
        if self._open is None:
            self._open, self._is_text, self._number = _OWN_BLOCK, True, self._begun
            self._begun += 1
            block = {"type": "text", "text": ""}
            start = named_event(
                BLOCK_START, msgspec.json.encode({"type": BLOCK_START, "index": self._number, "content_block": block})
            )
        delta = {"type": "text_delta", "text": text}
        return start + named_event(
            BLOCK_DELTA, msgspec.json.encode({"type": BLOCK_DELTA, "index": self._number, "delta": delta})
        )

    def _end_block(self) -> bytes:
        """Return the stop of the open block, and the text that has waited for it as a block."""
        if self._open is None:
            return b""
        ended, self._open = _stop(self._number), None
        waiting, self._waiting, self._waiting_size = "".join(self._waiting), [], 0
        return ended + self._text(waiting) + self._end_block() if waiting else ended

    def _finish(self, event: Event, payload: bytes | None) -> bytes:
        """Return the end of the answer; *payload* is that of upstream's `message_delta`, if it has ended it itself."""
        self._has_ended = True
        reason = STOP_REASONS.get(event.finish or "stop", event.finish)
        before = self._text(event.text) + self._end_block()
        if payload is None:
            ending = {"stop_reason": reason, "stop_sequence": None}
            data: dict[str, Any] = {"type": MESSAGE_DELTA, "delta": ending, "usage": {"output_tokens": self.outputs}}
        else:
            data = decode_forwarded(payload)
            if data["delta"]["stop_reason"] == event.finish:
                return before + named_event(MESSAGE_DELTA, payload) + STOP_EVENT
            data["delta"] = {**data["delta"], "stop_reason": reason}
        return before + named_event(MESSAGE_DELTA, msgspec.json.encode(data)) + STOP_EVENT

    def rebuilt_answer(self, payload: bytes, events: Sequence[Event], unchanged: Sequence[Event]) -> bytes:
        """See `EventForm.rebuilt_answer`."""
        fields: dict[str, Any] = message_fields(payload)
        own: dict[int, list[Event]] = {}
        for event in events:
            own.setdefault(event.index, []).append(event)
        before = {event.index: event for event in unchanged if event.payload}
        content: list[Any] = []
        for index in [*before, *(each for each in own if each not in before)]:
            content += _blocks(own.get(index, []), before.get(index))
        fields["content"] = content
        finish = next((event.finish for event in events if event.finish), "refusal")
        if finish != next((event.finish for event in unchanged if event.finish), None):
            fields["stop_reason"] = STOP_REASONS.get(finish, finish)
        return msgspec.json.encode(fields)


def _blocks(own: Sequence[Event], was: Event | None) -> list[Any]:
    """Return what policies have left of one block, *own*; a block without text and without a call is left out."""
    kept = [event for event in own if event.payload and event.form is not None]
    if was is not None and kept == [was] and not any(event.text for event in own if event is not was):
        return [msgspec.Raw(was.payload)]
    text = "".join(event.text for event in own)
    made: list[Any] = []
    for event in kept[:1]:
        block: Any = decode_forwarded(event.payload)
        if block.get("type") == "text":
            return [{**block, "text": text}] if text else []
        if event.tool or event.reasoning or event.finish is None:
            made.append(block)
    return [*made, {"type": "text", "text": text}] if text else made


def _stop(number: int) -> bytes:
    return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % number


def policy_events(items: Sequence[RawEvent], form: MessageEvents, outputs: int) -> list[Event]:
    """Return the events of *items*, after which the answer has *outputs* tokens."""
    form.outputs = outputs
    return [form.event_of(event, payload) for event, _, payload in items]


def _whole_events(blocks: Sequence[msgspec.Raw], stop_reason: str, form: MessageEvents) -> list[Event]:
    """Return one event for each of *blocks* of a whole answer, with the block as its JSON, and one for its finish."""
    events = []
    for at, raw in enumerate(blocks):
        block = block_of(raw)
        is_object = bytes(memoryview(raw)[:1]) == b"{"
        payload = bytes(raw) if is_object else msgspec.json.encode({"type": "text", "text": block.text or ""})
        events.append(
            Event(
                payload=payload,
                text=block.text or "",
                reasoning=block.thinking or "",
                tool=block.is_tool,
                index=at,
                whole=True,
                form=form,
            )
        )
    texts = [event.index for event in events if event.text]
    last = Event(index=texts[-1] if texts else len(events), finish=stop_reason or "end_turn", whole=True, form=form)
    return [*events, last]


def whole_batch(message: WholeMessage, form: MessageEvents) -> WholeBatch:
    """Return *message* as the batch of a client that does not stream."""
    make = partial(_whole_events, message.blocks, message.stop_reason, form)
    return WholeBatch(events=make, raw=message.body, payload=message.payload)
