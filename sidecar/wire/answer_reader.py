"""Read one answer: frames to batches, its usage, and whether it is complete.  No input or output."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from policies.api.event import Batch, Event
from policies.api.usage import Usage

from .answer_to_chunks import chunks_of, number_choices
from .chunk import Choice, Chunk, decode_object, event_of, read_chunks, read_repaired
from .error_object import (
    MODEL_FAILED,
    NOT_JSON,
    MalformedAnswer,
    error_of_event,
    error_of_list,
    find_error,
    without_error,
)
from .reported_usage import Report
from .sse_reader import utf8

if TYPE_CHECKING:
    from .sse_reader import Frame

DONE_MARKER = b"[DONE]"
MAX_HELD_BYTES, MAX_HELD_EVENTS = 1_000_000, 1_000
"""Limits of what is held back before the first output."""

EMPTY_CHUNK = Chunk()
Item: TypeAlias = "tuple[Choice | None, bytes, bytes]"
"""An event that is not built yet: its choice (None for a frame without one), its own bytes, its frame's JSON."""

__all__ = ["AnswerReader", "MalformedAnswer"]


class AnswerReader(msgspec.Struct, kw_only=True, eq=False):
    """The state of one answer.

    Batches are returned from the first output (text, reasoning, a tool call) on, so that an attempt that fails earlier
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
    _seen: set[int] = set()
    _finished: set[int] = set()
    _report: Report = msgspec.field(default_factory=Report)

    @property
    def finished(self) -> bool:
        """Whether every choice that was seen has finished: the end of the stream is then not a cut."""
        return bool(self._seen) and len(self._finished) == len(self._seen)

    @property
    def usage(self) -> Usage:
        """Upstream's report where there is one, else the tokens read; a broken stream's report is a lower bound."""
        return self._report.usage(self.outputs, complete=self.done or self.finished)

    def take(self, frames: Sequence[Frame]) -> Batch | None:
        """Take the frames of one network read and return their batch; None before the first output.

        Stops at `[DONE]` and at the first failure.
        """
        items, raws = self._held, self._held_raw
        chunks = read_chunks(frames) if len(frames) > 1 else []
        decoded = len(chunks)
        for at, frame in enumerate(frames):
            payload = frame.payload
            if at < decoded:
                chunk = chunks[at]
            elif not payload.startswith(b"{") and payload.lstrip().startswith(DONE_MARKER):
                self.done = True
                break
            else:
                try:
                    chunk, payload = read_repaired(payload)
                except ValueError:
                    self._fail(
                        error_of_event(payload) if frame.event == "error" else error_of_list(payload) or NOT_JSON
                    )
                    chunk = EMPTY_CHUNK
            if frame.event == "error":
                if chunk is not EMPTY_CHUNK:
                    self._take_failed(chunk, payload, error_of_event(payload), items, raws)
            elif chunk.error is None and chunk.choices:
                self._take_choices(chunk, frame.raw, payload, items, raws)
            elif chunk is not EMPTY_CHUNK:
                self._take_other(chunk, frame.raw, payload, items, raws)
            if not self.has_output:
                self._hold(frame)
            if self.failure is not None:
                break
        if not self.has_output or not items:
            return None
        self._held, self._held_raw = [], []
        return Batch(events=partial(_events, items), raw=b"".join(raws))

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

    def _take_choices(self, chunk: Chunk, raw: bytes, payload: bytes, items: list[Item], raws: list[bytes]) -> None:
        choices = chunk.choices or ()
        if self.all_finished and any(choice.finish_reason == "error" for choice in choices):
            return
        own = raw if len(choices) == 1 else b""
        for choice in choices:
            self._count(choice)
            items.append((choice, own, payload))
        raws.append(raw)
        if chunk.usage is not None:
            self._report.take(chunk.usage, self.outputs)

    def _take_other(self, chunk: Chunk, raw: bytes, payload: bytes, items: list[Item], raws: list[bytes]) -> None:
        """Take a chunk with an error, or without choices."""
        if (error := find_error(chunk, payload)) is not None:
            self._take_failed(chunk, payload, error, items, raws)
        elif chunk.choices:
            self._take_choices(chunk, raw, payload, items, raws)
        elif chunk.usage is None or self.shows_usage:
            items.append((None, raw, payload))
            raws.append(raw)
        if chunk.usage is not None:
            self._report.take(chunk.usage, self.outputs)

    def _take_failed(
        self, chunk: Chunk, payload: bytes, error: dict[str, Any], items: list[Item], raws: list[bytes]
    ) -> None:
        """Take *error*, and the output beside it as a chunk without the error."""
        choices = chunk.choices or ()
        if not self._fail(error) or not any(event_of(choice, b"", b"").is_output for choice in choices):
            return
        try:
            payload = without_error(payload)
        except ValueError:
            return
        raw = b"data: " + payload + b"\n\n"
        for choice in choices:
            items.append((choice, raw if len(choices) == 1 else b"", payload))
            self.outputs += choice.tokens
        self.has_output = True
        raws.append(raw)

    def _count(self, choice: Choice) -> None:
        index, finish = choice.index, choice.finish_reason
        if index not in self._seen:
            self._seen.add(index)
            self.all_finished = False
        if tokens := choice.tokens if choice.delta is None else choice.delta.tokens():
            self.outputs += tokens
            self.has_output = True
        if not finish:
            return
        if finish == "error":
            self._fail(MODEL_FAILED)
        else:
            self.says_why = self.says_why or finish != "stop"
            if index not in self._finished:
                self._finished.add(index)
                self.finishes += index < self.answers
                self.all_finished = len(self._seen) == len(self._finished) >= self.answers

    def last(self, batch: Batch | None) -> Batch:
        """Return *batch* as the last one; in place of None, the events that were held back, if any."""
        if batch is None:
            batch = Batch(events=partial(_events, self._held), raw=b"".join(self._held_raw))
            self._held, self._held_raw = [], []
        batch.last = True
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
        for event, choice in zip(events, chunk.choices, strict=True):
            choice.index = event.index
            self._count(choice)
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


def _events(items: Sequence[Item]) -> list[Event]:
    return [
        Event(raw=raw, payload=payload, index=-1) if choice is None else event_of(choice, raw, payload)
        for choice, raw, payload in items
    ]
