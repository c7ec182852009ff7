"""What comes back: pieces of an answer, in batches of one network read each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec


class Event(msgspec.Struct, kw_only=True, eq=False, gc=False):
    """One piece of one answer.

    `raw` are the bytes as they go to an OpenAI client, framing included; empty for a piece that was made or changed
    here.  `payload` is the JSON object that it came in.  `index` says which of the answers it belongs to; -1 is a frame that
    belongs to none (usage, a filter's result).  A whole answer (a call without `stream`) is one event for each choice.
    """

    raw: bytes = b""
    payload: bytes = b""
    text: str = ""
    reasoning: str = ""
    tool: bool = False
    finish: str | None = None
    index: int = 0
    whole: bool = False

    @property
    def data(self) -> dict[str, Any]:
        """The JSON object that the piece came in, decoded at each call: for policies that need more than text."""
        decoded: dict[str, Any] = msgspec.json.decode(self.payload) if self.payload else {}
        return decoded

    @property
    def is_output(self) -> bool:
        """Whether a client sees anything of it: text, reasoning or a tool call, but not a role alone."""
        return bool(self.text or self.reasoning or self.tool)

    def with_text(self, text: str) -> Event:
        """Return this piece with other text; an empty one stays in the stream, dropping is returning None."""
        return msgspec.structs.replace(self, text=text, raw=b"")

    def encode(self) -> bytes:
        """Return the piece as one server-sent event, made anew from `payload` where it was changed."""
        return self.raw or b"data: " + msgspec.json.encode(self.rebuilt()) + b"\n\n"

    def rebuilt(self) -> dict[str, Any]:
        """Return the JSON object with this piece alone in it, its text and finish as they are now."""
        data = self.data
        own = [c for c in data.get("choices") or [] if isinstance(c, dict) and c.get("index", 0) == self.index]
        choice: dict[str, Any] = own[0] if own else {"index": self.index}
        part = choice.setdefault("message" if self.whole else "delta", {})
        if self.text or part.get("content") is not None:
            part["content"] = self.text
        choice["finish_reason"] = self.finish
        data["choices"] = [choice]
        return data


Made: TypeAlias = Callable[[], "list[Event]"]


class Batch:
    """The events of one network read.  `last` marks the end of a complete answer: it goes out after settling.

    Most answers pass untouched, as `raw`: where *events* is a function, it makes them when somebody first looks at them.
    """

    __slots__ = ("_events", "last", "raw")

    def __init__(self, *, events: list[Event] | Made, raw: bytes = b"", last: bool = False) -> None:
        self._events, self.raw, self.last = events, raw, last

    @property
    def events(self) -> list[Event]:
        """The pieces, in order."""
        events = self._events
        if not isinstance(events, list):
            events = self._events = events()
        return events


class Usage(msgspec.Struct, frozen=True):
    """Tokens spent, summed over the attempts of a call.

    `unreported` counts the attempts that cost their prompt without upstream telling its size: each is charged at its
    estimate.  `exact` is False while the sum is only a lower bound: it may charge more than was held, never less.
    `model` is what the upstream that was asked calls it; a sum keeps what it was made of in `parts`.
    """

    input: int = 0
    output: int = 0
    cached: int = 0
    unreported: int = 0
    exact: bool = True
    model: str = ""
    parts: tuple[Usage, ...] = ()

    def __add__(self, other: Usage) -> Usage:
        if not self.paid_prompt and self.exact:
            return other
        if not other.paid_prompt and other.exact:
            return self
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cached + other.cached,
            self.unreported + other.unreported,
            self.exact and other.exact,
            self.model if self.model == other.model else "",
            (*self.each, *other.each),
        )

    @property
    def each(self) -> tuple[Usage, ...]:
        """What each attempt that cost anything has cost."""
        return self.parts or (self,)

    @property
    def paid_prompt(self) -> bool:
        """Whether an attempt may have read the prompt, so that another one needs a hold of its own."""
        return bool(self.input or self.output or self.unreported)


def rebuilt_answer(payload: bytes, events: Sequence[Event]) -> bytes:
    """Return a whole JSON answer with the choices as *events* have them; what was dropped is empty."""
    data: dict[str, Any] = msgspec.json.decode(payload)
    for choice in data.get("choices") or []:
        if not isinstance(choice, dict):
            continue
        own = [event for event in events if event.index == choice.get("index", 0)]
        text = "".join(event.text for event in own)
        message = choice.get("message")
        if not isinstance(message, dict):
            message = choice["message"] = {}
        if text or message.get("content") is not None:
            message["content"] = text
        choice["finish_reason"] = next((event.finish for event in own if event.finish), "content_filter")
    return msgspec.json.encode(data)
