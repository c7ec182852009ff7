"""An answer as it comes in: frames to batches, what it has cost, and whether it is complete.  No input or output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from policies.event import Batch, Event, Usage
from policies.tokens import streamed_tokens

from .chunk import Choice, Chunk, Reported, event_of, read_mended

if TYPE_CHECKING:
    from .sse import Frame

DONE = b"[DONE]"
TOOL_BYTES = 16
"""Bytes of a tool call's piece that count as one token: most of them are the JSON around it."""


class Nonsense(str):
    """Something that is no answer at all; upstream may have worked on the prompt all the same."""

    __slots__ = ()


class Reading:
    """The state of one answer.

    Nothing is handed out before the first output (text, reasoning, a tool call), so that an attempt that fails before it
    can be made again.  `failure` is the error object that upstream sent, if it sent one.
    """

    def __init__(self, *, shows_usage: bool = True) -> None:
        self._shows_usage = shows_usage
        self._held: list[Event] = []
        self._held_raw: list[bytes] = []
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._report: Reported | None = None
        self._output = 0
        self.has_output = self.done = self.says_why = False
        self.failure: object = None

    @property
    def finished(self) -> bool:
        """Whether every answer that was seen has its finish: from then on, an end is an end and no cut."""
        return bool(self._seen) and len(self._finished) == len(self._seen)

    @property
    def progress(self) -> int:
        """A number that rises with each output and each finish, and with nothing else."""
        return self._output + len(self._finished)

    @property
    def complete(self) -> bool:
        """Whether upstream said that it is over."""
        return self.done or self.finished

    @property
    def usage(self) -> Usage:
        """Upstream's report where there is one, else what was read; a broken stream's report is a lower bound.

        A negative number is none: it must not make a call free.
        """
        report = self._report
        if report is None or report.prompt_tokens is None or report.prompt_tokens < 0:
            prompt, unreported, cached = 0, 1, 0
        else:
            prompt, unreported = report.prompt_tokens, 0
            details = report.prompt_tokens_details
            cached = min(prompt, max(0, (details and details.cached_tokens) or 0))
        output = self._output
        if report is not None and report.completion_tokens is not None and report.completion_tokens >= 0:
            output = report.completion_tokens if self.complete else max(output, report.completion_tokens)
        return Usage(prompt, output, cached, unreported)

    def take(self, frames: Sequence[Frame]) -> Batch | None:
        """Take what one network read completed; None while there is nothing to show.  Stops at `[DONE]` or an error."""
        events, raws = self._held, self._held_raw
        for frame in frames:
            if frame.payload.startswith(DONE):
                self.done = True
                break
            if frame.event == "error":
                self.failure = _decoded(frame.payload)
                break
            try:
                chunk, payload = read_mended(frame.payload)
            except ValueError:
                self.failure = Nonsense("the stream has an event that is not JSON")
                break
            if not self._take_chunk(chunk, frame.raw, payload, events):
                continue
            if self.failure is not None:
                break
            raws.append(frame.raw)
        if not self.has_output or not events:
            return None
        self._held, self._held_raw = [], []
        return Batch(events=events, raw=b"".join(raws))

    def _take_chunk(self, chunk: Chunk, raw: bytes, payload: bytes, events: list[Event]) -> bool:
        """Add the events of *chunk*; False where the client is not to see it."""
        if chunk.error is not None and (error := _decoded(bytes(chunk.error))) is not None:
            self.failure = error
            return True
        if chunk.usage is not None:
            self._report = chunk.usage
        choices = chunk.choices
        if not choices:
            if chunk.usage is not None and not self._shows_usage:
                return False
            events.append(Event(raw=raw, payload=payload, index=-1))
            return True
        own = raw if len(choices) == 1 else b""
        for choice in choices:
            event = event_of(choice, own, payload)
            self._count(event, choice)
            events.append(event)
        return True

    def _count(self, event: Event, choice: Choice) -> None:
        self._seen.add(event.index)
        if event.text:
            self._output += streamed_tokens(event.text)
            self.has_output = True
        if event.reasoning:
            self._output += streamed_tokens(event.reasoning)
            self.has_output = True
        if event.tool:
            part = choice.delta or choice.message
            pieces = () if part is None else (part.tool_calls, part.function_call, part.audio)
            self._output += sum(1 + len(bytes(raw)) // TOOL_BYTES for raw in pieces if raw is not None)
            self.has_output = True
        if event.finish is not None:
            self._finished.add(event.index)
            if event.finish == "error":
                self.failure = {"message": "the model failed", "code": "error"}
            self.says_why = self.says_why or event.finish != "stop"

    def last(self, batch: Batch | None) -> Batch:
        """Return *batch* as the last one, or what was held back where nothing was ever shown."""
        if batch is None:
            batch = Batch(events=self._held, raw=b"".join(self._held_raw))
            self._held, self._held_raw = [], []
        batch.last = True
        return batch

    def take_whole(self, body: bytes, *, as_stream: bool) -> Batch | None:
        """Take an answer that came as one JSON object; for a client that streams, as one piece for each choice."""
        try:
            chunk, payload = read_mended(body)
        except ValueError:
            self.failure = Nonsense("the answer is not JSON")
            return None
        if chunk.error is not None and (error := _decoded(bytes(chunk.error))) is not None:
            self.failure = error
            return None
        if not chunk.choices:
            self.failure = Nonsense("the answer has no choices")
            return None
        self._report, self.done = chunk.usage, True
        events = []
        for choice in chunk.choices:
            event = event_of(choice, b"", payload)
            self._count(event, choice)
            events.append(_piece(event) if as_stream else event)
        raw = b"".join(event.raw for event in events) if as_stream else body
        return Batch(events=events, raw=raw, last=True)


def _piece(event: Event) -> Event:
    data = event.data
    choices = data.get("choices") or []
    found = (dict(each) for each in choices if isinstance(each, dict) and each.get("index", 0) == event.index)
    choice: dict[str, Any] = next(found, {"index": event.index})
    choice["delta"] = choice.pop("message", {})
    chunk: dict[str, Any] = {key: data[key] for key in ("id", "created", "model") if key in data}
    chunk |= {"object": "chat.completion.chunk", "choices": [choice]}
    payload = msgspec.json.encode(chunk)
    event.payload, event.raw, event.whole = payload, b"data: " + payload + b"\n\n", False
    return event


def _decoded(payload: bytes) -> object:
    try:
        decoded: object = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return payload.decode("utf-8", "replace")
    if isinstance(decoded, dict) and decoded.get("error"):
        return decoded["error"]
    return decoded
