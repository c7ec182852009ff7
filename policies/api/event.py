"""Events of an answer, in batches of one network read each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from .decoding.choices import TOOL_FIELDS, choice_of, has_many_values, is_filled, other_tokens, put_text, texts_of
from .decoding.token_counts import DATA_BYTES_PER_TOKEN
from .decoding.values import decode_forwarded
from .rejection import Rejection


class EventForm(Protocol):
    """How an API other than chat completions writes events that policies have changed. One per answer."""

    def encoded(self, event: Event) -> bytes:
        """Return *event* as server-sent events. Called once for each event without `raw`, or without `form`, in order.

        An event without `form` was created by a policy: it has text, a finish, and maybe a chunk of chat completions.
        """
        ...

    def with_payload(self, event: Event, data: dict[str, Any]) -> Event:
        """Return *event* with *data* as its JSON object, and the text, reasoning, tool and finish that it has."""
        ...

    def rebuilt_answer(self, payload: bytes, events: Sequence[Event], unchanged: Sequence[Event]) -> bytes:
        """Return the whole JSON answer *payload* with its texts as in *events*; *unchanged* are those before the policies."""
        ...


class OrderedForm(EventForm):
    """The form of an API that ends each text of an answer on its own, and repeats it later.

    It writes all events in order, those that no policy has changed too. Leases flush before the end of each text.
    """

    @abstractmethod
    def written(self, events: Sequence[Event]) -> bytes:
        """Return *events*, the next ones of a stream as the client gets them, as server-sent events.

        Called once for each batch, in order, where a policy reads events. Some events have no payload. With a text, one is
        the addition of a policy to the part `index`. With a finish, it is the end of an answer that a policy has stopped.
        Without both, nothing is written for it.
        """


class Event(msgspec.Struct, kw_only=True, eq=False, gc=False):
    """One part of one answer. Do not modify events: `with_text` and `with_payload` return changed copies.

    `raw` is the server-sent event for an OpenAI client, framing included; empty for an event that was created or
    changed here. `payload` is the JSON object of the event. `index` is the number of its choice; -1 for a frame without
    one (usage, the result of a filter). The answer to a call without `stream` is one event per choice, with `whole`
    set. If `content` is a list of parts, `text` joins the text of its parts, and `reasoning` that of its thinking parts.
    `form` writes the events of other APIs than chat completions; there `index` is the number of the part of the answer.
    """

    raw: bytes = b""
    payload: bytes = b""
    text: str = ""
    reasoning: str = ""
    tool: bool = False
    finish: str | None = None
    index: int = 0
    whole: bool = False
    form: EventForm | None = None

    @property
    def data(self) -> dict[str, Any]:
        """The JSON object of the event, decoded at each use, for policies that need more than its text.

        An answer with log probabilities has megabytes of it: decoding takes up to 15 ms each.
        """
        decoded: dict[str, Any] = decode_forwarded(self.payload) if self.payload else {}
        return decoded

    @property
    def is_output(self) -> bool:
        """Whether it has text, reasoning, a tool call, or anything in another field; a role is no output."""
        return bool(self.text or self.reasoning or self.tool) or self._other_tokens() > 0

    @property
    def has_answer(self) -> bool:
        """Whether it has output other than reasoning."""
        return bool(self.text or self.tool) or self._other_tokens(reasoning=False) > 0

    def _other_tokens(self, *, reasoning: bool = True) -> int:
        if self.form is not None:
            return 0
        if has_many_values(self.payload):
            return len(self.payload) // DATA_BYTES_PER_TOKEN
        try:
            choice = choice_of(self.data, self.index) if self.index >= 0 else None
        except ValueError:  # such as a number out of range, in a field that nothing else has read
            return 0
        part = None if choice is None else choice.get("message" if self.whole else "delta")
        return other_tokens(part, whole=self.whole, reasoning=reasoning) if isinstance(part, dict) else 0

    def with_text(self, text: str) -> Event:
        """Return this event with other text. An event with empty text stays in the stream.

        In a list of parts, the first part with text gets it all, and other parts with text are removed.
        """
        return msgspec.structs.replace(self, text=text, raw=b"")

    def with_payload(self, data: dict[str, Any]) -> Event:
        """Return this event with *data*, a changed copy of `data`, as its JSON object: for tools and reasoning.

        Text, reasoning, tool and finish are read from its choice of this `index`. Raises `ValueError` where it has none.
        """
        if self.form is not None:
            return self.form.with_payload(self, data)
        if self.index < 0:
            return msgspec.structs.replace(self, raw=b"", payload=msgspec.json.encode(data))
        choice = choice_of(data, self.index)
        if choice is None:
            raise ValueError(f"with_payload: the object has no choice with index {self.index}")
        part = choice.get("message" if self.whole else "delta")
        part = part if isinstance(part, dict) else {}
        finish = choice.get("finish_reason")
        text, reasoning = texts_of(part)
        return msgspec.structs.replace(
            self,
            raw=b"",
            payload=msgspec.json.encode(data),
            text=text,
            reasoning=reasoning,
            tool=any(is_filled(part.get(field)) for field in TOOL_FIELDS),
            finish=finish if isinstance(finish, str) and finish else None,
        )

    def encode(self) -> bytes:
        """Return the event as one server-sent event; a changed one is encoded from `payload` again."""
        if self.raw:
            return self.raw
        if self.form is not None:
            return self.form.encoded(self)
        return b"data: " + msgspec.json.encode(self.rebuilt()) + b"\n\n"

    def rebuilt(self) -> dict[str, Any]:
        """Return the JSON object with only this event's choice, and with its current text and finish."""
        data = self.data
        if self.index < 0:
            return data
        choice = choice_of(data, self.index) or {"index": self.index}
        part = choice.get("message" if self.whole else "delta")
        if not isinstance(part, dict):
            part = choice["message" if self.whole else "delta"] = {}
        put_text(part, self.text)
        choice["finish_reason"] = self.finish
        data["choices"] = [choice]
        return data


Made: TypeAlias = Callable[[], "list[Event]"]


class Batch:
    """The events of one network read. `last` marks the end of a complete answer, which is sent after settlement.

    Most answers are forwarded unchanged, as `raw`. If *events* is a function, it is called on the first use of the
    events.

    `outputs` are the output tokens of the answer up to this batch, over all choices; an estimate.

    `refusal` is set on the last batch of an answer that a limit ended early: its choices have the finish `length`.
    """

    __slots__ = ("_events", "last", "outputs", "raw", "refusal")

    def __init__(self, *, events: list[Event] | Made, raw: bytes = b"", last: bool = False, outputs: int = 0) -> None:
        self._events, self.raw, self.last, self.outputs = events, raw, last, outputs
        self.refusal: Rejection | None = None

    @property
    def events(self) -> list[Event]:
        """The events, in order."""
        events = self._events
        if not isinstance(events, list):
            events = self._events = events()
        return events


class WholeBatch(Batch):
    """The whole answer to a call without `stream`, as one batch.

    *payload* is its JSON object.  If it has several choices, the `payload` of each event has only its own.
    """

    __slots__ = ("payload",)

    def __init__(self, *, events: list[Event] | Made, raw: bytes, payload: bytes) -> None:
        super().__init__(events=events, raw=raw, last=True)
        self.payload = payload
