"""Read a request's body: its memory is that of its bytes, however many parts it arrives in."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from sidecar.downstream.buffered_bodies import BufferedBodies, HeldBody
from sidecar.downstream.client_connection import ClientConnection
from sidecar.downstream.request import announced_length, read_body

pytestmark = pytest.mark.anyio

PART = b"ab"


class InParts(ClientConnection):
    """A connection whose body arrives in *count* parts of two bytes."""

    def __init__(self, count: int) -> None:
        self._left = count

    async def receive(self) -> Any:
        self._left -= 1
        return {"type": "http.request", "body": bytes(bytearray(PART)), "more_body": self._left > 0}


async def test_memory_of_a_body_in_small_parts_is_that_of_its_bytes() -> None:
    """A body in parts of two bytes takes the memory that counts in `max_buffered`: not that of an object for each part."""
    count = 50_000
    held = HeldBody(BufferedBodies(1_000_000), "tenant")
    tracemalloc.start()
    try:
        body = await read_body(InParts(count), {}, 1_000_000, held)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert body == PART * count
    assert held.size == len(body)
    assert most < 4 * len(body)


@pytest.mark.parametrize(
    ("value", "length"),
    [(b"12", 12), (b"0", 0), (b"0" * 9_000 + b"7", 7), (b"", None), (b"-1", None), (b"9" * 9_000, 10**20 - 1)],
)
def test_length_is_read_with_any_number_of_digits(value: bytes, length: int | None) -> None:
    """A `Content-Length` of any number of digits is read; a number beyond 20 digits is only known to be large."""
    assert announced_length({b"content-length": value}) == length
