"""Read one answer of the Responses API, without I/O: events to batches, its usage, and whether it is complete."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from policies.api.decoding.token_counts import SHORT_PIECE, least_tokens, streamed_tokens, value_tokens
from policies.api.event import Batch, Event, WholeBatch
from sidecar.wire.answer_counts import MAX_HELD_EVENTS, TOO_MUCH_HELD, AnswerState, unreadable_answer
from sidecar.wire.answer_form import MAX_ANSWER_BYTES
from sidecar.wire.answer_reader import DONE_MARKER
from sidecar.wire.chunk import Chunk
from sidecar.wire.decoding.one_step import result_of
from sidecar.wire.error_object import MalformedAnswer, error_of_event, find_error, unreadable_event
from sidecar.wire.output_tokens import NO_OUTPUT, CountedOutput
from sidecar.wire.stored.created import CreatedIds
from sidecar.wire.whole_answer import AnswerTooComplex

from .events.closing_events import encoded_event, ending_events, usage_object
from .events.outline import Outline, item_key_of, part_names
from .events.output_items import counted_item, counted_text, text_of_part
from .events.response_event import (
    DONE_ENDING,
    DONE_ITEM,
    ERROR_TYPE,
    TERMINAL_TYPES,
    PartKind,
    ReadItem,
    ResponseEvent,
    decode_event,
    event_of_object,
    is_silent,
    kind_of,
    other_output,
    read_event,
)
from .events.response_object import FAILED_STATUSES, counted_output, failure_of, read_response, without_envelope
from .filtered.event_form import ResponsesForm
from .whole_response import WholeResponse, streamed_items, whole_response_steps

if TYPE_CHECKING:
    from sidecar.wire.sse_reader import Frame

CEILING_REASON = "max_output_tokens"
NO_TERMINAL = MalformedAnswer("the terminal event has no response object")


class ResponsesReader(AnswerState, kw_only=True, eq=False):
    """The state of one answer. See `sidecar.wire.operations.operation.Reading` for its public fields."""

    created: CreatedIds | None = None
    """Gets the ids that the answer names, where upstream stores it."""
    _held: list[ReadItem] = msgspec.field(default_factory=list)
    _held_raw: list[bytes] = msgspec.field(default_factory=list)
    _held_bytes: int = 0
    _outline: Outline = msgspec.field(default_factory=Outline)
    _form: ResponsesForm | None = None
    _reasoning: int = 0

    @property
    def finished(self) -> bool:
        """Whether the terminal event was read."""
        return self.done

    @property
    def is_answered(self) -> bool:
        """Whether upstream reported output tokens for a complete answer without output."""
        return self.usage.output > 0

    @property
    def form(self) -> ResponsesForm:
        """The form in which policies see the events."""
        if self._form is None:
            self._form = ResponsesForm()
        return self._form

    def take(self, frames: Sequence[Frame]) -> Batch | None:
        """See `sidecar.wire.operations.operation.Reading.take`."""
        items, raws = self._held, self._held_raw
        for frame in frames:
            payload = frame.payload
            try:
                event = decode_event(payload)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                if payload.lstrip().startswith(DONE_MARKER):
                    continue
                event, payload = self._read_unusual(frame)
            if type(delta := event.delta) is str and frame.event != ERROR_TYPE:
                self._take_delta(event, delta)
            else:
                self._take_other(event, payload, is_error=frame.event == ERROR_TYPE)
            if self.failure is None:
                items.append((event, frame.raw, payload))
                raws.append(frame.raw)
            if not self.has_output:
                self._hold(frame)
            if self.done or self.failure is not None:
                break
        if not self.has_output or not items:
            return None
        self._held, self._held_raw = [], []
        return Batch(events=partial(self._events_of, items), raw=b"".join(raws), outputs=self.outputs)

    def _events_of(self, items: Sequence[ReadItem]) -> list[Event]:
        return self.form.events_of(items)

    def _read_unusual(self, frame: Frame) -> tuple[ResponseEvent, bytes]:
        """Return the event in *frame*, with its faults repaired; an empty one where that has failed."""
        payload = frame.payload
        try:
            return read_event(payload)
        except ValueError:
            self.failure = unreadable_event(payload, frame.event)
            return ResponseEvent(), payload

    def _hold(self, frame: Frame) -> None:
        self._held_bytes += len(frame.raw)
        # The first two events repeat the instructions and the tools of the request, so that they may be large.
        if self._held_bytes > MAX_ANSWER_BYTES or len(self._held) > MAX_HELD_EVENTS:
            self.failure = TOO_MUCH_HELD
        if self.failure is not None:
            self._held, self._held_raw = [], []

    def _take_delta(self, event: ResponseEvent, delta: str) -> None:
        """Take a piece of output. Called for each token."""
        part = self._outline.add_delta(event, delta)
        if not delta:
            return
        kind = kind_of(event.type) if part is None else part.kind
        if len(delta) <= SHORT_PIECE and delta.isascii():
            tokens = 1
        elif kind is PartKind.OTHER and part is not None and not part.name.endswith(("arguments", "input", "code")):
            tokens = value_tokens(delta)  # such as audio
        else:
            tokens = streamed_tokens(delta)
        if tokens > 1:
            self._report.excess += tokens - max(1, least_tokens(delta))
        self.outputs += tokens
        self.has_output = True
        if kind is PartKind.REASONING:
            self._reasoning += tokens

    def _take_other(self, event: ResponseEvent, payload: bytes, *, is_error: bool) -> None:
        """Take an event that is no piece of text: a state, a repetition, the end, an error, or one of an unknown type."""
        if self.failure is not None:
            return
        kind = event.type
        if is_error or kind == ERROR_TYPE:
            self.failure = without_envelope(error_of_event(payload))
            return
        if not kind and (error := find_error(Chunk(error=event.error), payload)) is not None:
            self.failure = error
            return
        if self.created is not None and event.response is not None:
            self.created.note_event(payload)
        counted = self._unseen(event, kind, payload)
        self._outline.add_other(event)
        self._add(counted)
        if kind in TERMINAL_TYPES:
            self._take_terminal(event, payload)
        elif kind == DONE_ITEM:
            self.finishes += 1

    def _unseen(self, event: ResponseEvent, kind: str, payload: bytes) -> CountedOutput:
        """Return the output in *event* that no delta has shown."""
        outline = self._outline
        try:
            if event.item is not None:
                seen = outline.parts_of(item_key_of(event))
                return counted_item(event.item) if kind == DONE_ITEM and not any(map(_has_text, seen)) else NO_OUTPUT
            if event.part is not None:
                text = text_of_part(event.part)
                part = next((outline.part(event, name, adds=True) for name in part_names(kind, event.part)), None)
                return counted_text(outline.add_rest(part, text))
            if kind.endswith(DONE_ENDING):
                text = event.repeated
                part = outline.part(event, kind.removesuffix(DONE_ENDING), adds=bool(text))
                return counted_text(outline.add_rest(part, text))
            if kind in TERMINAL_TYPES or is_silent(kind):
                return NO_OUTPUT
        except AnswerTooComplex as error:
            self.failure = MalformedAnswer(str(error))
            return NO_OUTPUT
        tokens = other_output(payload)
        return CountedOutput(tokens, min(tokens, 1))

    def _take_terminal(self, event: ResponseEvent, payload: bytes) -> None:
        """Take the event that ends the answer, with the reported usage."""
        try:
            response = read_response(event.response or b"")
        except ValueError:
            self.failure = NO_TERMINAL
            return
        kind = event.type
        if kind == "response.failed" or response.status in FAILED_STATUSES:
            self.failure = failure_of(response)
        elif not self.has_output:
            try:
                self._add(result_of(counted_output(response)))
            except AnswerTooComplex as error:
                self.failure = MalformedAnswer(str(error))
        self._report.take_all(response.usage, payload, self.outputs)
        if self.failure is None:
            self.done = self.all_finished = True
            self.says_why = kind == "response.incomplete" or response.status == "incomplete"

    def held(self) -> Batch:
        """See `sidecar.wire.operations.operation.Reading.held`."""
        batch = Batch(events=partial(self._events_of, self._held), raw=b"".join(self._held_raw))
        self._held, self._held_raw = [], []
        return batch

    def cut_off(self, sample: bytes, prompt_tokens: int) -> Batch:
        """See `sidecar.wire.operations.operation.Reading.cut_off`."""
        usage = usage_object(self.usage, prompt_tokens, self._reasoning)
        items: list[ReadItem] = []
        for fields in ending_events(self._outline, CEILING_REASON, usage):
            raw, payload = encoded_event(fields)
            items.append((event_of_object(fields), raw, payload))
        return Batch(events=partial(self._events_of, items), raw=b"".join(raw for _, raw, _ in items), last=True)

    def take_whole_steps(self, body: bytes, *, as_stream: bool) -> Generator[None, None, Batch | None]:
        """See `sidecar.wire.operations.operation.Reading.take_whole_steps`."""
        try:
            answer: WholeResponse = yield from whole_response_steps(body)
            self.failure = answer.failure
            if answer.failure is None:
                self._add((yield from counted_output(answer.response)))
            self._report.take_all(answer.response.usage, answer.payload, self.outputs)
            if answer.failure is None and not len(answer.response.output) and not self._report.is_known:
                self.failure = MalformedAnswer("the answer has no output")
            if self.failure is not None:
                return None
            self.done = self.all_finished = True
            if self.created is not None:
                self.created.note_answer(answer.payload)
            self.says_why = answer.response.status == "incomplete"
            if as_stream:
                yield
                items = yield from streamed_items(answer)
                raw = b"".join(raw for _, raw, _ in items)
                return Batch(events=partial(self._events_of, items), raw=raw, last=True)
        except ValueError as fault:
            self.failure = unreadable_answer(fault, body)
            return None
        events = partial(self.form.whole_events, answer.payload)
        return WholeBatch(events=events, raw=answer.body, payload=answer.payload)


def _has_text(part: Any) -> bool:
    return bool(part.text.tell()) or not part.is_whole
