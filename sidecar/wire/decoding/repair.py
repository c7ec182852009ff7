"""Repair JSON that some servers write: `NaN`, `Infinity`, and halves of emojis."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import TypeVar

from .lone_surrogates import has_surrogates, replace_lone_surrogates
from .one_step import result_of

MAX_REPAIRED_BYTES = 1_048_576
"""Bytes up to which a request, an event or an answer that is not valid is repaired."""
MAX_CONSTANTS = 20_000
"""Constants that are replaced in one event or answer; more are an event that is not JSON.  Measured: 10 ms."""
_NOT_FINITE = re.compile(rb"-?Infinity|NaN")
Read = TypeVar("Read")


def repaired(payload: bytes, read: Callable[[bytes], Read]) -> tuple[Read, bytes]:
    """Return what *read* makes of *payload*, and *payload* as valid JSON. *read* raises `ValueError`."""
    try:
        return read(payload), payload
    except ValueError:
        if len(payload) > MAX_REPAIRED_BYTES:
            raise
        if b"NaN" in payload or b"Infinity" in payload:
            payload = _without_constants(payload)
            with contextlib.suppress(ValueError):
                return read(payload), payload
        payload = _without_lone_surrogates(payload)
    return read(payload), payload


def _without_constants(payload: bytes) -> bytes:
    """Return *payload* with null for each `NaN` and `Infinity` outside of a string; in linear time."""
    masked = payload.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    pieces, start, counted, in_string = [], 0, 0, False
    for at, found in enumerate(_NOT_FINITE.finditer(masked)):
        if at == MAX_CONSTANTS:
            break
        begin, end = found.span()
        in_string ^= masked.count(b'"', counted, begin) % 2 == 1
        counted = begin
        if not in_string:
            pieces += [payload[start:begin], b"null"]
            start = end
    return b"".join([*pieces, payload[start:]]) if pieces else payload


def _without_lone_surrogates(payload: bytes) -> bytes:
    """Return the JSON in *payload* with U+FFFD for lone surrogates, as from a server that splits an emoji over two events.

    Raises `ValueError` if it is not JSON for another reason.
    """
    found = result_of(replace_lone_surrogates(payload)) if has_surrogates(payload) else None
    if found is None:
        msg = "not JSON"
        raise ValueError(msg)
    return found
