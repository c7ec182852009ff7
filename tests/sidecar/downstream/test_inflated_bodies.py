"""Few large compressed bodies are in memory at the same time: each is a thousand times as large as what its client sent."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from sidecar.config.access import Access, Profile
from sidecar.downstream.buffered_bodies import BufferedBodies
from sidecar.downstream.client_connection import ClientConnection
from sidecar.downstream.request import IncomingRequest, read_object
from sidecar.wire.request.json_body import LARGE_BODY_BYTES

pytestmark = pytest.mark.anyio

LIMIT = 16 * LARGE_BODY_BYTES
LARGE = json.dumps({"text": "x" * (LIMIT - 100)}).encode()
SMALL = json.dumps({"text": "x" * 100}).encode()
ACCESS = Access(tenant="t", base=Profile("", ()), profiles={})


class ArrivedBody(ClientConnection):
    """A connection on which a whole body has arrived."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def whole_body(self) -> bytes:
        return self._body


def sends(body: bytes, *, compressed: bool = True) -> IncomingRequest:
    """Return a request with *body*."""
    headers = {b"content-encoding": b"gzip"} if compressed else {}
    connection = ArrivedBody(gzip.compress(body) if compressed else body)
    return IncomingRequest({"type": "http"}, connection, headers, "r", ACCESS, "")


async def test_large_compressed_bodies_wait_for_each_other() -> None:
    """While the permitted number of large bodies is inflated, another one waits; small and plain bodies do not."""
    permitted = asyncio.Semaphore(1)
    async with permitted:
        waiting = asyncio.ensure_future(read_object(sends(LARGE), LIMIT, permitted, BufferedBodies(LIMIT * 4)))
        for request in (sends(SMALL), sends(LARGE, compressed=False)):
            body, _ = await asyncio.wait_for(read_object(request, LIMIT, permitted, BufferedBodies(LIMIT * 4)), 5)
            assert body.keys() == {"text"}
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiting.done()
    assert await asyncio.wait_for(waiting, 5) == (json.loads(LARGE), True)
    assert not permitted.locked()


async def test_cancelled_body_frees_its_place() -> None:
    """A large body whose client leaves, waiting or being inflated, keeps no place."""
    permitted = asyncio.Semaphore(1)
    reading, waiting = (
        asyncio.ensure_future(read_object(sends(LARGE), LIMIT, permitted, BufferedBodies(LIMIT * 4))) for _ in range(2)
    )
    while not permitted.locked():
        await asyncio.sleep(0)
    waiting.cancel()
    reading.cancel()
    await asyncio.wait([reading, waiting])
    assert reading.cancelled()
    assert waiting.cancelled()
    assert not permitted.locked()
