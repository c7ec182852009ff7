"""Detect by its first bytes whether an answer is a stream of events or one JSON object: some servers declare another type.

Events come under `text/plain`, `application/octet-stream`, `application/json`, `application/x-ndjson` or no type, and one
JSON object comes under `text/event-stream`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .sse_reader import UTF8_BOM, EchoingReader, EventTooLarge, SSEReader

if TYPE_CHECKING:
    from .decoding.model_echo import ModelEcho
    from .sse_reader import Frame

MAX_ANSWER_BYTES = 33_554_432
"""Bytes of one JSON object, decoded.  Measured: 50 ms to read one of this size, in one step."""
EVENT_MARKS = (b":", b"data:", b"event:", b"id:", b"retry:", b"error:")
"""First bytes of a line of a stream; `error:` is llama.cpp's."""
JSON_MARKS = (b"{", b"[")
WHITE_SPACE = b" \t\r\n"


class AnswerForm(msgspec.Struct, eq=False, kw_only=True):
    """The form of the answer to a request for a stream.  *declared*: its type is that of a stream of events.

    The type decides only where the first bytes do not.  `reader` is set once the answer is known to be a stream, and
    reads the rest of it.  `whole` is set once it is known to be one JSON object, and has what arrived of it.
    """

    declared: bool
    echo: ModelEcho | None = None
    """Writes the client's name of the model into the answer; None where it is the upstream's too."""
    reader: SSEReader | None = None
    whole: list[bytes] | None = None
    _first: bytes = b""
    """Bytes that are kept until the form is known: at most a BOM or one mark."""
    _first_is_bom: bool | None = None
    """None until the first bytes are known to be a BOM, or none."""
    _size: int = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Take one network read while there is no `reader`; return the events that it completes.

        Raises `EventTooLarge`, also for one JSON object of more than `MAX_ANSWER_BYTES`.
        """
        if self.whole is not None:
            return self._collect(self.whole, data)
        if not self._first and data.startswith(b"data:"):
            return self._read_as(is_stream=True, first=data)
        first = self._first + data
        if self._first_is_bom is None:
            if len(first) < len(UTF8_BOM) and UTF8_BOM.startswith(first):
                self._first = first
                return []
            self._first_is_bom = first.startswith(UTF8_BOM)
            first = first.removeprefix(UTF8_BOM)
        text = first.lstrip(WHITE_SPACE)
        if text.startswith(JSON_MARKS):
            return self._read_as(is_stream=False, first=text)
        # Blank lines in front only keep the connection alive, in a stream and in JSON.
        line = first[_last_line(first[: len(first) - len(text)]) :]
        if line.startswith(EVENT_MARKS):
            return self._read_as(is_stream=True, first=line)
        if not text:
            self._first = line[:1]  # an indented line is no line of a stream
            return []
        if line == text and any(mark.startswith(line) for mark in EVENT_MARKS):
            self._first = line
            return []
        return self._read_as(is_stream=self.declared, first=line)

    def end(self) -> list[Frame]:
        """Return the last events of an answer that ends here."""
        frames: list[Frame] = []
        if self.reader is None and self.whole is None:
            frames = self._read_as(is_stream=self.declared, first=self._first)
        return frames if self.reader is None else [*frames, *self.reader.end()]

    def take_whole(self) -> bytes:
        """Return what arrived of the JSON object, and release its pieces, which take as much memory."""
        pieces, self.whole = self.whole or [], []
        return self.echoed(b"".join(pieces))

    def echoed(self, whole: bytes) -> bytes:
        """Return the JSON object *whole* with the client's name of the model."""
        return whole if self.echo is None else self.echo.payload(whole)

    def _read_as(self, *, is_stream: bool, first: bytes) -> list[Frame]:
        if is_stream:
            self.reader = SSEReader() if self.echo is None else EchoingReader(echo=self.echo)
            return self.reader.feed(first)
        self.whole = []
        return self._collect(self.whole, first)

    def _collect(self, whole: list[bytes], data: bytes) -> list[Frame]:
        self._size += len(data)
        if self._size > MAX_ANSWER_BYTES:
            msg = f"upstream sent an answer of more than {MAX_ANSWER_BYTES} bytes"
            raise EventTooLarge(msg)
        whole.append(data)
        return []


def _last_line(space: bytes) -> int:
    """Return where the last line of *space* begins."""
    return max(space.rfind(b"\n"), space.rfind(b"\r")) + 1
