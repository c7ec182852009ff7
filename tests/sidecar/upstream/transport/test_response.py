"""A response by itself: its body is pushed to a reader, or waits for one."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from sidecar.upstream.transport.response import UpstreamResponse

pytestmark = pytest.mark.anyio


class Arriving(UpstreamResponse):
    """A response whose bytes arrive when the test says so."""

    def __init__(self) -> None:
        self.status, self.fields, self.ended, self.broken, self.on_data = 200, [], False, None, None
        self._pieces: list[bytes] = []

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data

    def arrive(self, data: bytes) -> None:
        self._pieces.append(data)
        if self.on_data is not None:
            self.on_data(self.take())

    async def aclose(self) -> None:
        pass


async def test_reads_of_one_iteration_are_all_returned() -> None:
    """What arrives between a push and the reader that it wakes waits for the next `read`; nothing is lost."""
    response = Arriving()
    first = asyncio.create_task(response.read())
    await asyncio.sleep(0)
    for data in (b"a", b"b", b"c"):
        response.arrive(data)
    assert await first == b"a"
    assert await response.read() == b"bc"
    response.ended = True
    assert await response.read() == b""


async def test_last_bytes_come_before_the_failure() -> None:
    """Bytes that arrived in the read that broke the body are returned first, then the failure is raised."""
    response = Arriving()
    first = asyncio.create_task(response.read())
    await asyncio.sleep(0)
    response.broken = httpx.ReadError("cut")
    response.arrive(b"last")
    assert await first == b"last"
    with pytest.raises(httpx.ReadError):
        await response.read()


async def test_cancelled_reader_leaves_no_callback() -> None:
    """A reader that is cancelled is not called any more, and what arrives later waits for the next one."""
    response = Arriving()
    first = asyncio.create_task(response.read())
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert response.on_data is None
    response.arrive(b"later")
    assert await response.read() == b"later"
