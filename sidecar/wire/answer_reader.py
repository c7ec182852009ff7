"""Read one answer, without I/O: frames to batches, its usage, and whether it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from policies.api.event import Batch, Event
from policies.api.tokens import SHORT_PIECE, streamed_tokens
from policies.api.usage import Usage

from .answer_to_chunks import chunks_of, number_choices
from .chunk import (
    Choice,
    Chunk,
    Delta,
    Item,
    decode_chunk,
    decode_object,
    event_of,
    events_of,
    has_content,
    read_repaired,
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
from .reported_usage import Report, least_tokens_of
from .sse_reader import utf8

if TYPE_CHECKING:
    from .sse_reader import Frame

DONE_MARKER = b"[DONE]"
MAX_HELD_BYTES, MAX_HELD_EVENTS = 1_000_000, 1_000
"""Limits of what is held back before the first output."""
TOOL_PIECE_BYTES_PER_TOKEN = 16
"""Bytes per token of a streamed piece of a tool call, most of which is JSON syntax; also of audio."""
TOOL_CALL_BYTES_PER_TOKEN = 4
"""Bytes per token of a tool call in a whole answer."""

EMPTY_CHUNK = Chunk()

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
    _may_report: bool = False  # the chunk has a finish or a choice without output: usage may be anywhere in it

    @property
    def finished(self) -> bool:
        """Whether every choice that was seen has finished: the end of the stream is then not a cut."""
        return bool(self._seen) and len(self._finished) == len(self._seen)

    @property
    def open_choices(self) -> list[int]:
        """The indices of the choices that have not finished, also of those that have not begun."""
        return sorted((self._seen | set(range(self.answers))) - self._finished)

    @property
    def usage(self) -> Usage:
        """Upstream's report and the tokens read, by the rules of `reported_usage`."""
        return self._report.usage(self.outputs)

    @property
    def is_answered_without_choices(self) -> bool:
        """Whether upstream reported that it worked, and sent no choice: another attempt would be charged once more."""
        return not self._seen and self._report.is_known

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
            self._fail(error_of_event(payload) if frame.event == "error" else error_of_list(payload) or NOT_JSON)
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
            for choice in choices:
                self._count(choice)
                items.append((choice, own, payload))
            raws.append(raw)
        else:
            self._may_report = True
            if chunk.usage is None or self.shows_usage:
                items.append((None, raw, payload))
                raws.append(raw)
        if self._may_report:
            self._may_report = False
            self._report.take_all(chunk.usage, payload, self.outputs)
        elif chunk.usage is not None:
            self._report.take(chunk.usage, self.outputs)

    def _take_other(self, chunk: Chunk, raw: bytes, payload: bytes, items: list[Item], raws: list[bytes]) -> None:
        """Take a chunk that may be an error."""
        if (error := find_error(chunk, payload)) is None:
            self._take_chunk(chunk, raw, payload, items, raws)
        else:
            self._take_failed(chunk, payload, error, items, raws)

    def _take_failed(
        self, chunk: Chunk, payload: bytes, error: dict[str, Any], items: list[Item], raws: list[bytes]
    ) -> None:
        """Take *error*, the output beside it as a chunk without the error, and the usage beside it."""
        choices = chunk.choices or ()
        has_output = self._fail(error) and any(event_of(choice, b"", b"").is_output for choice in choices)
        try:
            rest = without_error(payload) if has_output else b""
        except ValueError:
            rest = b""
        if rest:
            raws.append(raw := b"data: " + rest + b"\n\n")
            for choice in choices:
                items.append((choice, raw if len(choices) == 1 else b"", rest))
                self._add_output(choice, _tokens_of(choice))
        self._report.take_all(chunk.usage, payload, self.outputs)

    def _count(self, choice: Choice) -> None:
        index, finish = choice.index, choice.finish_reason
        if index not in self._seen:
            self._seen.add(index)
            self.all_finished = False
        tokens = _tokens_of(choice)
        if tokens == 1:  # nearly every piece of a stream
            self.outputs += 1
            self.has_output = True
        elif tokens:
            self._add_output(choice, tokens)
        elif self.has_output:
            self._may_report = True
        if not finish:
            return
        self._may_report = True
        if finish == "error":
            self._fail(MODEL_FAILED)
        else:
            self.says_why = self.says_why or finish != "stop"
            if index not in self._finished:
                self._finished.add(index)
                self.finishes += index < self.answers
                self.all_finished = len(self._seen) == len(self._finished) >= self.answers

    def _add_output(self, choice: Choice, tokens: int) -> None:
        """Count output of several *tokens*, an estimate; 0 for none."""
        if tokens:
            self.outputs += tokens
            self.has_output = True
            self._report.excess += max(0, tokens - least_tokens_of(choice))

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
        failure: dict[str, Any] | MalformedAnswer | None = find_error(chunk, payload)
        choices = chunk.choices or () if failure is None else ()
        events = [event_of(choice, b"", payload) for choice in choices]
        if as_stream:
            number_choices(events)
        for event, choice in zip(events, choices, strict=True):
            choice.index = event.index
            self._count(choice)
        self._report.take_all(chunk.usage, payload, self.outputs)
        if any(event.finish == "error" for event in events):
            failure = MODEL_FAILED
        elif not choices and failure is None:
            events = [] if as_stream else [Event(raw=body, payload=payload, index=-1, whole=True)]
            failure = None if self._report.is_known else MalformedAnswer("the answer has no choices")
        self.failure = failure
        if failure is not None:
            return None
        self.done = True
        if not as_stream:
            return Batch(events=events, raw=body, last=True)
        events = chunks_of(events, data, usage=self.shows_usage)
        return Batch(events=events, raw=b"".join(event.raw for event in events), last=True)


def _tokens_of(choice: Choice) -> int:
    """Estimate the tokens of a choice: of its `message` as a whole answer, else of its `delta` as a piece of a stream."""
    part, whole = choice.delta, False
    if part is None:
        if (part := choice.message) is None:
            return 0
        whole = True
    content = part.content
    if not content:
        tokens = 0
    elif not whole and len(content) <= SHORT_PIECE and content.isascii():
        tokens = 1  # nearly every piece of a stream
    else:
        tokens = streamed_tokens(content, whole=whole)
    if part.refusal:
        tokens += streamed_tokens(part.refusal, whole=whole)
    if part.reasoning:
        tokens += streamed_tokens(part.reasoning, whole=whole)
    # Some servers send the same text under both names, for old and new clients: it is counted once.
    if part.reasoning_content and part.reasoning_content != part.reasoning:
        tokens += streamed_tokens(part.reasoning_content, whole=whole)
    if part.tool_calls is not None or part.function_call is not None or part.audio is not None:
        tokens += _tool_tokens(part, TOOL_CALL_BYTES_PER_TOKEN if whole else TOOL_PIECE_BYTES_PER_TOKEN)
    return tokens


def _tool_tokens(part: Delta, size: int) -> int:
    pieces = ((part.tool_calls, size), (part.function_call, size), (part.audio, TOOL_PIECE_BYTES_PER_TOKEN))
    return sum(1 + len(bytes(raw)) // per_token for raw, per_token in pieces if raw is not None and has_content(raw))
