"""An answer as it comes in: frames to batches, what it has cost, and whether it is complete.  No input or output."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from policies.api.event import Batch, Event
from policies.api.usage import Usage

from .answer_to_chunks import numbered, pieces_of
from .chunk import Choice, Chunk, decoded, event_of, read_chunks, read_mended
from .error_object import MODEL_FAILED, NOT_JSON, MalformedAnswer, find_error, innermost_error, without_error
from .reported_usage import Report
from .sse_reader import utf8

if TYPE_CHECKING:
    from .sse_reader import Frame

DONE = b"[DONE]"
HELD_BYTES, HELD_EVENTS = 1_000_000, 1_000
"""What is held back of an answer whose first output does not come."""

NOTHING = Chunk()
Item: TypeAlias = "tuple[Choice | None, bytes, bytes]"
"""What an event is made of: its choice (None for a frame that belongs to none), its bytes alone, its frame's JSON."""

__all__ = ["AnswerReader", "MalformedAnswer"]


class AnswerReader(msgspec.Struct, kw_only=True, eq=False):
    """The state of one answer.

    Nothing is handed out before the first output (text, reasoning, a tool call), so that an attempt that fails before it
    can be made again.  `failure` is the error object that upstream sent, if it sent one.  `all_finished`: as many answers
    as were asked for have their finish, and every one that was seen; no failure that comes later is one.
    """

    shows_usage: bool = True
    answers: int = 1
    outputs: int = 0
    finishes: int = 0
    has_output: bool = False
    done: bool = False
    says_why: bool = False
    all_finished: bool = False
    failure: object = None
    _held: list[Item] = []
    _held_raw: list[bytes] = []
    _held_bytes: int = 0
    _seen: set[int] = set()
    _finished: set[int] = set()
    _report: Report = msgspec.field(default_factory=Report)

    @property
    def finished(self) -> bool:
        """Whether every answer that was seen has its finish: from then on, an end is an end and no cut."""
        return bool(self._seen) and len(self._finished) == len(self._seen)

    @property
    def progress(self) -> int:
        """A number that rises with each output and each finish of an answer that was asked for, and with nothing else."""
        return self.outputs + self.finishes

    @property
    def complete(self) -> bool:
        """Whether upstream said that it is over."""
        return self.done or self.finished

    @property
    def usage(self) -> Usage:
        """Upstream's report where there is one, else what was read; a broken stream's report is a lower bound."""
        return self._report.usage(self.outputs, complete=self.done or self.finished)

    def take(self, frames: Sequence[Frame]) -> Batch | None:
        """Take what one network read completed; None while there is nothing to show.  Stops at `[DONE]` or an error."""
        items, raws = self._held, self._held_raw
        chunks = read_chunks(frames) if len(frames) > 1 else []
        known = len(chunks)
        for at, frame in enumerate(frames):
            payload = frame.payload
            if at < known:
                chunk = chunks[at]
            elif not payload.startswith(b"{") and payload.lstrip().startswith(DONE):
                self.done = True
                break
            else:
                try:
                    chunk, payload = read_mended(payload)
                except ValueError:
                    self._fail(innermost_error(payload) if frame.event == "error" else NOT_JSON)
                    chunk = NOTHING
            if frame.event == "error":
                if chunk is not NOTHING:
                    self._take_failed(chunk, payload, innermost_error(payload), items, raws)
            elif chunk.error is None and chunk.choices:
                self._take_choices(chunk, frame.raw, payload, items, raws)
            elif chunk is not NOTHING:
                self._take_other(chunk, frame.raw, payload, items, raws)
            if not self.has_output:
                self._hold(frame)
            if self.failure is not None:
                break
        if not self.has_output or not items:
            return None
        self._held, self._held_raw = [], []
        return Batch(events=partial(_events, items), raw=b"".join(raws))

    def _fail(self, said: object) -> bool:
        """Note the failure that *said* tells of; False where all had ended by then, so that it changes nothing."""
        if not self.all_finished and self.failure is None:
            self.failure = {} if said is None else said
        return not self.all_finished

    def _hold(self, frame: Frame) -> None:
        self._held_bytes += len(frame.raw)
        if self._held_bytes > HELD_BYTES or len(self._held) > HELD_EVENTS:
            self.failure = MalformedAnswer("the stream has too much in it before its first output")
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
        """Take what is more than choices, or has none."""
        if (said := find_error(chunk, payload)) is not None:
            self._take_failed(chunk, payload, said, items, raws)
        elif chunk.choices:
            self._take_choices(chunk, raw, payload, items, raws)
        elif chunk.usage is None or self.shows_usage:
            items.append((None, raw, payload))
            raws.append(raw)
        if chunk.usage is not None:
            self._report.take(chunk.usage, self.outputs)

    def _take_failed(self, chunk: Chunk, payload: bytes, said: object, items: list[Item], raws: list[bytes]) -> None:
        """Take the output that stands beside an error, in a chunk without it."""
        choices = chunk.choices or ()
        if not self._fail(said) or not any(event_of(choice, b"", b"").is_output for choice in choices):
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
        """Return *batch* as the last one, or what was held back where nothing was ever shown."""
        if batch is None:
            batch = Batch(events=partial(_events, self._held), raw=b"".join(self._held_raw))
            self._held, self._held_raw = [], []
        batch.last = True
        return batch

    def take_whole(self, body: bytes, *, as_stream: bool) -> Batch | None:
        """Take an answer that came as one JSON object; for a client that streams, as one piece for each choice."""
        body = body if body.isascii() else utf8(body)
        try:
            chunk, payload = read_mended(body)
            data = decoded(payload) if as_stream else {}
        except ValueError:
            self.failure = MalformedAnswer("the answer is not JSON")
            return None
        self.failure = find_error(chunk, payload)
        if self.failure is not None:
            return None
        if not chunk.choices:
            self.failure = MalformedAnswer("the answer has no choices")
            return None
        events = [event_of(choice, b"", payload) for choice in chunk.choices]
        if as_stream:
            numbered(events)
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
        events = pieces_of(events, data, usage=self.shows_usage)
        return Batch(events=events, raw=b"".join(event.raw for event in events), last=True)


def _events(items: Sequence[Item]) -> list[Event]:
    return [
        Event(raw=raw, payload=payload, index=-1) if choice is None else event_of(choice, raw, payload)
        for choice, raw, payload in items
    ]
