"""Server-sent events, read and written.  No input or output.

The reader follows WHATWG HTML 9.2, and beyond it takes what servers really send: an `error:` field (llama.cpp before
September 2025), a last event without its blank line.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

MAX_EVENT = 16_777_216
BOM = b"\xef\xbb\xbf"

START = b"event: start\ndata: \n\n"
PING = b"event: ping\ndata: \n\n"
DONE = b"event: done\ndata: \n\n"
OPENAI_PING = b": ping\n"
"""One newline: with two, OpenAI's Python SDK fails on it after an event that carried an id."""
OPENAI_DONE = b"data: [DONE]\n\n"


class EventTooLarge(ValueError):
    """An event beyond the limit of what is held in memory."""


class Frame(NamedTuple):
    """One event: its bytes as an OpenAI client may get them, its data, and its name ('' for none)."""

    raw: bytes
    payload: bytes
    event: str = ""


class Reader:
    """Cuts reads of any size into events.  Once per answer; `feed` once per network read."""

    def __init__(self, *, max_event: int = MAX_EVENT) -> None:
        self._max = max_event
        self._pieces: list[bytes] = []
        self._size = 0
        self._begun = self._after_cr = False
        self._lines: list[bytes] = []
        self._lines_size = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Return the events that *data* completes, in order; raises `EventTooLarge`."""
        if not self._begun and (data := self._without_bom(data)) == b"":
            return []
        if not self._pieces and not self._lines and not self._after_cr and data.endswith(b"\n\n") and b"\r" not in data:
            return self._whole(data)
        return self._cut(data)

    def end(self) -> list[Frame]:
        """Return what is left at the end of the stream, as an event: its blank line, or its newline, may be missing."""
        rest = b"".join(self._pieces)
        self._pieces, self._size = [], 0
        frames: list[Frame] = []
        if rest:
            self._line(rest, frames)
        self._line(b"", frames)
        return frames

    def _without_bom(self, data: bytes) -> bytes:
        data = b"".join(self._pieces) + data
        self._pieces, self._size = [], 0
        if len(data) < len(BOM) and BOM.startswith(data):
            self._pieces, self._size = [data], len(data)
            return b""
        self._begun = True
        return data.removeprefix(BOM)

    def _whole(self, data: bytes) -> list[Frame]:
        """Cut a read that holds whole events with plain line ends: what nearly every read is."""
        frames: list[Frame] = []
        clean = data.isascii() or _utf8(data) == data
        for block in data.split(b"\n\n"):
            if clean and block.startswith(b"data: {") and b"\n" not in block:
                frames.append(Frame(block + b"\n\n", block[6:]))
            elif block:
                for line in block.split(b"\n"):
                    self._line(line, frames)
                self._line(b"", frames)
        if len(data) > self._max and any(len(frame.payload) > self._max for frame in frames):
            raise self._too_large()
        return frames

    def _cut(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        if self._after_cr and data.startswith(b"\n"):
            data, self._after_cr = data[1:], False
        if data:
            self._after_cr = data.endswith(b"\r")
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = data.split(b"\n")
        for line in lines:
            if self._pieces:
                self._pieces.append(line)
                line = b"".join(self._pieces)  # noqa: PLW2901  # the line that began in earlier reads
                self._pieces, self._size = [], 0
            self._line(line, frames)
        if rest:
            self._pieces.append(rest)
            self._size += len(rest)
        if self._size + self._lines_size > self._max:
            raise self._too_large()
        return frames

    def _line(self, line: bytes, frames: list[Frame]) -> None:
        if line:
            self._lines.append(line)
            self._lines_size += len(line) + 1
            if self._lines_size > self._max:
                raise self._too_large()
        elif self._lines:
            lines, self._lines, self._lines_size = self._lines, [], 0
            if (frame := _frame(lines)) is not None:
                frames.append(frame)

    def _too_large(self) -> EventTooLarge:
        return EventTooLarge(f"upstream sent an event of more than {self._max} bytes")


def _frame(lines: list[bytes]) -> Frame | None:
    name, data, kept = "", [], []
    for line in lines:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(_utf8(value))
            kept.append(_utf8(line))
        elif field == b"event":
            name = "" if value == b"message" else value.decode("utf-8", "replace")
        elif field == b"error" and value:
            return Frame(b"data: " + _utf8(value) + b"\n\n", _utf8(value), "error")
    payload = b"\n".join(data)
    if not payload or name == "ping":
        return None
    if name:
        kept.insert(0, b"event: " + name.encode())
    return Frame(b"\n".join(kept) + b"\n\n", payload, name)


def _utf8(line: bytes) -> bytes:
    if line.isascii():
        return line
    return line.decode("utf-8", "replace").encode()


def token_event(text: str) -> bytes:
    """Return Chat Nest's event for one piece of text: always one line, whatever is in it."""
    return b"event: token\ndata: " + msgspec.json.encode(text) + b"\n\n"


def error_event(message: str, code: str, *, retryable: bool) -> bytes:
    """Return Chat Nest's last event of an answer that failed."""
    data = msgspec.json.encode({"message": message, "code": code, "retryable": retryable})
    return b"event: error\ndata: " + data + b"\n\n"


def openai_error_event(error: dict[str, object]) -> bytes:
    """Return the event that makes OpenAI's SDKs raise."""
    return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"
