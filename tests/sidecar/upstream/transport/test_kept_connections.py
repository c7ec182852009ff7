"""Reused connections: only behind complete responses, never with bytes of another one, replaced when stale."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextvars import ContextVar
from weakref import ReferenceType, ref

import httpx
import pytest
from pushed import ask, get, nothing, whole
from scripts import closes, resets
from wire import TIMEOUT_SECONDS, Connection, Script, eventually, upstream

from policies.testing import FakeClock
from sidecar.upstream.transport.http_transport import STALE_REUSE_SECONDS, HttpTransport

pytestmark = pytest.mark.anyio

POISON = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nPOISON"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def transport(clock: FakeClock) -> AsyncIterator[HttpTransport]:
    made = HttpTransport(connect=TIMEOUT_SECONDS, clock=clock)
    yield made
    await made.aclose()
    assert made.open_count == 0


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def own(connection: Connection) -> None:
    await connection.answer(200, b"own")


@pytest.mark.parametrize("stale", [closes, resets], ids=["FIN", "RST"])
async def test_stale_is_replaced(transport: HttpTransport, stale: Script) -> None:
    """A reused connection that closes without a byte is replaced by a new one with the same request; `on_connected` is called once."""
    connected: list[int] = []
    async with upstream(own, stale, own) as up:
        await whole(await ask(transport, up.url))
        response = await transport.send(get(up.url), (), b"body", lambda: connected.append(len(up.requests)))
        assert await whole(response) == b"own"
        _, first, second = up.requests

    assert connected == [1]
    assert (first.head, first.raw_body) == (second.head, second.raw_body)
    assert transport.open_count <= 1


async def test_stale_is_replaced_once(transport: HttpTransport) -> None:
    """The replacement is a new connection: if that closes without a byte too, the request has failed."""
    async with upstream(own, closes, closes, own) as up:
        await whole(await ask(transport, up.url))
        with pytest.raises(httpx.ReadError):
            await ask(transport, up.url)
        assert len(up.requests) == 3


async def test_new_connection_is_not_replaced(transport: HttpTransport) -> None:
    """A new connection that closes without a byte may have had its request read."""
    async with upstream(closes, own) as up:
        with pytest.raises(httpx.ReadError):
            await ask(transport, up.url)
        assert len(up.requests) == 1


async def test_late_close_is_not_stale(transport: HttpTransport, clock: FakeClock) -> None:
    """A reused connection that closes later than `STALE_REUSE_SECONDS` may have had its request read."""

    async def late(connection: Connection) -> None:
        clock.advance(STALE_REUSE_SECONDS)
        connection.close()

    async with upstream(own, late, own) as up:
        await whole(await ask(transport, up.url))
        with pytest.raises(httpx.ReadError):
            await ask(transport, up.url)
        assert len(up.requests) == 2


@pytest.mark.parametrize("part", [b"HTTP/1.1 200 OK\r\ncontent-ty", b"HTTP/1.1 103 Early\r\n\r\n", b"H"])
async def test_connection_that_sent_a_byte_is_not_stale(transport: HttpTransport, part: bytes) -> None:
    """A reused connection that sent a byte is not replaced: the server had read the request."""

    async def half(connection: Connection) -> None:
        await connection.send(part)
        await turns(5)
        connection.close()

    async with upstream(own, half, own) as up:
        await whole(await ask(transport, up.url))
        with pytest.raises(httpx.ReadError):
            await ask(transport, up.url)
        assert len(up.requests) == 2


async def test_replacement_that_cannot_connect_is_a_connect_error(transport: HttpTransport) -> None:
    """A replacement that cannot connect is a `ConnectError`: the server has received nothing."""
    async with upstream(own) as up:
        await whole(await ask(transport, up.url))
        server_gone = asyncio.Event()

        async def closes_all(connection: Connection) -> None:
            server_gone.set()
            connection.close()

        up.play(closes_all)
        url = up.url
        sending = asyncio.create_task(ask(transport, url))
        up.server.close()
        with pytest.raises(httpx.ConnectError):
            await asyncio.wait_for(sending, TIMEOUT_SECONDS)
    assert server_gone.is_set()


async def test_cancellation_closes_the_replacement(transport: HttpTransport) -> None:
    """A request that is cancelled on its replaced connection closes that one too."""

    async def silent(connection: Connection) -> None:
        await connection.hang()

    async with upstream(own, closes, silent) as up:
        await whole(await ask(transport, up.url))
        sending = asyncio.create_task(ask(transport, up.url))
        await eventually(lambda: len(up.requests) == 3)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await eventually(lambda: up.open == 0)


async def test_idle_connection_with_bytes_is_dropped(transport: HttpTransport) -> None:
    """An idle connection on which bytes arrive is dropped: they answer no request."""
    send = asyncio.Event()

    async def poisoned(connection: Connection) -> None:
        await connection.answer(200, b"a")
        await send.wait()
        await connection.send(POISON)

    async with upstream(poisoned, own) as up:
        await whole(await ask(transport, up.url))
        assert transport.idle_count == 1
        send.set()
        await eventually(lambda: transport.open_count == 0)
        assert await whole(await ask(transport, up.url)) == b"own"


async def test_second_response_is_dropped(transport: HttpTransport) -> None:
    """A second response behind the first in the same read is dropped, with its connection."""

    async def two(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na" + POISON)

    async with upstream(two, own) as up:
        assert await whole(await ask(transport, up.url)) == b"a"
        assert await whole(await ask(transport, up.url)) == b"own"
        assert transport.open_count == 1


@pytest.mark.parametrize("size", [1_000, 100_000, 300_000])
@pytest.mark.parametrize("behind", [POISON, None], ids=["a response", "an end"])
async def test_bytes_behind_a_slow_reader_are_seen(transport: HttpTransport, size: int, behind: bytes | None) -> None:
    """Bytes behind a response that waits for its reader are detected before its connection is reused."""
    sent = asyncio.Event()

    async def first(connection: Connection) -> None:
        await connection.answer(200, b"a" * size)
        if behind is None:
            connection.close()
        else:
            await connection.send(behind)
        sent.set()

    async with upstream(first, own) as up:
        slow = await ask(transport, up.url)
        await asyncio.wait_for(sent.wait(), TIMEOUT_SECONDS)
        await turns()
        assert await whole(slow) == b"a" * size
        assert await whole(await ask(transport, up.url)) == b"own"


async def test_connection_closed_by_the_server_is_dropped(transport: HttpTransport) -> None:
    """An idle connection that the server closes is dropped."""

    async def once(connection: Connection) -> None:
        await connection.answer(200, b"a")
        connection.close()

    async with upstream(once) as up:
        await whole(await ask(transport, up.url))
        await eventually(lambda: transport.open_count == 0)


async def test_unsent_request_leaves_no_connection(transport: HttpTransport) -> None:
    """A response to a request that was not fully sent closes the connection: the rest would follow."""

    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is one of a socket
        writer.write(b"HTTP/1.1 413 X\r\ncontent-length: 0\r\n\r\n")
        await closed.wait()
        writer.close()

    closed = asyncio.Event()

    async with await asyncio.start_server(rude, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        response = await transport.send(get(url), (), b"x" * 20_000_000, nothing)
        assert response.status == 413
        await response.aclose()
        assert transport.idle_count == 0
        closed.set()


async def test_connection_serves_one_origin(transport: HttpTransport) -> None:
    """A connection serves only its own origin."""
    async with upstream(own) as one, upstream(own) as two:
        for _ in range(2):
            for up in (one, two):
                assert await whole(await ask(transport, up.url)) == b"own"
        assert (one.open, two.open, transport.idle_count) == (1, 1, 2)


async def test_connection_keeps_no_context(transport: HttpTransport) -> None:
    """A connection does not keep the context of the call that opened it."""

    class Value:
        pass

    variable: ContextVar[Value] = ContextVar("variable")
    values: list[ReferenceType[Value]] = []

    async def calls() -> None:
        value = Value()
        variable.set(value)
        values.append(ref(value))
        await whole(await ask(transport, up.url))

    async with upstream(own) as up:
        await asyncio.create_task(calls())
        await turns(5)
        gc.collect()
        assert transport.idle_count == 1
        assert values[0]() is None


async def test_closed_transport_sends_nothing(transport: HttpTransport) -> None:
    """A closed transport sends nothing more."""
    async with upstream(own) as up:
        await whole(await ask(transport, up.url))
        await transport.aclose()
        for url in (up.url, "http://other.example/"):
            with pytest.raises(httpx.ConnectError, match="closed"):
                await ask(transport, url)
        assert len(up.requests) == 1


async def test_connection_with_two_framings_is_not_kept(transport: HttpTransport) -> None:
    """A response with `Content-Length` beside `Transfer-Encoding` is read as chunked, and its connection is closed.

    RFC 9112, 6.3: such a message may be an attempt at request smuggling or response splitting.
    """

    async def both(connection: Connection) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"
        await connection.send(head + b"3\r\nown\r\n0\r\n\r\n")

    async with upstream(both, own) as up:
        assert await whole(await ask(transport, up.url)) == b"own"
        await eventually(lambda: up.open == 0)
        assert transport.idle_count == 0
        assert await whole(await ask(transport, up.url)) == b"own"
        assert len(up.requests) == 2
