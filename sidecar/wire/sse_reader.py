"""Read server-sent events, without I/O.

Follows WHATWG HTML 9.2, and also accepts an `error:` field (llama.cpp before September 2025) and a last event without its
blank line.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .decoding.model_echo import ModelEcho
from .decoding.own_choice import one_line
from .decoding.repair import MAX_REPAIRED_BYTES
from .decoding.value_count import LARGE_EVENT_BYTES, MAX_EVENT_VALUES, holds_many_values

MAX_EVENT_BYTES = 16_777_216
MAX_EVENT_LINES = 10_000
"""Lines of one event of more than `LARGE_EVENT_BYTES`, comments included.  Measured: 4 ms to read as many."""
UTF8_BOM = b"\xef\xbb\xbf"
_NAMED_EVENT_BREAKS = 3
"""Line breaks of an event with a name and one line of data."""
_DROPPED_NAMES = (b"message", b"ping", b"")
"""Names of events that are dropped, or whose events are forwarded without them."""


class EventTooLarge(ValueError):
    """An event exceeds a limit."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One event: its bytes as OpenAI clients accept them, its data, and its name (empty for none)."""

    raw: bytes
    payload: bytes
    event: str = ""


class SSEReader(msgspec.Struct, kw_only=True, eq=False):
    """Split reads of any size into events.  One per answer; `feed` is called once per network read."""

    max_event: int = MAX_EVENT_BYTES
    _rest: bytearray = bytearray()
    _begun: bool = False
    _after_cr: bool = False

    def feed(self, data: bytes) -> list[Frame]:
        """Return the events that *data* completes, in order.

        Raises `EventTooLarge` if one of them, or the incomplete next one, has more than `max_event` bytes, or too many lines
        or values, or is too large to repair its UTF-8. The reader cannot be used afterwards.
        """
        if not self._begun:
            if data and not self._rest and data[0] != UTF8_BOM[0]:
                self._begun = True
            else:
                data = self._without_bom(data)
        if self._after_cr or data.find(b"\r") >= 0:  # 52 ns; `in` takes 96 ns, because it tries an integer first
            data = self._with_lf(data)
        rest = self._rest
        if not rest and data.endswith(b"\n\n"):
            return self._split(data)
        cut = data.rfind(b"\n\n") + 2
        if cut == 1:
            cut = 1 if data.startswith(b"\n") and rest.endswith(b"\n") else 0
        complete = b""
        if cut:
            rest += data[:cut]
            complete = bytes(rest)
            rest.clear()
        rest += data[cut:]
        if len(rest) > self.max_event:
            raise self._too_large()
        return self._split(complete) if complete else []

    @property
    def holds_large_event(self) -> bool:
        """Whether the incomplete event is so large that reading it takes an event-loop iteration of its own."""
        return len(self._rest) > MAX_REPAIRED_BYTES

    def end(self) -> list[Frame]:
        """Return the last event of the stream, whose blank line or newline may be missing."""
        complete = bytes(self._rest) + b"\n\n"
        self._rest.clear()
        return self._split(complete)

    def _without_bom(self, data: bytes) -> bytes:
        data = bytes(self._rest) + data
        self._rest.clear()
        if len(data) < len(UTF8_BOM) and UTF8_BOM.startswith(data):
            self._rest += data
            return b""
        self._begun = True
        return data.removeprefix(UTF8_BOM)

    def _with_lf(self, data: bytes) -> bytes:
        if not data:
            return data
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _split(self, data: bytes) -> list[Frame]:
        """Split complete events, which end with a blank line and have LF as their only line ending."""
        if len(data) > LARGE_EVENT_BYTES or len(data) > self.max_event:
            is_one_line = data.find(b"\n") == len(data) - 2  # a search for one byte takes a tenth of that for two
            self._check_sizes([data[:-2]] if is_one_line else data.split(b"\n\n"))
        if not data.isascii():
            data = utf8(data)
        if data.startswith(b"data: "):
            if data.find(b"\n") == len(data) - 2:
                return [Frame(data, payload)] if (payload := data[6:-2]) else []
            payloads = data[6:-2].split(b"\n\ndata: ")
            # Each event is one line, as in nearly every read. Joining and searching takes a third of the time of counting, or less.
            if b"".join(payloads).find(b"\n") < 0:
                return [Frame(b"data: " + payload + b"\n\n", payload) for payload in payloads if payload]
        elif data.startswith(b"event: ") and data.count(b"\n") == _NAMED_EVENT_BREAKS:  # one event of another API
            at = data.find(b"\ndata: ")
            if at > 0 and (named := data[7:at]) not in _DROPPED_NAMES and (payload := data[at + 7 : -2]):
                return [Frame(data, payload, named.decode())]
        return [frame for block in data.split(b"\n\n") if block and (frame := _frame(block)) is not None]

    def _check_sizes(self, blocks: Sequence[bytes]) -> None:
        for block in blocks:
            if len(block) > self.max_event:
                raise self._too_large()
            if holds_many_values(block):
                msg = f"upstream sent an event of more than {MAX_EVENT_VALUES} values"
                raise EventTooLarge(msg)
            if block.count(b"\n") >= MAX_EVENT_LINES:
                msg = f"upstream sent an event of more than {MAX_EVENT_LINES} lines"
                raise EventTooLarge(msg)

    def _too_large(self) -> EventTooLarge:
        return EventTooLarge(f"upstream sent an event of more than {self.max_event} bytes")


class EchoingReader(SSEReader, kw_only=True, eq=False):
    """An `SSEReader` whose events have the client's name of the model, by *echo*."""

    echo: ModelEcho

    def _split(self, data: bytes) -> list[Frame]:
        return [self._echoed(frame) for frame in super()._split(data)]

    def _echoed(self, frame: Frame) -> Frame:
        payload = self.echo.payload(frame.payload)
        if payload is frame.payload:
            return frame
        # Its lines are one now: line breaks in JSON are only between its values.
        payload = one_line(payload)
        name = b"event: %b\n" % frame.event.encode() if frame.raw.startswith(b"event: ") else b""
        return Frame(b"%bdata: %b\n\n" % (name, payload), payload, frame.event)


def _frame(block: bytes) -> Frame | None:
    if block.startswith(b"data: ") and b"\n" not in block:
        return Frame(block + b"\n\n", block[6:]) if len(block) > len(b"data: ") else None
    if block.startswith(b"event: ") and block.count(b"\n") == 1 and (at := block.find(b"\ndata: ")) > 0:
        named, payload = block[7:at], block[at + 7 :]
        if payload and named not in _DROPPED_NAMES:  # nearly every event with a name
            return Frame(block + b"\n\n", payload, named.decode())
    name, data, kept = "", [], []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
            kept.append(line)
        elif field == b"event":
            name = "" if value == b"message" else value.decode()
        elif field == b"error" and value:
            return Frame(b"data: " + value + b"\n\n", value, "error")
    payload = b"\n".join(data)
    if not payload or name == "ping":
        return None
    if name:
        kept.insert(0, b"event: " + name.encode())
    return Frame(b"\n".join(kept) + b"\n\n", payload, name)


def utf8(data: bytes) -> bytes:
    """Return *data* with U+FFFD in place of invalid UTF-8.

    Raises `EventTooLarge` for invalid *data* of more than `MAX_REPAIRED_BYTES`.
    """
    try:
        data.decode()
    except UnicodeDecodeError:
        if len(data) > MAX_REPAIRED_BYTES:
            msg = f"upstream sent more than {MAX_REPAIRED_BYTES} bytes that are not valid UTF-8"
            raise EventTooLarge(msg) from None
        return data.decode("utf-8", "replace").encode()
    return data
