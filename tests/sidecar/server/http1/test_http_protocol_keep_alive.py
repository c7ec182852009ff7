"""How long the server keeps a client connection: idle, while a request arrives, and behind a response."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from event_loops import ON_BOTH_LOOPS
from scripts import silent
from served_connection import GET, KEEP_ALIVE_SECONDS, ServedConnection
from serving import settings_of, sidecar
from wire import TIMEOUT_SECONDS, eventually, upstream

from sidecar.server.http1.http_limits import LINGER_SECONDS
from sidecar.server.http1.http_protocol import HttpProtocol

pytestmark = [pytest.mark.anyio, ON_BOTH_LOOPS]


async def test_busy_connection_needs_one_timer() -> None:
    """A connection with frequent requests is kept, with one timer per idle time and not per request."""
    served = ServedConnection()
    for _ in range(50):
        await served.request()
        served.loop.advance(KEEP_ALIVE_SECONDS / 5)
        assert len(served.loop.pending) == 1

    assert not served.transport.closing
    assert served.loop.timers_made <= 1 + 50 / 4


async def test_idle_connection_is_closed() -> None:
    """A connection is closed when it was idle for the keep-alive time since its last response, and not before."""
    served = ServedConnection()
    await served.request()
    served.loop.advance(KEEP_ALIVE_SECONDS * 0.6)
    await served.request()
    served.loop.advance(KEEP_ALIVE_SECONDS * 0.99)
    assert not served.transport.closing
    served.loop.advance(KEEP_ALIVE_SECONDS * 0.02)

    assert served.transport.closing
    assert served.loop.pending == []


async def test_long_response_is_not_idle_time() -> None:
    """A response that takes longer than the keep-alive time is not cut; idle time starts at its end."""
    served = ServedConnection()
    await served.request()
    served.may_answer.clear()
    served.protocol.data_received(GET)
    served.loop.advance(KEEP_ALIVE_SECONDS * 3)
    assert (served.transport.closing, served.loop.pending) == (False, [])
    served.may_answer.set()
    await served.answered()
    served.loop.advance(KEEP_ALIVE_SECONDS * 0.99)
    assert not served.transport.closing
    served.loop.advance(KEEP_ALIVE_SECONDS * 0.02)

    assert served.transport.closing


async def test_request_head_gets_the_keep_alive_time() -> None:
    """The head of a request may take the keep-alive time from its first byte; then it gets 408, and the connection is closed."""
    served, dripping = ServedConnection(), ServedConnection()
    await served.request()
    served.loop.advance(KEEP_ALIVE_SECONDS * 0.9)
    served.protocol.data_received(GET[:5])
    served.loop.advance(KEEP_ALIVE_SECONDS * 0.9)
    served.protocol.data_received(GET[5:])
    await served.answered()
    assert not served.transport.closing

    for byte in GET[:4]:
        dripping.protocol.data_received(bytes([byte]))
        dripping.loop.advance(KEEP_ALIVE_SECONDS * 0.3)
    assert dripping.transport.sent.startswith(b"HTTP/1.1 408 ")
    dripping.loop.advance(LINGER_SECONDS)
    assert dripping.transport.closing


@pytest.mark.parametrize("behind", [b"", b"\r\n", b"G"], ids=["nothing", "a line", "a byte"])
async def test_incomplete_head_does_not_keep_the_connection(behind: bytes) -> None:
    """Bytes behind a response that are not a complete head do not prolong the idle time."""
    served = ServedConnection()
    await served.request()
    served.protocol.data_received(behind)
    served.loop.advance(KEEP_ALIVE_SECONDS * 1.01)
    served.loop.advance(LINGER_SECONDS if behind == b"G" else KEEP_ALIVE_SECONDS * 0.01)

    assert served.transport.closing


async def test_connection_without_a_request_is_closed() -> None:
    """A connection without any request is closed after the keep-alive time."""
    served = ServedConnection()
    served.loop.advance(KEEP_ALIVE_SECONDS * 0.99)
    assert not served.transport.closing
    served.loop.advance(KEEP_ALIVE_SECONDS * 0.02)

    assert (served.transport.closing, served.loop.pending) == (True, [])


async def test_slow_body_is_not_idle_time() -> None:
    """A request whose head is complete is served, however slowly its body arrives."""
    served = ServedConnection()
    head, body = GET[:-4] + b"\r\ncontent-length: 4\r\n\r\n", b"body"
    served.may_answer.clear()
    served.protocol.data_received(head)
    for byte in body:
        served.loop.advance(KEEP_ALIVE_SECONDS)
        served.protocol.data_received(bytes([byte]))
    served.may_answer.set()
    await served.answered()

    assert not served.transport.closing


@pytest.mark.parametrize("why", [None, ConnectionResetError()], ids=["closed", "broken"])
@pytest.mark.parametrize("running", [False, True], ids=["idle", "running"])
async def test_lost_connection_leaves_no_timer(why: Exception | None, *, running: bool) -> None:
    """A connection that is lost leaves no timer, idle or with a request that is running."""
    served = ServedConnection()
    await served.request()
    if running:
        served.may_answer.clear()
        served.protocol.data_received(GET)
    served.transport.closing = True
    served.protocol.connection_lost(why)
    assert served.loop.pending == []
    served.may_answer.set()
    await eventually(lambda: not served.protocol.tasks)

    assert served.loop.pending == []


async def test_shutdown_closes_connections() -> None:
    """A shutdown closes idle connections at once, and a busy one behind its response."""
    served, busy = ServedConnection(), ServedConnection()
    await served.request()
    served.protocol.shutdown()
    busy.may_answer.clear()
    busy.protocol.data_received(GET)
    busy.protocol.shutdown()
    assert (served.transport.closing, busy.transport.closing) == (True, False)
    busy.may_answer.set()
    await busy.answered()

    assert busy.transport.closing
    busy.loop.advance(KEEP_ALIVE_SECONDS * 2)
    assert busy.loop.pending == []


class BriefKeepAlive(HttpProtocol):
    """Keeps idle connections for 50 ms."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.timeout_keep_alive = 0.05  # type: ignore[assignment]  # uvicorn wants an int, a loop takes a float


async def test_client_sees_the_close_of_its_idle_connection(tmp_path: Path) -> None:
    """The client of an idle connection receives the FIN of the server."""
    async with (
        upstream(silent) as up,
        sidecar(settings_of(tmp_path, up.url), protocol=BriefKeepAlive) as served,
    ):
        client = await served.client()
        client.writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        status, headers, _ = await client.answer()
        rest = await asyncio.wait_for(client.reader.read(), TIMEOUT_SECONDS)

    assert (status, "connection" in headers, rest) == (200, False, b"")
