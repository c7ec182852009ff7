"""Read one answer of the Messages API, without I/O: frames to batches, its usage, and whether it is complete."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from policies.api.event import Batch
from sidecar.wire.answer_counts import MAX_HELD_BYTES, MAX_HELD_EVENTS, TOO_MUCH_HELD, unreadable_answer
from sidecar.wire.answer_reader import DONE_MARKER
from sidecar.wire.chunk import Chunk, has_content
from sidecar.wire.error_object import decode_error, find_error, unreadable_event
from sidecar.wire.output_tokens import NO_OUTPUT

from .frame_repair import NO_EVENT, named_frame, repaired_frame
from .message_counts import MessageCounts
from .message_events import MessageEvents, policy_events, whole_batch
from .stream_event import (
    BLOCK_DELTA,
    BLOCK_START,
    BLOCK_STOP,
    ERROR_EVENT,
    MESSAGE_DELTA,
    MESSAGE_START,
    MESSAGE_STOP,
    PING_EVENT_TYPE,
    STOP_EVENT,
    RawEvent,
    StreamEvent,
    decode_message_event,
    output_of_block,
    output_of_unknown,
)
from .whole_message import stream_items, whole_message_steps

if TYPE_CHECKING:
    from sidecar.wire.sse_reader import Frame


class MessageReader(MessageCounts, kw_only=True, eq=False):
    """The state of one answer. See `sidecar.wire.operations.operation.Reading`, and `MessageCounts` for its public fields.

    Events pass as upstream sent them, with two exceptions. Pings are dropped, because the sidecar sends its own. Events
    without a name, which Anthropic's SDKs skip, get the name of their type. `message_delta` with the reason waits for
    `message_stop`, which the reader adds where upstream ends without it.
    """

    _form: MessageEvents = msgspec.field(default_factory=MessageEvents)
    _open: dict[int, None] = msgspec.field(default_factory=dict)
    _held: list[RawEvent] = msgspec.field(default_factory=list)
    _held_raw: list[bytes] = msgspec.field(default_factory=list)
    _held_bytes: int = 0
    _finish_at: int = 0
    """Where the finish is among the events that are being read."""

    def take(self, frames: Sequence[Frame]) -> Batch | None:
        """See `Reading.take`."""
        items, raws = self._held, self._held_raw
        for frame in frames:
            payload, raw = frame.payload, frame.raw
            try:
                event = decode_message_event(payload)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                event, payload, raw = self._read_unusual(frame)
            if event.type != frame.event:
                payload, raw = named_frame(event, frame, payload, raw)
            if event.type == BLOCK_DELTA and len(event.error) == 0:
                self._take_delta(event, payload)
                passes = True
            else:
                passes = event is not NO_EVENT and self._take_other(event, payload)
            if passes:
                items.append((event, raw, payload))
                raws.append(raw)
                if not self.has_output or self.all_finished:
                    self._hold(raw)
            if self.done or self.failure is not None:
                break
        if self.failure is not None and not self.has_output:
            items.clear()
            raws.clear()
        if not self.has_output or not items:
            return None
        self._held, self._held_raw = [], []
        if self.all_finished and not self.done:
            at, self._finish_at = self._finish_at, 0
            self._held, self._held_raw, items, raws = items[at:], raws[at:], items[:at], raws[:at]
            if not items:
                return None
        return Batch(
            events=partial(policy_events, items, self._form, self.outputs), raw=b"".join(raws), outputs=self.outputs
        )

    def _read_unusual(self, frame: Frame) -> tuple[StreamEvent, bytes, bytes]:
        """Return the event of *frame*, its payload and its bytes, with its faults repaired; `NO_EVENT` where it is none.

        The end mark of OpenAI's streams, which some servers send here too, is dropped.
        """
        if frame.payload.lstrip().startswith(DONE_MARKER):
            return NO_EVENT, b"", b""
        try:
            return repaired_frame(frame)
        except ValueError:
            self._fail(unreadable_event(frame.payload, frame.event))
            return NO_EVENT, b"", b""

    def _hold(self, raw: bytes) -> None:
        self._held_bytes += len(raw)
        if self._held_bytes > MAX_HELD_BYTES or len(self._held) > MAX_HELD_EVENTS:
            self.failure = TOO_MUCH_HELD

    def _take_other(self, event: StreamEvent, payload: bytes) -> bool:
        """Take an event that is no delta of a block; return whether its client gets it."""
        kind = event.type
        if kind == ERROR_EVENT or has_content(event.error):
            self._fail(decode_error(payload) or {"message": ""})
            return False
        if kind == MESSAGE_STOP:
            self.done = True
            return True
        if kind == PING_EVENT_TYPE:
            return False
        if kind == BLOCK_START:
            self._open[event.index] = None
            self._add(output_of_block(event.content_block, whole=False) if len(event.content_block) else NO_OUTPUT)
        elif kind == BLOCK_STOP:
            self._open.pop(event.index, None)
            self.finishes += 1
        elif kind == MESSAGE_START:
            self._take_start(event)
        elif kind == MESSAGE_DELTA:
            if not self.all_finished:
                self._finish_at = len(self._held)
            self._take_finish(event)
        else:
            return self._take_unknown(event, payload)
        return True

    def _take_unknown(self, event: StreamEvent, payload: bytes) -> bool:
        """Take an event of an unknown type: what is in it counts, unless it is an error object without a type."""
        if not event.type and (found := find_error(Chunk(), payload)) is not None:
            self._fail(found)
            return False
        self._add(output_of_unknown(payload))
        if event.usage is not None:
            self._take_usage(event.usage)
        return True

    def held(self) -> Batch:
        """See `Reading.held`."""
        if self.all_finished and not self.done:
            self.done = True
            self._held.append((StreamEvent(MESSAGE_STOP), STOP_EVENT, b'{"type":"message_stop"}'))
            self._held_raw.append(STOP_EVENT)
        batch = Batch(events=partial(policy_events, self._held, self._form, self.outputs), raw=b"".join(self._held_raw))
        self._held, self._held_raw = [], []
        return batch

    def cut_off(self, sample: bytes, prompt_tokens: int) -> Batch:  # of other APIs: no event repeats an id
        """See `Reading.cut_off`: the stop of the open block, and `message_delta` with the reason `max_tokens`."""
        usage = self.usage
        counts = {"output_tokens": usage.output}
        if not usage.input:
            counts["input_tokens"] = prompt_tokens
        return self._form.cut(tuple(self._open), counts)

    def take_whole_steps(self, body: bytes, *, as_stream: bool) -> Generator[None, None, Batch | None]:
        """See `Reading.take_whole_steps`."""
        try:
            message = yield from whole_message_steps(body)
        except ValueError as fault:
            self.failure = unreadable_answer(fault, body)
            return None
        if message.error is not None:
            self.failure = message.error
            return None
        yield from self._count_whole(message)
        self.done = self.all_finished = True
        if as_stream:
            items = yield from stream_items(message)
            return Batch(
                events=partial(policy_events, items, self._form, self.outputs),
                raw=b"".join(raw for _, raw, _ in items),
                last=True,
            )
        return whole_batch(message, self._form)
