"""Turn a whole answer into chunks for a client that streams: one for each choice, and one for requested usage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from policies.api.event import Event


def number_choices(events: Sequence[Event]) -> None:
    """Set the index of each of *events*, the choices of one answer, to its position if two have the same index."""
    if len({event.index for event in events}) < len(events):
        for at, event in enumerate(events):
            event.index = at


def chunks_of(events: Sequence[Event], data: dict[str, Any], *, usage: bool) -> list[Event]:
    """Return the chunks of the answer *data*, whose choices are *events*, in order; *usage*: add a chunk with its usage."""
    head: dict[str, Any] = {key: data[key] for key in ("id", "created", "model") if key in data}
    head["object"] = "chat.completion.chunk"
    listed = data.get("choices")
    choices = [choice for choice in listed if isinstance(choice, dict)] if isinstance(listed, list) else []
    for event, choice in zip(events, choices, strict=True):
        streamed = {**choice, "index": event.index}
        streamed["delta"] = _delta(streamed.pop("message", None), streamed.get("delta"))
        _write(event, {**head, "choices": [streamed]})
    chunks = list(events)
    if usage and isinstance(data.get("usage"), dict):
        chunks.append(_write(Event(index=-1), {**head, "choices": [], "usage": data["usage"]}))
    return chunks


def _delta(message: object, delta: object) -> dict[str, Any]:
    fields = delta if isinstance(delta, dict) else message if isinstance(message, dict) else {}
    calls = fields.get("tool_calls")
    if isinstance(calls, list):
        for at, call in enumerate(calls):
            if isinstance(call, dict) and not isinstance(call.get("index"), int):
                call["index"] = at
    return fields


def _write(event: Event, chunk: dict[str, Any]) -> Event:
    payload = msgspec.json.encode(chunk)
    event.payload, event.raw, event.whole = payload, b"data: " + payload + b"\n\n", False
    return event
