"""How every transport handles failures, cancellation and close: one suite over both transports, on real sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

import httpx
import pytest
from both_transports import AnyTransport, Read, fixed, mid_body, sends
from pushed import ask, collect, get, nothing, whole
from wire import HEAD, TIMEOUT_SECONDS, Connection, Script, eventually, upstream

pytestmark = pytest.mark.anyio

MEGABYTE = 2**20


async def test_refused_connection_is_a_connect_error(transport: AnyTransport) -> None:
    """A server that does not listen is a `ConnectError`."""
    async with upstream(sends()) as up:
        url = up.url
    with pytest.raises(httpx.ConnectError):
        await ask(transport, url)


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ([], httpx.TransportError),
        ([b"HTTP/1.1 200 OK\r\ncontent-ty"], httpx.TransportError),
        ([b"SSH-2.0-OpenSSH_9.6\r\n\r\n"], httpx.RemoteProtocolError),
        ([b"HTTP/1.1 200 OK\r\n" + b"x-a: " + b"b" * 2 * MEGABYTE], httpx.RemoteProtocolError),
        ([b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 200_000], httpx.RemoteProtocolError),
        ([b"HTTP/1.1 103 X\r\n\r\n"] * 3 + [b"HTTP/1.1 "], httpx.TransportError),
    ],
    ids=["closed", "half a head", "not HTTP", "one long header", "many headers", "informational only"],
)
async def test_invalid_response_is_an_error(
    transport: AnyTransport, parts: list[bytes], error: type[Exception]
) -> None:
    """A server that closes, or sends no valid head of a bounded size, is an error of httpx, and no connection is left."""
    async with upstream(sends(*parts, close=True)) as up:
        with pytest.raises(error) as raised:
            await ask(transport, up.url)
        assert not isinstance(raised.value, httpx.ConnectError)
        await eventually(lambda: up.open == 0)


@pytest.mark.parametrize("read", [collect, whole])
@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", b"some"),
        (HEAD, b"4\r\nsome\r\n"),
        (HEAD, b"4\r\nsome\r\n2"),
    ],
    ids=["length", "between chunks", "in a chunk's head"],
)
@pytest.mark.parametrize("end", [Connection.close, Connection.reset], ids=["FIN", "RST"])
async def test_truncated_body_raises_behind_its_bytes(
    transport: AnyTransport,
    head: bytes,
    body: bytes,
    end: Callable[[Connection], None],
    read: Read,
) -> None:
    """A body that is cut raises after its bytes were handed out, and its connection is not reused."""
    taken: list[bytes] = []
    arrived = asyncio.Event()

    async def cuts(connection: Connection) -> None:
        await connection.send(head + body)
        await arrived.wait()
        end(connection)

    def seen(part: bytes) -> None:
        taken.append(part)
        arrived.set()

    async with upstream(cuts, sends(fixed(b"next"))) as up:
        response = await ask(transport, up.url)
        if read is whole:
            assert await response.read() == b"some"
            arrived.set()
        with pytest.raises(httpx.TransportError):
            await (collect(response, seen) if read is collect else response.read())
        assert not response.ended
        await response.aclose()
        assert await whole(await ask(transport, up.url)) == b"next"
    assert taken in ([], [b"some"])


async def test_invalid_chunk_breaks_the_body(transport: AnyTransport) -> None:
    """An invalid chunk breaks the body behind the valid bytes."""
    async with upstream(sends(HEAD + b"1\r\na\r\nzzz\r\n\r\n")) as up:
        response = await ask(transport, up.url)
        parts: list[bytes] = []
        with pytest.raises(httpx.RemoteProtocolError):
            await collect(response, parts.append)
        await response.aclose()
        await eventually(lambda: up.open == 0)
    assert parts in ([b"a"], [])


async def silent(connection: Connection) -> None:
    await connection.hang()


async def head_only(connection: Connection) -> None:
    await connection.send(HEAD)
    await connection.hang()


async def test_cancelled_handshake_closes_its_socket(transport: AnyTransport) -> None:
    """A cancelled TLS handshake closes its socket at once."""
    async with upstream(silent) as up:
        sending = asyncio.create_task(transport.send(get(up.url.replace("http:", "https:")), (), b"", nothing))
        await eventually(lambda: up.open == 1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await eventually(lambda: up.open == 0)


async def test_cancelled_request_closes_its_connection(transport: AnyTransport) -> None:
    """A request that is cancelled before its response closes its connection at once."""
    async with upstream(silent) as up:
        sending = asyncio.create_task(transport.send(get(up.url), (), b"", nothing))
        await asyncio.wait_for(up.arrived.wait(), TIMEOUT_SECONDS)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)


@pytest.mark.parametrize("script", [head_only, mid_body])
@pytest.mark.parametrize("how", ["closed at once", "closed", "cancelled"])
async def test_closed_response_closes_its_connection(transport: AnyTransport, script: Script, how: str) -> None:
    """A response that is closed before its end, or whose reader is cancelled, closes its connection at once."""
    async with upstream(script) as up:

        async def reads() -> None:
            response = await ask(transport, up.url)
            try:
                if how == "closed at once":
                    return
                if script is mid_body:
                    assert await response.read() == b"a"
                if how == "cancelled":
                    reading.set()
                    await response.read()
            finally:
                await response.aclose()

        reading = asyncio.Event()
        task = asyncio.create_task(reads())
        if how == "cancelled":
            await asyncio.wait_for(reading.wait(), TIMEOUT_SECONDS)
            task.cancel()
        await asyncio.wait([task], timeout=TIMEOUT_SECONDS)
        assert task.cancelled() == (how == "cancelled")
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)


async def test_cancelled_close_leaves_nothing_open(transport: AnyTransport) -> None:
    """A reader that is cancelled while it closes its response leaves nothing open."""
    async with upstream(mid_body) as up:
        response = await ask(transport, up.url)
        closing = asyncio.create_task(response.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing], timeout=TIMEOUT_SECONDS)
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)


async def test_closed_transport_closes_all_connections(transport: AnyTransport) -> None:
    """Closing a transport cuts its responses in progress, and closes idle connections."""
    async with upstream(sends(fixed(b"")), mid_body) as up:
        idle = await ask(transport, up.url)
        response = await ask(transport, up.url)
        await whole(idle)
        assert await response.read() == b"a"
        reading = asyncio.create_task(response.read())
        await asyncio.sleep(0)
        await transport.aclose()
        with pytest.raises(httpx.TransportError):
            await asyncio.wait_for(reading, TIMEOUT_SECONDS)
        await eventually(lambda: up.open == 0)
        await response.aclose()


async def test_certificate_of_an_unknown_authority_is_refused(transport: AnyTransport) -> None:
    """A server whose certificate no trusted authority has issued gets no request: a `ConnectError`."""
    import trustme

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with upstream(sends(fixed(b"")), tls=context) as up:
        with pytest.raises(httpx.ConnectError):
            await ask(transport, up.url)
    assert up.requests == []
