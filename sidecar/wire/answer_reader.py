"""Read one answer, without I/O: frames to batches, its usage, and whether it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from policies.api.event import Batch
from policies.api.usage import Usage

from .answer_to_chunks import chunks_of, number_choices
from .choice_index import ChoiceIndexes
from .chunk import (
    Choice,
    Chunk,
    Item,
    decode_chunk,
    decode_object,
    event_of,
    events_of,
    other_outputs,
    read_repaired,
    with_index,
)
from .error_object import (
    MODEL_FAILED,
    NOT_JSON,
    MalformedAnswer,
    error_of_event,
    error_of_list,
    find_error,
    without_error,
)
from .output_tokens import tokens_of
from .reported_usage import Report
from .sse_reader import utf8

if TYPE_CHECKING:
    from .sse_reader import Frame

DONE_MARKER = b"[DONE]"
MAX_HELD_BYTES, MAX_HELD_EVENTS = 1_000_000, 1_000
"""Limits of what is held back before the first output."""
EMPTY_CHUNK = Chunk()

__all__ = ["AnswerReader", "MalformedAnswer"]


class AnswerReader(msgspec.Struct, kw_only=True, eq=False):
    """The state of one answer.

    Batches are returned from the first output on (anything but a role in a `delta`), so that an attempt that fails earlier
    can be repeated.  `shows_usage`: the client gets the usage chunk.  `answers`: choices that the client gets.
    `failure`: the error object that upstream sent, or why its answer is malformed.  `says_why`: a choice ended for
    another reason than `stop`.  `all_finished`: at least `answers` choices have finished, and all that were seen; a
    later failure is ignored.
    """

    shows_usage: bool = True
    answers: int = 1
    outputs: int = 0
    finishes: int = 0
    has_output: bool = False
    done: bool = False
    says_why: bool = False
    all_finished: bool = False
    failure: dict[str, Any] | MalformedAnswer | None = None
    _held: list[Item] = []
    _held_raw: list[bytes] = []
    _held_bytes: int = 0
    _indexes: ChoiceIndexes = msgspec.field(default_factory=ChoiceIndexes)
    _report: Report = msgspec.field(default_factory=Report)

    @property
    def finished(self) -> bool:
        """Whether every choice that was seen has finished: the end of the stream is then not a cut."""
        indexes = self._indexes
        return bool(indexes.seen) and len(indexes.finished) == len(indexes.seen)

    @property
    def usage(self) -> Usage:
        """Upstream's report where there is one, else the tokens read; a broken stream's report is a lower bound."""
        return self._report.usage(self.outputs, complete=self.done or self.finished)

    def take(self, frames: Sequence[Frame]) -> Batch | None:
        """Take the frames of one network read and return their batch; None before the first output.

        Stops at `[DONE]` and at the first failure.
        """
        items, raws = self._held, self._held_raw
        for frame in frames:
            payload = frame.payload
            try:
                chunk = decode_chunk(payload)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                if payload.lstrip().startswith(DONE_MARKER):
                    self.done = True
                    break
                chunk, payload = self._read_unusual(frame)
            if frame.event == "error":
                if chunk is not EMPTY_CHUNK:
                    self._take_failed(chunk, payload, error_of_event(payload), items, raws)
            elif chunk.error is None and (chunk.choices or chunk.usage is not None):
                self._take_chunk(chunk, frame.raw, payload, items, raws)
            elif chunk is not EMPTY_CHUNK:
                self._take_other(chunk, frame.raw, payload, items, raws)
            if not self.has_output:
                self._hold(frame)
            if self.failure is not None:
                break
        if not self.has_output or not items:
            return None
        self._held, self._held_raw = [], []
        return Batch(events=partial(events_of, items), raw=b"".join(raws))

    def _read_unusual(self, frame: Frame) -> tuple[Chunk, bytes]:
        """Return the chunk and the payload of *frame*, with its faults repaired; the empty chunk where that has failed."""
        payload = frame.payload
        try:
            return read_repaired(payload)
        except ValueError:
            found = error_of_event(payload) if frame.event == "error" else error_of_list(payload)
            self._fail(NOT_JSON if found is None else found)
            return EMPTY_CHUNK, payload

    def _fail(self, failure: dict[str, Any] | MalformedAnswer) -> bool:
        """Keep the first *failure*; False if all choices had finished, so that it is ignored."""
        if not self.all_finished and self.failure is None:
            self.failure = failure
        return not self.all_finished

    def _hold(self, frame: Frame) -> None:
        self._held_bytes += len(frame.raw)
        if self._held_bytes > MAX_HELD_BYTES or len(self._held) > MAX_HELD_EVENTS:
            self.failure = MalformedAnswer("the stream has too many bytes or events before its first output")
        if self.failure is not None:
            self._held, self._held_raw = [], []

    def _take_chunk(self, chunk: Chunk, raw: bytes, payload: bytes, items: list[Item], raws: list[bytes]) -> None:
        """Take a chunk that is no error."""
        if choices := chunk.choices:
            if self.all_finished and any(choice.finish_reason == "error" for choice in choices):
                return
            own = raw if len(choices) == 1 else b""
            is_silent = False
            for choice in choices:
                if choice.index not in self._indexes.steady:
                    payload = self._take_index(choice, payload, can_rise=bool(own) and self.answers == 1)
                if not self._count(choice):
                    is_silent = True
                items.append((choice, own, payload))
            raws.append(raw)
            if is_silent:
                self._count_others(choices, payload)
        elif chunk.usage is None or self.shows_usage:
            items.append((None, raw, payload))
            raws.append(raw)
        if chunk.usage is not None:
            self._report.take(chunk.usage, self.outputs)

    def _take_other(self, chunk: Chunk, raw: bytes, payload: bytes, items: list[Item], raws: list[bytes]) -> None:
        """Take a chunk that may be an error."""
        if (error := find_error(chunk, payload)) is None:
            self._take_chunk(chunk, raw, payload, items, raws)
            return
        self._take_failed(chunk, payload, error, items, raws)
        if chunk.usage is not None:
            self._report.take(chunk.usage, self.outputs)

    def _take_failed(
        self, chunk: Chunk, payload: bytes, error: dict[str, Any], items: list[Item], raws: list[bytes]
    ) -> None:
        """Take *error*, and the output beside it as a chunk without the error."""
        choices = chunk.choices or ()
        outputs = [tokens_of(choice) for choice in choices]
        if not any(outputs) and choices:
            outputs = other_outputs(payload)
        if not self._fail(error) or not any(outputs):
            return
        try:
            payload = without_error(payload)
        except ValueError:
            return
        raw = b"data: " + payload + b"\n\n"
        own = raw if len(choices) == 1 else b""
        items += [(choice, own, payload) for choice in choices]
        self.outputs += sum(outputs)
        self.has_output = True
        raws.append(raw)

    def _take_index(self, choice: Choice, payload: bytes, *, can_rise: bool) -> bytes:
        """Note the index of *choice*; return *payload*, with index 0 where the server's index counts chunks."""
        indexes, sent = self._indexes, choice.index
        known = len(indexes.seen)
        choice.index = indexes.take(sent, can_rise=can_rise)
        if len(indexes.seen) > known:
            self.all_finished = False
        return payload if choice.index == sent else with_index(payload, choice.index)

    def _count(self, choice: Choice) -> int:
        """Count the output of *choice* and note its finish; return the tokens, 0 if it has no output in known fields."""
        finish = choice.finish_reason
        if tokens := tokens_of(choice):
            self.outputs += tokens
            self.has_output = True
        if not finish:
            return tokens
        if finish == "error":
            self._fail(MODEL_FAILED)
        else:
            self.says_why = self.says_why or finish != "stop"
            seen, finished = self._indexes.seen, self._indexes.finished
            if choice.index not in finished:
                finished.add(choice.index)
                self.finishes += choice.index < self.answers
                self.all_finished = len(seen) == len(finished) >= self.answers
        return tokens

    def _count_others(self, choices: Sequence[Choice], payload: bytes) -> None:
        """Count the output of *choices*, those of *payload*, in fields that `Delta` does not have."""
        if choices[0].finish_reason and b'"delta":{}' in payload and payload.count(b'"delta"') == 1:
            return  # nearly every last chunk
        for choice, tokens in zip(choices, other_outputs(payload), strict=False):
            if tokens and not tokens_of(choice):
                self.outputs += tokens
                self.has_output = True

    def held(self) -> Batch:
        """Return the events that were held back, if any, as a batch."""
        batch = Batch(events=partial(events_of, self._held), raw=b"".join(self._held_raw))
        self._held, self._held_raw = [], []
        return batch

    def take_whole(self, body: bytes, *, as_stream: bool) -> Batch | None:
        """Take an answer that came as one JSON object; None where it is a failure.

        *as_stream*: the client streams, so the batch has one chunk for each choice.
        """
        body = body if body.isascii() else utf8(body)
        try:
            chunk, payload = read_repaired(body)
            data = decode_object(payload) if as_stream else {}
        except ValueError:
            self.failure = error_of_list(body) or MalformedAnswer("the answer is not JSON")
            return None
        self.failure = find_error(chunk, payload)
        if self.failure is not None:
            return None
        if not chunk.choices:
            self.failure = MalformedAnswer("the answer has no choices")
            return None
        events = [event_of(choice, b"", payload) for choice in chunk.choices]
        if as_stream:
            number_choices(events)
        is_silent = False
        for event, choice in zip(events, chunk.choices, strict=True):
            choice.index = event.index
            self._indexes.seen.add(choice.index)
            is_silent = not self._count(choice) or is_silent
        if is_silent:
            self._count_others(chunk.choices, payload)
        if chunk.usage is not None:
            self._report.take(chunk.usage, self.outputs)
        if any(event.finish == "error" for event in events):
            self.failure = MODEL_FAILED
            return None
        self.done = True
        if not as_stream:
            return Batch(events=events, raw=body, last=True)
        events = chunks_of(events, data, usage=self.shows_usage)
        return Batch(events=events, raw=b"".join(event.raw for event in events), last=True)
