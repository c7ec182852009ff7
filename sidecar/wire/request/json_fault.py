"""Describe why a body is not JSON: the fault, its place in bytes, and the remedy."""

from __future__ import annotations

import re

_NAMED_PLACE = re.compile(r"\(byte (\d+)\)")
MAX_DIGITS = 640
"""Digits of one integer, the lowest limit Python accepts: the time to convert them grows with their square."""
_LONG_INTEGER = "Integer value out of range"
_NOT_JSON = (b"NaN", b"-Infinity", b"Infinity")
"""Numbers that Python's `json.dumps` writes and JSON does not have."""


def json_fault(raw: bytes, error: Exception, *, names_place: bool = True) -> str:
    """Return the message for *raw*, which the decoder refused with *error*. It quotes no text of the body.

    *names_place*: search the place of bad UTF-8, for which *raw* is decoded again.
    """
    if isinstance(error, UnicodeDecodeError):
        return _encoding_fault(raw) if names_place else "The body is not valid UTF-8."
    text = str(error)
    if (place := _NAMED_PLACE.search(text)) is not None:
        at = int(place[1])
        # The decoder names the first letter, behind a minus.
        start = at - raw[at - 1 : at].count(b"-")
        for number in _NOT_JSON:
            if raw.startswith(number, start):
                return (
                    f"The body has {number.decode()} at byte {start}, which JSON does not have. "
                    "Send a number or null, or leave the field out."
                )
    if text.startswith(_LONG_INTEGER):
        text += f": an integer has at most {MAX_DIGITS} digits"
    return f"The body is not valid JSON: {text}"


def _encoding_fault(raw: bytes) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as fault:
        return f"The body is not valid UTF-8: byte 0x{raw[fault.start]:02x} at place {fault.start}."
    return "The body is not valid UTF-8."
