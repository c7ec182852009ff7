"""Events of an answer, in batches of one network read each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from .rejection import Rejection


class Event(msgspec.Struct, kw_only=True, eq=False, gc=False):
    """One part of one answer. Do not modify events: `with_text` and `with_payload` return changed copies.

    `raw` is the server-sent event for an OpenAI client, framing included; empty for an event that was created or
    changed here. `payload` is the JSON object of the event. `index` is the number of its choice; -1 for a frame without
    one (usage, the result of a filter). The answer to a call without `stream` is one event per choice, with `whole`
    set.
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
        """The JSON object of the event, decoded at each use, for policies that need more than its text."""
        decoded: dict[str, Any] = msgspec.json.decode(self.payload) if self.payload else {}
        return decoded

    @property
    def is_output(self) -> bool:
        """Whether it has text, reasoning or a tool call; a role is no output."""
        return bool(self.text or self.reasoning or self.tool)

    def with_text(self, text: str) -> Event:
        """Return this event with other text. An event with empty text stays in the stream."""
        return msgspec.structs.replace(self, text=text, raw=b"")

    def with_payload(self, data: dict[str, Any]) -> Event:
        """Return this event with *data*, a changed copy of `data`, as its JSON object: for tools and reasoning.

        Text, reasoning, tool and finish are read from its choice of this `index`. Raises `ValueError` where it has none.
        """
        if self.index < 0:
            return msgspec.structs.replace(self, raw=b"", payload=msgspec.json.encode(data))
        choice = _choice_of(data, self.index)
        if choice is None:
            raise ValueError(f"with_payload: the object has no choice with index {self.index}")
        part = choice.get("message" if self.whole else "delta")
        part = part if isinstance(part, dict) else {}
        finish = choice.get("finish_reason")
        return msgspec.structs.replace(
            self,
            raw=b"",
            payload=msgspec.json.encode(data),
            text=_text(part, "content", "refusal"),
            reasoning=_text(part, "reasoning", "reasoning_content"),
            tool=any(_is_filled(part.get(field)) for field in ("tool_calls", "function_call", "audio")),
            finish=finish if isinstance(finish, str) and finish else None,
        )

    def encode(self) -> bytes:
        """Return the event as one server-sent event; a changed one is encoded from `payload` again."""
        return self.raw or b"data: " + msgspec.json.encode(self.rebuilt()) + b"\n\n"

    def rebuilt(self) -> dict[str, Any]:
        """Return the JSON object with only this event's choice, and with its current text and finish."""
        data = self.data
        if self.index < 0:
            return data
        choice = _choice_of(data, self.index) or {"index": self.index}
        part = choice.get("message" if self.whole else "delta")
        if not isinstance(part, dict):
            part = choice["message" if self.whole else "delta"] = {}
        _put_text(part, self.text)
        choice["finish_reason"] = self.finish
        data["choices"] = [choice]
        return data


def _choice_of(data: dict[str, Any], index: int) -> dict[str, Any] | None:
    choices = data.get("choices")
    found = (each for each in choices if isinstance(each, dict)) if isinstance(choices, list) else ()
    return next((each for each in found if each.get("index", 0) == index), None)


def _text(part: dict[str, Any], *fields: str) -> str:
    return next((text for field in fields if isinstance(text := part.get(field), str) and text), "")


def _is_filled(value: object) -> bool:
    """Whether *value* holds anything: `[{}]` and `[null]` do not."""
    if isinstance(value, dict):
        return any(map(_is_filled, value.values())) or any(value)
    return any(map(_is_filled, value)) if isinstance(value, list) else value not in (None, "")


def _put_text(part: dict[str, Any], text: str) -> None:
    field = "refusal" if not part.get("content") and part.get("refusal") else "content"
    if text or part.get(field) is not None:
        part[field] = text


Made: TypeAlias = Callable[[], "list[Event]"]


class Batch:
    """The events of one network read. `last` marks the end of a complete answer, which is sent after settlement.

    Most answers are forwarded unchanged, as `raw`. If *events* is a function, it is called on the first use of the
    events.

    `refusal` is set on the last batch of an answer that a limit ended early: its choices have the finish `length`.
    """

    __slots__ = ("_events", "last", "raw", "refusal")

    def __init__(self, *, events: list[Event] | Made, raw: bytes = b"", last: bool = False) -> None:
        self._events, self.raw, self.last = events, raw, last
        self.refusal: Rejection | None = None

    @property
    def events(self) -> list[Event]:
        """The events, in order."""
        events = self._events
        if not isinstance(events, list):
            events = self._events = events()
        return events


def rebuilt_answer(payload: bytes, events: Sequence[Event]) -> bytes:
    """Return a whole JSON answer with its choices changed as in *events*; a dropped choice becomes empty."""
    data: dict[str, Any] = msgspec.json.decode(payload)
    choices = data.get("choices")
    if isinstance(choices, list):
        own = [_rebuilt_choice(each, payload, events) if isinstance(each, dict) else each for each in choices]
        data["choices"] = own
    return msgspec.json.encode(data)


def _rebuilt_choice(choice: dict[str, Any], payload: bytes, events: Sequence[Event]) -> dict[str, Any]:
    index = choice.get("index", 0)
    own = [event for event in events if event.index == index]
    changed = next((event for event in own if event.whole and event.payload != payload), None)
    if changed is not None:
        choice = _choice_of(changed.data, index) or choice
    message = choice.get("message")
    if not isinstance(message, dict):
        message = choice["message"] = {}
    _put_text(message, "".join(event.text for event in own))
    choice["finish_reason"] = next((event.finish for event in own if event.finish), "content_filter")
    return choice
