"""Both transports, and servers for them that send given bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import httpx
from wire import HEAD, TIMEOUT_SECONDS, Connection, Script

from sidecar.upstream.transport.http_transport import HttpTransport
from sidecar.upstream.transport.httpx_transport import HttpxTransport
from sidecar.upstream.transport.response import UpstreamResponse

AnyTransport: TypeAlias = HttpTransport | HttpxTransport
Read: TypeAlias = Callable[[UpstreamResponse], Awaitable[bytes]]
LAST = b"0\r\n\r\n"


def own() -> AnyTransport:
    """Return a transport over our own connections."""
    return HttpTransport(connect=TIMEOUT_SECONDS)


def httpx_own() -> AnyTransport:
    """Return a transport over one of httpx."""
    return HttpxTransport(httpx.AsyncHTTPTransport(), connect=TIMEOUT_SECONDS)


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
    """Return a response with a length and the body *body*."""
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), *headers, b"", body])


BODY = b"abc" * 1000


async def mid_body(connection: Connection) -> None:
    """Send the head and one chunk, and nothing more."""
    await connection.send(HEAD)
    await connection.chunk(b"a")
    await connection.hang()
