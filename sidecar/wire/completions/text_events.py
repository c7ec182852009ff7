"""Write events and whole answers of the completions API that policies have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from policies.api.decoding.choices import choice_index, choice_of, has_many_values, own_indexes
from policies.api.event import Event
from sidecar.wire.decoding.own_choice import is_object

from .text_chunk import text_of

CONTENT_FILTER_FINISH = "content_filter"
"""The finish of a choice that policies have dropped, or changed where upstream sent none."""
Decode: TypeAlias = Callable[[bytes | msgspec.Raw], Any]
_NO_JSON = msgspec.Raw()


class _Numbered(msgspec.Struct, gc=False):
    index: Any = 0


def _decoder(name: str, fields: str) -> Decode:
    return msgspec.json.Decoder(
        msgspec.defstruct(name, [(field, msgspec.Raw, _NO_JSON) for field in fields.split()])
    ).decode


_all_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_known_fields = _decoder("_KnownFields", "id object created model choices usage system_fingerprint service_tier")
_known_choice_fields = _decoder("_KnownChoiceFields", "text index logprobs finish_reason stop_reason")
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_index_of = msgspec.json.Decoder(_Numbered).decode


class TextEvents:
    """See `policies.api.event.EventForm`. Without state: one object serves all answers."""

    def encoded(self, event: Event) -> bytes:
        """Return *event* with its current text and finish."""
        data = event.data
        if event.index >= 0:
            choice = choice_of(data, event.index) or {"index": event.index}
            data["choices"] = [_written(choice, event.text, event.finish)]
        return b"data: " + msgspec.json.encode(data) + b"\n\n"

    def with_payload(self, event: Event, data: dict[str, Any]) -> Event:
        """Return *event* with *data*. Raises `ValueError` where it has no choice of the event's index."""
        payload = msgspec.json.encode(data)
        if event.index < 0:
            return msgspec.structs.replace(event, raw=b"", payload=payload)
        choice = choice_of(data, event.index)
        if choice is None:
            msg = f"with_payload: the object has no choice with index {event.index}"
            raise ValueError(msg)
        text, finish = choice.get("text"), choice.get("finish_reason")
        return msgspec.structs.replace(
            event,
            raw=b"",
            payload=payload,
            text=text if isinstance(text, str) else "",
            finish=finish if isinstance(finish, str) and finish else None,
        )

    def rebuilt_answer(self, payload: bytes, events: Sequence[Event], unchanged: Sequence[Event]) -> bytes:
        """Return *payload* with the text of each choice as in *events*; a dropped choice becomes empty."""
        data = _fields(payload, _known_fields)
        if bytes(memoryview(data.get("choices", _NO_JSON))[:1]) != b"[":
            return msgspec.json.encode(data)
        by_index: dict[int, list[Event]] = {}
        for event in events:
            by_index.setdefault(event.index, []).append(event)
        before = {event.index: event for event in unchanged}
        listed = [raw for raw in _items(data["choices"]) if is_object(raw)]
        indexes = own_indexes([choice_index(_index_of(raw).index) for raw in listed])
        data["choices"] = [
            _rebuilt(raw, by_index.get(index, []), before.get(index))
            for raw, index in zip(listed, indexes, strict=True)
        ]
        return msgspec.json.encode(data)


def _fields(raw: bytes | msgspec.Raw, known: Decode) -> dict[str, Any]:
    """Return the fields of the object *raw* as JSON: all, or the *known* ones where it may have a million others."""
    if not has_many_values(bytes(raw)):
        return _all_fields(raw)
    found = msgspec.structs.asdict(known(raw))
    return {name: value for name, value in found.items() if len(value)}


def _rebuilt(raw: msgspec.Raw, own: Sequence[Event], before: Event | None) -> msgspec.Raw | dict[str, Any]:
    """Return the choice *raw* with the text of its *own* events; as it is where these are the one from *before*."""
    if len(own) == 1 and own[0] is before:
        return raw
    finish = next((event.finish for event in own if event.finish), CONTENT_FILTER_FINISH)
    choice = _fields(raw, _known_choice_fields)
    return _written({**choice, "text": text_of(raw)}, "".join(event.text for event in own), finish)


def _written(choice: dict[str, Any], text: str, finish: str | None) -> dict[str, Any]:
    """Return *choice* with *text* and *finish*. Its log probabilities quote the original text, so a change drops them."""
    if choice.get("text") == text:
        return {**choice, "finish_reason": finish}
    return {**choice, "text": text, "logprobs": None, "finish_reason": finish}


TEXT_EVENTS = TextEvents()
