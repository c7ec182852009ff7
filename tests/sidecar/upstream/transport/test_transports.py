"""What every transport does: the same suite over our own connections and over a transport of httpx, on real sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import httpx
import pytest
from pushed import ask, collect, get, nothing, whole
from wire import HEAD, TIMEOUT_SECONDS, Connection, Script, eventually, upstream

from sidecar.upstream.transport.http_transport import HttpTransport
from sidecar.upstream.transport.httpx_transport import HttpxTransport
from sidecar.upstream.transport.limited_read import ResponseTooLarge, read_error_body, read_limited
from sidecar.upstream.transport.response import UpstreamResponse

pytestmark = pytest.mark.anyio

AnyTransport: TypeAlias = HttpTransport | HttpxTransport
Read: TypeAlias = Callable[[UpstreamResponse], Awaitable[bytes]]
LAST = b"0\r\n\r\n"
MEGABYTE = 2**20


def own() -> AnyTransport:
    return HttpTransport(connect=TIMEOUT_SECONDS)


def httpx_own() -> AnyTransport:
    return HttpxTransport(httpx.AsyncHTTPTransport(), connect=TIMEOUT_SECONDS)


@pytest.fixture(params=[own, httpx_own], ids=["http", "httpx"])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[AnyTransport]:
    made = request.param()
    yield made
    await made.aclose()
    assert made.open_count == 0
    assert not [task for task in asyncio.all_tasks() if "_pump" in repr(task) or "_query" in repr(task)]


def sends(*parts: bytes, close: bool = False) -> Script:
    """Return a server that sends *parts*, each by itself."""

    async def script(connection: Connection) -> None:
        for part in parts:
            await connection.send(part)
            for _ in range(5):
                await asyncio.sleep(0)
        if close:
            connection.close()

    return script


def fixed(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), *headers, b"", body])


BODY = b"abc" * 1000
CHUNKED = HEAD + b"".join(b"%x\r\n%b\r\n" % (3, BODY[at : at + 3]) for at in range(0, len(BODY), 3)) + LAST


@pytest.mark.parametrize("read", [collect, whole])
@pytest.mark.parametrize(
    ("parts", "close"),
    [
        ([fixed(BODY)], False),
        ([CHUNKED], False),
        ([CHUNKED[at : at + 700] for at in range(0, len(CHUNKED), 700)], False),
        ([b"HTTP/1.1 200 OK\r\n\r\n", BODY], True),
        ([b"HTTP/1.0 200 OK\r\n\r\n" + BODY], True),
        ([b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", fixed(BODY)], False),
    ],
    ids=["length", "chunked", "cut anywhere", "until close", "HTTP/1.0", "informational first"],
)
async def test_body_arrives_complete(transport: AnyTransport, parts: list[bytes], read: Read, *, close: bool) -> None:
    """A body arrives complete for any framing and split, pushed or read."""
    async with upstream(sends(*parts, close=close)) as up:
        response = await ask(transport, up.url)
        assert response.status == 200
        assert await read(response) == BODY
        assert (response.ended, response.broken) == (True, None)


async def test_pushed_as_it_arrives(transport: AnyTransport) -> None:
    """Each part of a body is pushed when it arrives, and nothing is pushed without a listener."""
    heard, more, parts = asyncio.Event(), asyncio.Event(), list[bytes]()

    async def script(connection: Connection) -> None:
        await connection.send(HEAD)
        for part in (b"a", b"b"):
            await connection.chunk(part)
            await more.wait()
            more.clear()
        await connection.send(LAST)

    def seen(part: bytes) -> None:
        parts.append(part)
        more.set()
        heard.set()

    async with upstream(script) as up:
        response = await ask(transport, up.url)
        assert await collect(response, seen) == b"ab"
        await response.aclose()
    assert parts == [b"a", b"b"]


async def test_headers_are_found_in_any_case(transport: AnyTransport) -> None:
    """Headers are found by name in any case, the first value of several, bytes outside of ASCII included."""
    head = b"HTTP/1.1 429 X\r\nX-One: a\r\nx-one: b\r\nX-Bytes: caf\xc3\xa9 \xff\r\nContent-Length: 0\r\n\r\n"
    async with upstream(sends(head)) as up:
        response = await ask(transport, up.url)
        assert (response.status, response.header(b"x-one"), response.header(b"absent")) == (429, "a", "")
        assert (response.headers["x-ONE"], "absent" in response.headers) == ("a, b", False)
        assert response.header(b"x-bytes").startswith("café ")
        await whole(response)


async def test_request_has_headers_host_and_length(transport: AnyTransport) -> None:
    """A request has the target's headers, its own, a host, and its body with a length; none without a body."""
    async with upstream(sends(fixed(b""))) as up:
        target = get(f"{up.url}/a%20b?c=%2Fd", ("authorization", "Bearer k"))
        for body in (b"{}", b""):
            await whole(await transport.send(target, [("x-own", "1")], body, nothing))
        first, second = up.requests
        host = up.url.split("/")[2]

    assert first.head.split(b"\r\n")[0] == b"GET /v1/a%20b?c=%2Fd HTTP/1.1"
    assert [first.header(name) for name in ("host", "authorization", "x-own")] == [host, "Bearer k", "1"]
    assert (first.raw_body, first.header("content-length")) == (b"{}", "2")
    assert second.header("content-length") is None


async def test_connected_before_sent(transport: AnyTransport) -> None:
    """`on_connected` is called once, before the server has a byte of the request."""
    calls: list[int] = []
    async with upstream(sends(fixed(b""))) as up:
        for count in (1, 2):
            response = await transport.send(get(up.url), (), b"", lambda: calls.append(len(up.requests)))
            await whole(response)
            assert len(calls) == count

    assert calls == [0, 1]


async def test_complete_response_lets_its_connection_be_reused(transport: AnyTransport) -> None:
    """A connection whose response was read to its end serves the next request."""
    async with upstream(sends(fixed(b"a"))) as up:
        for _ in range(3):
            assert await whole(await ask(transport, up.url)) == b"a"
        assert (len(up.requests), up.open) == (3, 1)


async def test_close_is_obeyed(transport: AnyTransport) -> None:
    """A connection whose response says `connection: close` is closed."""
    async with upstream(sends(fixed(b"a", b"connection: close"))) as up:
        assert await whole(await ask(transport, up.url)) == b"a"
        await eventually(lambda: up.open == 0)


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


async def mid_body(connection: Connection) -> None:
    await connection.send(HEAD)
    await connection.chunk(b"a")
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


async def test_unread_body_is_not_read_further(transport: AnyTransport) -> None:
    """A body that is not taken is read up to a bounded size; reading resumes when it is taken, without loss."""
    piece, count, sent = b"x" * 65_536, 400, 0

    async def pours(connection: Connection) -> None:
        nonlocal sent
        await connection.send(HEAD)
        for _ in range(count):
            await connection.chunk(piece)
            sent += 1
        await connection.send(LAST)

    async with upstream(pours) as up:
        response = await ask(transport, up.url)
        before = -1
        while before != sent:
            before = sent
            for _ in range(500):  # a server that sends nothing in that many loop iterations is blocked
                await asyncio.sleep(0)
        assert 0 < sent < count / 2
        size = 0

        def seen(part: bytes) -> None:
            nonlocal size
            size += len(part)

        await collect(response, seen)
        await response.aclose()
    assert size == count * len(piece)


async def test_body_is_read_up_to_a_limit(transport: AnyTransport) -> None:
    """A body is read up to a limit, and the body of an error up to 64 kB, until it breaks, or for a time."""
    large = fixed(b"x" * 100_000)
    async with upstream(sends(large), sends(large), sends(fixed(BODY)), mid_body) as up:
        first = await ask(transport, up.url)
        with pytest.raises(ResponseTooLarge):
            await read_limited(first, 99_999)
        await first.aclose()
        second = await ask(transport, up.url)
        assert await read_error_body(second) == b"x" * 65_536
        await second.aclose()
        third = await ask(transport, up.url)
        assert await read_limited(third, len(BODY)) == BODY
        await third.aclose()
        last = await ask(transport, up.url)
        assert await read_error_body(last, within=0.05) == b"a"
        await last.aclose()


async def test_certificate_of_an_unknown_authority_is_refused(transport: AnyTransport) -> None:
    """A server whose certificate no trusted authority has issued gets no request: a `ConnectError`."""
    import trustme

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with upstream(sends(fixed(b"")), tls=context) as up:
        with pytest.raises(httpx.ConnectError):
            await ask(transport, up.url)
    assert up.requests == []
