"""Repair events of a stream that Anthropic's SDKs would skip or fail on: without a name, without a type, invalid JSON."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from sidecar.wire.decoding.own_choice import decode_fields, one_line

from .stream_event import ERROR_EVENT, KNOWN_TYPES, StreamEvent, named_event, read_message_event

if TYPE_CHECKING:
    from sidecar.wire.sse_reader import Frame

NO_EVENT = StreamEvent()
"""Stands for a frame that is no event, or a failure."""
_TYPE_NAME = re.compile(r"[a-z_.]{1,64}")


def repaired_frame(frame: Frame) -> tuple[StreamEvent, bytes, bytes]:
    """Return the event of *frame*, its payload and its bytes, as valid JSON. Raises `ValueError` where it is no JSON object."""
    event, payload = read_message_event(frame.payload)
    if payload == frame.payload:
        return event, payload, frame.raw
    payload = one_line(payload)
    name = f"event: {frame.event}\n".encode() if frame.event else b""
    return event, payload, name + b"data: " + payload + b"\n\n"


def named_frame(event: StreamEvent, frame: Frame, payload: bytes, raw: bytes) -> tuple[bytes, bytes]:
    """Return *payload* and *raw*, its event, with a type and a name, of which SDKs need both; each is taken from the other.

    An event with the name `error` is an error, also with another type.
    """
    if event is NO_EVENT:
        return payload, raw
    if frame.event == ERROR_EVENT:
        event.type = ERROR_EVENT
    if not event.type and frame.event in KNOWN_TYPES:
        event.type = frame.event
        payload = msgspec.json.encode({"type": event.type, **decode_fields(payload)})
        return payload, named_event(event.type, payload)
    if frame.event or _TYPE_NAME.fullmatch(event.type) is None:
        return payload, raw
    return payload, b"event: " + event.type.encode() + b"\n" + raw
