"""Opening connections: Unix sockets, TLS with a client certificate, and the connect timeout."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import httpx
import pytest
import trustme
from connecting import ProxyServer, client_tls, own, reads, server_tls, serving, transport
from pushed import ask, whole
from wire import TIMEOUT_SECONDS, Upstream, eventually, upstream

from sidecar.config.proxies import Proxy
from sidecar.upstream.transport.http_transport import HttpTransport

pytestmark = pytest.mark.anyio


async def test_requests_go_over_a_unix_socket(tmp_path: Path) -> None:
    """Requests go over a Unix socket, whose connection is kept; a socket that is not there is a `ConnectError`."""
    path = str(tmp_path / "engine.sock")
    served = Upstream([own])
    async with transport(uds=path) as unix:
        with pytest.raises(httpx.ConnectError):
            await ask(unix, "http://localhost/v1")
        server = await asyncio.start_unix_server(served.serve, path)
        for _ in range(2):
            assert await whole(await ask(unix, "http://localhost/v1")) == b"own"
        assert (len(served.requests), served.open) == (2, 1)
        assert served.requests[0].head.startswith(b"GET /v1 HTTP/1.1\r\nhost: localhost\r\n")
        server.close()


async def test_client_certificate_is_presented(authority: trustme.CA) -> None:
    """A client certificate is presented to a server that asks for it; without one the request fails."""
    async with upstream(own, tls=server_tls(authority, "127.0.0.1", clients=True)) as up:
        async with transport(tls=client_tls(authority, certificate=True)) as with_one:
            assert await whole(await ask(with_one, up.url)) == b"own"
        async with transport(tls=client_tls(authority)) as without:
            with pytest.raises(httpx.TransportError):
                await ask(without, up.url)
    assert len(up.requests) == 1


async def test_certificate_of_another_name_is_refused(authority: trustme.CA) -> None:
    """A certificate for another name is refused, and nothing is sent."""
    async with (
        upstream(own, tls=server_tls(authority, "other.example")) as up,
        transport(tls=client_tls(authority)) as it,
    ):
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await ask(it, up.url)
    assert up.requests == []


async def test_connecting_has_a_limit() -> None:
    """Connecting takes at most `connect` seconds, a TLS handshake that never ends included."""
    gone = asyncio.Event()
    async with serving(reads(gone)) as port, transport(connect=1.0) as it:
        with pytest.raises(httpx.ConnectTimeout):
            await ask(it, f"https://127.0.0.1:{port}/")
        await asyncio.wait_for(gone.wait(), TIMEOUT_SECONDS)


async def test_concurrent_requests_get_connections_of_their_own() -> None:
    """Requests that start together each get a connection; all of them are kept."""
    async with upstream(own) as up, transport() as it:
        bodies = await asyncio.gather(*(_one(it, up.url) for _ in range(50)))
        assert set(bodies) == {b"own"}
        await eventually(lambda: it.idle_count == it.open_count > 0)


async def _one(it: HttpTransport, url: str) -> bytes:
    response = await ask(it, url)
    body = b""
    try:
        while data := await response.read():
            body += data
    finally:
        await response.aclose()
    return body


@pytest.mark.parametrize("way", ["plain", "TLS", "tunnel"])
async def test_cancelled_requests_leave_no_busy_connection(authority: trustme.CA, way: str) -> None:
    """Requests that are cancelled after any number of loop iterations leave only idle connections that work."""
    chance = random.Random(7)
    tls = None if way == "plain" else server_tls(authority, "127.0.0.1")
    async with upstream(own, tls=tls) as up, serving(ProxyServer()) as port:
        proxy = Proxy("127.0.0.1", port) if way == "tunnel" else None
        async with transport(proxy=proxy, tls=client_tls(authority)) as it:

            async def churns() -> None:
                for _ in range(20):
                    asking = asyncio.create_task(_one(it, up.url))
                    for _ in range(chance.choice([0, 1, 2, 3, 5, 8, 13, 21, 34, 1000])):
                        if not asking.done():
                            await asyncio.sleep(0)
                    asking.cancel()
                    await asyncio.wait([asking])

            await asyncio.gather(*(churns() for _ in range(40)))
            await eventually(lambda: it.open_count == it.idle_count)
            await eventually(lambda: up.open == it.idle_count)
            assert await _one(it, up.url) == b"own"
