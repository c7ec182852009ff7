"""Inflate request bodies: exactly, within the limit, in bounded steps."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.request.compressed_body import COMPRESSED_BYTES, INFLATED_BYTES, InflatedTooLarge, inflate_steps
from sidecar.wire.request.json_body import BadRequest

LIMIT = 1_000_000
PLAIN = b'{"messages": []}' * 9


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def inflated(steps: Generator[int, None, bytes]) -> tuple[bytes, int]:
    """Return the body, and the number of steps before the last one."""
    taken = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, taken
        taken += 1


@given(plain=st.binary(max_size=500), times=st.integers(1, 2_000), level=st.integers(0, 9))
def test_body_is_inflated_exactly(plain: bytes, times: int, level: int) -> None:
    """A body in each coding is inflated exactly, whatever its size and level."""
    plain *= times
    for coding, packed in (
        (b"gzip", gzip.compress(plain, level)),
        (b"x-gzip", gzip.compress(plain, level)),
        (b"deflate", zlib.compress(plain, level)),
        (b"deflate", raw_deflate(plain)),
    ):
        assert inflated(inflate_steps(packed, coding, LIMIT))[0] == plain


def test_limit_holds_for_the_inflated_body() -> None:
    """A body that inflates to the limit is read; one byte more is refused."""
    packed = gzip.compress(b" " * LIMIT)
    assert len(inflated(inflate_steps(packed, b"gzip", LIMIT))[0]) == LIMIT
    with pytest.raises(InflatedTooLarge):
        inflated(inflate_steps(packed, b"gzip", LIMIT - 1))


def test_bomb_costs_no_more_than_the_limit() -> None:
    """A body that holds a thousand times its size is inflated up to the limit alone, in steps of bounded size."""
    steps = inflate_steps(gzip.compress(b" " * (64 * INFLATED_BYTES)), b"gzip", 2 * INFLATED_BYTES)
    next(steps)
    next(steps)
    with pytest.raises(InflatedTooLarge):
        next(steps)


def test_large_body_is_inflated_in_steps() -> None:
    """A step makes at most 262,144 bytes and reads at most 16,384."""
    assert inflated(inflate_steps(gzip.compress(b" " * LIMIT), b"gzip", LIMIT))[1] >= LIMIT // INFLATED_BYTES
    stored = gzip.compress(b" " * LIMIT, 0)
    assert inflated(inflate_steps(stored, b"gzip", LIMIT))[1] >= len(stored) // COMPRESSED_BYTES


PACKED = gzip.compress(PLAIN, mtime=0)
"""Without the time, so that the names of tests do not change."""


@pytest.mark.parametrize(
    ("packed", "coding", "fault"),
    [
        (b"", b"gzip", "The gzip body ends too early."),
        (PACKED[:-1], b"gzip", "The gzip body ends too early."),
        (PACKED[:20], b"x-gzip", "The gzip body ends too early."),
        (zlib.compress(PLAIN)[:-1], b"deflate", "The deflate body ends too early."),
        (PACKED + b"x", b"gzip", "The gzip body has bytes behind its end."),
        (PACKED + b"\0" * COMPRESSED_BYTES, b"gzip", "The gzip body has bytes behind its end."),
        (zlib.compress(PLAIN) + b"x", b"deflate", "The deflate body has bytes behind its end."),
        (PACKED * 2, b"gzip", "The gzip body has several members. Compress the whole body at once."),
        (PLAIN, b"gzip", "The body is not valid gzip, which 'content-encoding' announces."),
        (PLAIN, b"deflate", "The body is not valid deflate, which 'content-encoding' announces."),
        (zlib.compress(PLAIN), b"gzip", "The body is not valid gzip, which 'content-encoding' announces."),
        (PACKED[:-8] + b"\0" * 8, b"gzip", "The body is not valid gzip, which 'content-encoding' announces."),
    ],
)  # fmt: skip
def test_damaged_body_is_refused_with_its_fault(packed: bytes, coding: bytes, fault: str) -> None:
    """A body that is truncated, goes on behind its end, or is not compressed as announced is refused as such."""
    with pytest.raises(BadRequest) as refused:
        inflated(inflate_steps(packed, coding, LIMIT))
    assert refused.value.message == fault
