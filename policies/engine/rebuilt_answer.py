"""Write a whole answer again after policies have changed some of its choices; the others stay as upstream sent them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from policies.api.decoding.choices import choice_index, choice_of, has_many_values, own_indexes, put_text
from policies.api.decoding.values import decode_forwarded
from policies.api.event import Event

KNOWN_FIELDS = ("id", "object", "created", "model", "system_fingerprint", "service_tier", "usage", "choices")
"""Fields that are kept of an answer with so many values that others are not read."""
KNOWN_CHOICE_FIELDS = ("index", "message", "finish_reason", "logprobs")
KNOWN_MESSAGE_FIELDS = (
    "role",
    "content",
    "refusal",
    "reasoning",
    "reasoning_content",
    "tool_calls",
    "function_call",
    "audio",
    "annotations",
)
TEXT_FIELDS = ("content", "refusal")
"""Fields of a message that hold its text."""

_NO_JSON = msgspec.Raw()


def _decoder(name: str, fields: Sequence[str]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(msgspec.defstruct(name, [(field, msgspec.Raw, _NO_JSON) for field in fields]))


_all_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_known_fields = _decoder("_KnownFields", KNOWN_FIELDS)
_known_choice_fields = _decoder("_KnownChoiceFields", KNOWN_CHOICE_FIELDS)
_known_message_fields = _decoder("_KnownMessageFields", KNOWN_MESSAGE_FIELDS)
_items = msgspec.json.Decoder(list[msgspec.Raw])


class _Numbered(msgspec.Struct):
    index: Any = 0


_index_of = msgspec.json.Decoder(_Numbered)


def rebuilt_answer(payload: bytes, events: Sequence[Event], unchanged: Sequence[Event] = ()) -> bytes:
    """Return the whole JSON answer *payload* with its choices changed as in *events*; a dropped choice becomes empty.

    *unchanged* are the events before the policies. A choice whose only event is one of them stays as it is.
    """
    data: dict[str, Any] = _fields(payload, _known_fields)
    if _starts(data.get("choices", _NO_JSON), b"["):
        by_index: dict[int, list[Event]] = {}
        for event in events:
            by_index.setdefault(event.index, []).append(event)
        before = {event.index: event for event in unchanged}
        listed = _items.decode(data["choices"])
        objects = [raw for raw in listed if _starts(raw, b"{")]
        indexes = iter(own_indexes([choice_index(_index_of.decode(raw).index) for raw in objects]))
        data["choices"] = [
            _rebuilt_choice(raw, next(indexes), payload, by_index, before) if _starts(raw, b"{") else raw
            for raw in listed
        ]
    return msgspec.json.encode(data)


def _fields(raw: bytes | msgspec.Raw, known: msgspec.json.Decoder[Any]) -> dict[str, Any]:
    """Return the fields of the object *raw* as JSON: all, or the *known* ones where it may have a million others."""
    if not has_many_values(bytes(raw)):
        return _all_fields.decode(raw)
    found = msgspec.structs.asdict(known.decode(raw))
    return {name: value for name, value in found.items() if len(value)}


def _starts(raw: msgspec.Raw, mark: bytes) -> bool:
    return bytes(memoryview(raw)[:1]) == mark


def _rebuilt_choice(
    raw: msgspec.Raw, index: int, payload: bytes, by_index: dict[int, list[Event]], before: dict[int, Event]
) -> msgspec.Raw | dict[str, Any]:
    own, was = by_index.get(index, []), before.get(index)
    if was is not None and len(own) == 1 and own[0] is was:
        return raw
    payload = payload if was is None else was.payload
    changed = next((event for event in own if event.whole and event.payload != payload), None)
    choice = None if changed is None else choice_of(changed.data, index)
    if choice is None:
        choice = _fields(raw, _known_choice_fields)
        choice["message"] = _message(choice.get("message", _NO_JSON))
    elif not isinstance(choice.get("message"), dict):
        choice["message"] = {}
    put_text(choice["message"], "".join(event.text for event in own))
    choice["finish_reason"] = next((event.finish for event in own if event.finish), "content_filter")
    return choice


def _message(raw: msgspec.Raw) -> dict[str, Any]:
    """Return the fields of a message, of which only those with text are decoded; empty for anything else."""
    if not _starts(raw, b"{"):
        return {}
    fields = _fields(raw, _known_message_fields)
    for name in TEXT_FIELDS:
        if name in fields:
            is_text = _starts(fields[name], b'"') or not has_many_values(bytes(fields[name]))
            fields[name] = decode_forwarded(fields[name]) if is_text else None
    return fields
