"""Check large answers in steps of a few milliseconds, between which the event loop can run."""

from __future__ import annotations

import codecs
from collections.abc import Generator

from .repair import MAX_REPAIRED_BYTES
from .value_count import MAX_EVENT_VALUES

DECODED_STEP_BYTES = 1_048_576
"""Bytes of UTF-8 that one step checks.  Measured: 1 ms, and 4 ms to repair as many."""
COUNTED_STEP_BYTES = 262_144
"""Bytes whose values one step counts.  Measured: 6 ms where all of them are quotes."""

_VALUE_MARKS = (b"{", b"[", b",")
_NOT_MARKS_OR_QUOTES = bytes(set(range(256)) - set(b'{[,"'))


def utf8_steps(data: bytes) -> Generator[None, None, bytes]:
    """Return *data* with U+FFFD in place of invalid UTF-8; raises `ValueError` for more than 1 MB that is not valid."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    try:
        for at in range(0, len(data), DECODED_STEP_BYTES):
            decode(data[at : at + DECODED_STEP_BYTES])
            if len(data) > DECODED_STEP_BYTES:
                yield
        decode(b"", final=True)
    except UnicodeDecodeError:
        if len(data) > MAX_REPAIRED_BYTES:
            raise
        return data.decode("utf-8", "replace").encode()
    return data


def values_steps(data: bytes, most: int) -> Generator[None, None, int]:
    """Return how many values the JSON in *data* has at the most; stops counting beyond *most*.

    Up to `MAX_EVENT_VALUES` the number may include commas and brackets inside of strings.
    """
    marks = sum(map(data.count, _VALUE_MARKS))
    yield
    if marks <= MAX_EVENT_VALUES:
        return marks
    values, in_string, escape = 0, False, b""
    for at in range(0, len(data), COUNTED_STEP_BYTES):
        piece = escape + data[at : at + COUNTED_STEP_BYTES]
        whole = piece.rstrip(b"\\")
        escape = b"\\" if (len(piece) - len(whole)) % 2 else b""
        if b"\\" in whole:
            whole = whole.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = whole.translate(None, _NOT_MARKS_OR_QUOTES).split(b'"')
        values += sum(map(len, parts[1::2] if in_string else parts[::2]))
        in_string ^= len(parts) % 2 == 0
        if values > most:
            break
        yield
    return values
