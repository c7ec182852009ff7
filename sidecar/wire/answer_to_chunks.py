"""A whole answer for a client that streams: one piece for each choice, and the usage where it was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from policies.api.event import Event


def numbered(events: Sequence[Event]) -> None:
    """Give each of *events*, the choices of one answer, an index of its own: its position, where two have the same."""
    if len({event.index for event in events}) < len(events):
        for at, event in enumerate(events):
            event.index = at


def pieces_of(events: Sequence[Event], data: dict[str, Any], *, usage: bool) -> list[Event]:
    """Return the pieces of the answer *data*, whose choices are *events*, in order."""
    head: dict[str, Any] = {key: data[key] for key in ("id", "created", "model") if key in data}
    head["object"] = "chat.completion.chunk"
    choices = [choice for choice in data["choices"] if isinstance(choice, dict)]
    for event, choice in zip(events, choices, strict=True):
        piece = {**choice, "index": event.index}
        piece["delta"] = _delta(piece.pop("message", None), piece.get("delta"))
        _write(event, {**head, "choices": [piece]})
    pieces = list(events)
    if usage and isinstance(data.get("usage"), dict):
        pieces.append(_write(Event(index=-1), {**head, "choices": [], "usage": data["usage"]}))
    return pieces


def _delta(message: object, delta: object) -> dict[str, Any]:
    found = delta if isinstance(delta, dict) else message if isinstance(message, dict) else {}
    calls = found.get("tool_calls")
    if isinstance(calls, list):
        for at, call in enumerate(calls):
            if isinstance(call, dict) and not isinstance(call.get("index"), int):
                call["index"] = at
    return found


def _write(event: Event, chunk: dict[str, Any]) -> Event:
    payload = msgspec.json.encode(chunk)
    event.payload, event.raw, event.whole = payload, b"data: " + payload + b"\n\n", False
    return event
