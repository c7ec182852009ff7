"""What every transport does with requests and bodies: one suite over our own connections and over a transport of httpx, on real sockets."""

from __future__ import annotations

import asyncio

import pytest
from both_transports import BODY, LAST, AnyTransport, Read, fixed, mid_body, sends
from pushed import ask, collect, get, nothing, whole
from wire import HEAD, Connection, eventually, upstream

from sidecar.upstream.transport.limited_read import ResponseTooLarge, read_error_body, read_limited

pytestmark = pytest.mark.anyio

BOTH_FRAMINGS = HEAD.replace(b"transfer-encoding", b"content-length: 7\r\ntransfer-encoding")
CHUNKED = HEAD + b"".join(b"%x\r\n%b\r\n" % (3, BODY[at : at + 3]) for at in range(0, len(BODY), 3)) + LAST


@pytest.mark.parametrize("read", [collect, whole])
@pytest.mark.parametrize(
    ("parts", "close"),
    [
        ([fixed(BODY)], False),
        ([CHUNKED], False),
        ([CHUNKED[at : at + 700] for at in range(0, len(CHUNKED), 700)], False),
        ([BOTH_FRAMINGS, CHUNKED.removeprefix(HEAD)], False),
        ([CHUNKED.replace(b"\r\n\r\n", b"\r\ncontent-length: 999999\r\n\r\n", 1)], False),
        ([b"HTTP/1.1 200 OK\r\n\r\n", BODY], True),
        ([b"HTTP/1.0 200 OK\r\n\r\n" + BODY], True),
        ([b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", fixed(BODY)], False),
    ],
    ids=[
        "length",
        "chunked",
        "cut anywhere",
        "a length before chunked",
        "a length behind chunked",
        "until close",
        "HTTP/1.0",
        "informational first",
    ],
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
