"""Decode any JSON from outside, without numbers that take long: a body or an answer may have tens of thousands."""

from __future__ import annotations

from decimal import Context
from math import isinf

import msgspec

MAX_EXACT_CHARACTERS = 40
"""Characters of a number that is read exactly. A longer one is rounded to as many digits first.

`float` takes 25 µs for one of 700 digits between two floats, and 1 µs for one that was rounded.
"""
_rounded = Context(prec=MAX_EXACT_CHARACTERS, traps=[]).create_decimal


def _decode_any_number(text: str) -> float:
    return float(text if len(text) <= MAX_EXACT_CHARACTERS else _rounded(text))


def decode_number(text: str) -> float:
    """Return the number in *text*; raises `ValueError` for one that no float can hold."""
    number = _decode_any_number(text)
    if isinf(number):
        msg = "Number out of range"
        raise ValueError(msg)
    return number


decode_values = msgspec.json.Decoder(float_hook=decode_number).decode
"""Decode JSON as `msgspec.json.decode` does, whose own conversion takes up to 13 µs for a number of 20 digits."""
decode_forwarded = msgspec.json.Decoder(float_hook=_decode_any_number).decode
"""Decode JSON that was found valid and is forwarded: a number that no float can hold is infinite, and encoded as null."""
