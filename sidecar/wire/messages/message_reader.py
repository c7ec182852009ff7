"""Read one answer of the Messages API, without I/O: frames to batches, its usage, and whether it is complete."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from policies.api.event import Batch
from policies.api.usage import Usage
from sidecar.wire.chunk import Chunk, has_content
from sidecar.wire.error_object import NOT_JSON, MalformedAnswer, decode_error, error_of_event, error_of_list, find_error
from sidecar.wire.reported_usage import Report
from sidecar.wire.whole_answer import AnswerTooComplex, first_items

from .frame_repair import NO_EVENT, named_frame, repaired_frame
from .message_events import MessageEvents, policy_events, whole_batch
from .stream_event import (
    BLOCK_DELTA,
    BLOCK_START,
    BLOCK_STOP,
    ERROR_EVENT,
    MESSAGE_DELTA,
    MESSAGE_START,
    MESSAGE_STOP,
    NO_OUTPUT,
    PING_EVENT_TYPE,
    Output,
    RawEvent,
    StreamEvent,
    decode_event,
    output_of_block,
    output_of_delta,
    output_of_unknown,
)
from .usage_reports import MessageUsage, UsageReports
from .whole_message import stream_items, whole_message_steps

if TYPE_CHECKING:
    from sidecar.wire.sse_reader import Frame

    from .whole_message import WholeMessage

OPENAI_END_MARK = b"[DONE]"
MAX_EARLY_BYTES, MAX_EARLY_EVENTS = 1_000_000, 1_000
"""Limits of what is held back before the first output."""
ONE_TOKEN_BYTES = 12
"""Bytes of a piece of text up to which it is one token; see `policies.api.decoding.token_counts`."""
USUAL_REASONS = frozenset({"end_turn", "stop_sequence", "tool_use", "stop"})
"""Reasons that do not explain an answer without output."""


class MessageReader(msgspec.Struct, kw_only=True, eq=False):
    """The state of one answer. See `sidecar.wire.operations.operation.Reading`.

    Events pass as upstream sent them, except for pings, which the sidecar sends itself, `message_stop`, which is the end of
    the stream, and events without a name, which Anthropic's SDKs skip: they get the name of their type.
    """

    outputs: int = 0
    finishes: int = 0
    has_output: bool = False
    done: bool = False
    says_why: bool = False
    all_finished: bool = False
    failure: dict[str, Any] | MalformedAnswer | None = None
    _form: MessageEvents = msgspec.field(default_factory=MessageEvents)
    _open: dict[int, None] = msgspec.field(default_factory=dict)
    _reports: UsageReports = msgspec.field(default_factory=UsageReports)
    _report: Report = msgspec.field(default_factory=Report)
    _first_output: int = 0
    """Output tokens that the start of the message reported: a part of those that follow."""
    _held: list[RawEvent] = msgspec.field(default_factory=list)
    _held_raw: list[bytes] = msgspec.field(default_factory=list)
    _held_bytes: int = 0

    @property
    def finished(self) -> bool:
        """See `Reading.finished`."""
        return self.all_finished

    @property
    def usage(self) -> Usage:
        """See `Reading.usage`."""
        usage = self._report.usage(self.outputs)
        if usage.output >= self._first_output:
            return usage
        return Usage(usage.input, self._first_output, usage.cached, usage.unreported)

    @property
    def is_answered(self) -> bool:
        """See `Reading.is_answered`."""
        return self.usage.output > 0

    def take(self, frames: Sequence[Frame]) -> Batch | None:
        """See `Reading.take`."""
        items, raws = self._held, self._held_raw
        for frame in frames:
            payload, raw = frame.payload, frame.raw
            try:
                event = decode_event(payload)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                event, payload, raw = self._read_unusual(frame)
            if event.type != frame.event:
                payload, raw = named_frame(event, frame, payload, raw)
            if event.type != BLOCK_DELTA or len(event.error):
                passes = event is not NO_EVENT and self._take_other(event, payload)
            else:
                self._take_delta(event, payload)
                passes = True
            if self.done or self.failure is not None:
                break
            if not passes:
                continue
            items.append((event, raw, payload))
            raws.append(raw)
            if not self.has_output:
                self._hold(raw)
        if self.failure is not None and not self.has_output:
            items.clear()
            raws.clear()
        if not self.has_output or not items:
            return None
        self._held, self._held_raw = [], []
        return Batch(
            events=partial(policy_events, items, self._form, self.outputs), raw=b"".join(raws), outputs=self.outputs
        )

    def _read_unusual(self, frame: Frame) -> tuple[StreamEvent, bytes, bytes]:
        """Return the event of *frame*, its payload and its bytes, with its faults repaired; `NO_EVENT` where it is none.

        The end mark of OpenAI's streams, which some servers send here too, is dropped.
        """
        if frame.payload.lstrip().startswith(OPENAI_END_MARK):
            self.done = self.all_finished
            return NO_EVENT, b"", b""
        try:
            return repaired_frame(frame)
        except ValueError:
            found = error_of_event(frame.payload) if frame.event == ERROR_EVENT else error_of_list(frame.payload)
            self._fail(NOT_JSON if found is None else found)
            return NO_EVENT, b"", b""

    def _hold(self, raw: bytes) -> None:
        self._held_bytes += len(raw)
        if self._held_bytes > MAX_EARLY_BYTES or len(self._held) > MAX_EARLY_EVENTS:
            self.failure = MalformedAnswer("the stream has too many bytes or events before its first output")

    def _fail(self, failure: dict[str, Any] | MalformedAnswer) -> None:
        """Keep *failure*, unless the answer had finished before."""
        if not self.all_finished:
            self.failure = failure

    def _take_other(self, event: StreamEvent, payload: bytes) -> bool:
        """Take an event that is no delta of a block; return whether its client gets it."""
        kind = event.type
        if kind == ERROR_EVENT or has_content(event.error):
            self._fail(decode_error(payload) or {"message": ""})
            return False
        if kind == MESSAGE_STOP:
            self.done = True
            return False
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
            self._take_finish(event)
        else:
            return self._take_unknown(event, payload)
        return True

    def _take_start(self, event: StreamEvent) -> None:
        message = event.message
        if message is None:
            return
        if message.usage is not None:
            totals = self._reports.take(message.usage)
            self._first_output, totals.completion_tokens = totals.completion_tokens or 0, None
            totals.total_tokens = None
            self._report.take(totals, self.outputs)
        try:
            for block in first_items(message.content) if has_content(message.content) else ():
                self._add(output_of_block(block, whole=True))
        except AnswerTooComplex as error:
            self._fail(MalformedAnswer(str(error)))

    def _take_finish(self, event: StreamEvent) -> None:
        if event.usage is not None:
            self._report.take(self._reports.take(event.usage), self.outputs)
        if event.delta is not None and (reason := event.delta.stop_reason):
            self.all_finished = True
            self.finishes += 1
            self.says_why = self.says_why or reason not in USUAL_REASONS

    def _take_unknown(self, event: StreamEvent, payload: bytes) -> bool:
        """Take an event of an unknown type: what is in it counts, unless it is an error object without a type."""
        if not event.type and (found := find_error(Chunk(), payload)) is not None:
            self._fail(found)
            return False
        self._add(output_of_unknown(payload))
        if event.usage is not None:
            self._report.take(self._reports.take(event.usage), self.outputs)
        return True

    def _take_delta(self, event: StreamEvent, payload: bytes) -> None:
        """Take a piece of a block. Called for nearly every event."""
        delta = event.delta
        has_text = delta is not None and delta.thinking is None and delta.partial_json is None and delta.text
        if has_text and len(has_text) <= ONE_TOKEN_BYTES and has_text.isascii():
            self.outputs += 1
            self.has_output = True
            return
        found = output_of_delta(event, payload)
        self._add(found)
        if not found.tokens:
            self.finishes += 1  # progress, such as a signature

    def _add(self, found: Output) -> None:
        """Count output. Upstream may report fewer tokens than were estimated, but at least one for each piece."""
        if tokens := found.tokens:
            self.outputs += tokens
            self.has_output = True
            self._report.excess += max(0, tokens - max(1, found.least))

    def held(self) -> Batch:
        """See `Reading.held`."""
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

    def take_whole(self, body: bytes, *, as_stream: bool) -> Batch | None:
        """See `Reading.take_whole`."""
        steps = self.take_whole_steps(body, as_stream=as_stream)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                batch: Batch | None = end.value
                return batch

    def take_whole_steps(self, body: bytes, *, as_stream: bool) -> Generator[None, None, Batch | None]:
        """See `Reading.take_whole_steps`."""
        try:
            message = yield from whole_message_steps(body)
        except AnswerTooComplex as error:
            self.failure = MalformedAnswer(str(error))
            return None
        except ValueError:
            found = error_of_list(body)
            self.failure = MalformedAnswer("the answer is not JSON") if found is None else found
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

    def _count_whole(self, message: WholeMessage) -> Generator[None, None, None]:
        for block in message.blocks:
            self._add(output_of_block(block, whole=True))
            if message.is_large:
                yield
        if message.usage is not None:
            self._take_usage(message.usage)
        reason = message.stop_reason
        self.says_why = bool(reason) and reason not in USUAL_REASONS

    def _take_usage(self, usage: MessageUsage) -> None:
        self._report.take(self._reports.take(usage), self.outputs)
