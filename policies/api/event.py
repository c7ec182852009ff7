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
