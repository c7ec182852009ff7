"""Events of an answer, in batches of one network read each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from .decoding.values import decode_forwarded
from .rejection import Rejection
from .tokens import DATA_BYTES_PER_TOKEN, names_reasoning, value_tokens

MAX_CHOICES = 1_024
"""A choice with an index from here on is counted as choice 0."""
TOOL_FIELDS = ("tool_calls", "function_call", "audio")
NO_OTHER_FIELDS = frozenset({"role", *TOOL_FIELDS})
TEXT_KEYS = ("text", "refusal")
"""Fields of a part of `content` that hold its text."""
REASONING_KEYS = ("thinking", "reasoning", "text", "content", "summary")
"""Fields of a reasoning part that hold its text, the first one that has any."""
MAX_PART_NESTING = 8
MAX_VALUES = 40_000
"""Values of an event that are decoded to find out whether it has output; more count by their size."""
VALUE_MARKS = (b"{", b"[", b",")
"""Bytes in front of all values but the first."""


class Event(msgspec.Struct, kw_only=True, eq=False, gc=False):
    """One part of one answer. Do not modify events: `with_text` and `with_payload` return changed copies.

    `raw` is the server-sent event for an OpenAI client, framing included; empty for an event that was created or
    changed here. `payload` is the JSON object of the event. `index` is the number of its choice; -1 for a frame without
    one (usage, the result of a filter). The answer to a call without `stream` is one event per choice, with `whole`
    set. If `content` is a list of parts, `text` joins the text of its parts, and `reasoning` that of its thinking parts.
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
            tool=any(_is_filled(part.get(field)) for field in TOOL_FIELDS),
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
        choice = choice_of(data, self.index) or {"index": self.index}
        part = choice.get("message" if self.whole else "delta")
        if not isinstance(part, dict):
            part = choice["message" if self.whole else "delta"] = {}
        put_text(part, self.text)
        choice["finish_reason"] = self.finish
        data["choices"] = [choice]
        return data


def has_many_values(payload: bytes) -> bool:
    """Whether the JSON in *payload* may have too many values to decode them all for one question."""
    return len(payload) > MAX_VALUES and sum(map(payload.count, VALUE_MARKS)) > MAX_VALUES


def choice_index(value: object) -> int:
    """Return the index of a choice that upstream sent as *value*; 0 for an impossible one."""
    return value if type(value) is int and 0 <= value < MAX_CHOICES else 0


def own_indexes(indexes: Sequence[int]) -> Sequence[int]:
    """Return *indexes*, those of the choices of one answer, or their positions if two are equal."""
    return indexes if len(set(indexes)) == len(indexes) else range(len(indexes))


def choice_of(data: dict[str, Any], index: int) -> dict[str, Any] | None:
    """Return the choice with *index* in the JSON object *data*; None where it has none."""
    choices = data.get("choices")
    found = (each for each in choices if isinstance(each, dict)) if isinstance(choices, list) else ()
    return next((each for each in found if choice_index(each.get("index")) == index), None)


def texts_of(part: Mapping[str, Any]) -> tuple[str, str]:
    """Return the text and the reasoning of *part*, a `delta` or a `message` of any shape."""
    text, thoughts = content_texts(part.get("content"))
    reasoning = (reasoning_text(part.get(field)) for field in ("reasoning", "reasoning_content"))
    return text or _string(part.get("refusal")), next(filter(None, reasoning), thoughts)


def other_tokens(part: Mapping[str, Any], *, whole: bool, reasoning: bool = True) -> int:
    """Estimate the tokens in the fields of *part*, a `delta` or a `message` without text, reasoning or tool calls.

    Above 0 if one of them holds anything.  *reasoning*: count fields and parts that are named after it.
    """
    fields = {field: value for field, value in part.items() if value and field not in NO_OTHER_FIELDS}
    return value_tokens(fields, whole=whole, reasoning=reasoning) if fields else 0


def content_texts(content: object) -> tuple[str, str]:
    """Return the text and the reasoning in a `content`: a string, a part, or a list of parts (Mistral, Databricks)."""
    if isinstance(content, str):
        return content, ""
    parts = content if isinstance(content, list) else [content]
    texts = [_part_text(part) for part in parts if not _is_reasoning(part)]
    return "".join(texts), "".join(reasoning_text(part) for part in parts if _is_reasoning(part))


def _is_reasoning(part: object) -> bool:
    """Whether *part* of a `content` is reasoning: by its type, or by its fields where it has none."""
    if not isinstance(part, dict):
        return False
    kind = part.get("type")
    return not _part_text(part) and any(map(names_reasoning, part)) if kind is None else names_reasoning(kind)


def _part_text(part: object) -> str:
    if not isinstance(part, dict):
        return _string(part)
    for key in TEXT_KEYS:
        text = part.get(key)
        if text := _string(text.get("value") if isinstance(text, dict) else text):
            return text
    return ""


def reasoning_text(value: object, depth: int = MAX_PART_NESTING) -> str:
    """Return the text in *value*, a reasoning field or part of any shape, down to *depth* levels of nesting."""
    if isinstance(value, list) and depth:
        return "".join(reasoning_text(each, depth - 1) for each in value)
    if isinstance(value, dict) and depth:
        found = (reasoning_text(value.get(key), depth - 1) for key in REASONING_KEYS)
        return next(filter(None, found), "")
    return _string(value)


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _is_filled(value: object) -> bool:
    """Whether *value* holds anything: `[{}]` and `[null]` do not."""
    if isinstance(value, dict):
        return any(map(_is_filled, value.values())) or any(value)
    return any(map(_is_filled, value)) if isinstance(value, list) else value not in (None, "")


def put_text(part: dict[str, Any], text: str) -> None:
    """Replace the text of *part*, a `delta` or a `message`, by *text*."""
    content = part.get("content")
    if isinstance(content, list | dict):
        if text != content_texts(content)[0]:
            part["content"] = _with_text(content if isinstance(content, list) else [content], text)
        return
    field = "refusal" if not content and part.get("refusal") else "content"
    if text or part.get(field) is not None:
        part[field] = text


def _with_text(parts: list[Any], text: str) -> list[Any]:
    """Return *parts* with *text* in the first one that has text, without the others that have text."""
    made: list[Any] = []
    for part in parts:
        if _is_reasoning(part) or not _part_text(part):
            made.append(part)
        elif text:
            made.append(_changed_part(part, text))
            text = ""
    return [*made, {"type": "text", "text": text}] if text else made


def _changed_part(part: Any, text: str) -> Any:
    if not isinstance(part, dict):
        return text
    key = "text" if _part_text({"text": part.get("text")}) else "refusal"
    return {**part, key: {**part[key], "value": text} if isinstance(part[key], dict) else text}


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
