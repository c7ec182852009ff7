"""Through HTTP proxies: absolute form, tunnels, real proxies and hostile ones."""

from __future__ import annotations

import asyncio
import shutil
import socket
from asyncio.subprocess import DEVNULL
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trustme
from connecting import ProxyServer, client_tls, own, reads, server_tls, serving, transport
from pushed import ask, whole
from wire import TIMEOUT_SECONDS, upstream

from sidecar.config.proxies import Proxy, parse_proxy
from sidecar.upstream.transport.tunnel import MAX_REPLY_BYTES

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("userinfo", ["", "user:p%40ss@"])
async def test_http_request_has_absolute_form(userinfo: str) -> None:
    """A request to an http URL goes to the proxy with its whole URL and the proxy's credentials; its connection is kept."""
    proxy = ProxyServer()
    async with upstream(own) as up, serving(proxy) as port:
        async with transport(proxy=parse_proxy(f"http://{userinfo}127.0.0.1:{port}")) as it:
            for _ in range(2):
                assert await whole(await ask(it, f"{up.url}/a?b=c")) == b"own"
            assert it.open_count == 1
        host = up.url.split("/")[2]

    first = up.requests[0]
    assert first.head.startswith(f"GET {up.url}/a?b=c HTTP/1.1\r\nhost: {host}\r\n".encode())
    expected = "Basic " + b64encode(b"user:p@ss").decode() if userinfo else None
    assert first.header("proxy-authorization") == expected


@pytest.mark.parametrize("secure", [False, True], ids=["http proxy", "https proxy"])
@pytest.mark.parametrize("userinfo", ["", "user:p%40ss@"])
async def test_https_request_goes_through_a_tunnel(authority: trustme.CA, userinfo: str, *, secure: bool) -> None:
    """A request to an https URL goes through a tunnel, by TLS to the server itself; the proxy's credentials end there."""
    proxy = ProxyServer()
    options = {"ssl": server_tls(authority, "127.0.0.1")} if secure else {}
    async with upstream(own, tls=server_tls(authority, "127.0.0.1")) as up, serving(proxy, **options) as port:
        url = f"http{'s' if secure else ''}://{userinfo}127.0.0.1:{port}"
        tls = client_tls(authority)
        async with transport(proxy=parse_proxy(url), tls=tls, proxy_tls=tls) as it:
            for _ in range(2):
                assert await whole(await ask(it, f"{up.url}/a")) == b"own"
            assert it.open_count == 1
        host = up.url.split("/")[2]

    (head,) = proxy.asked
    lines = head.decode().split("\r\n")
    assert lines[:2] == [f"CONNECT {host} HTTP/1.1", f"host: {host}"]
    assert ("proxy-authorization: Basic " + b64encode(b"user:p@ss").decode() in lines) == bool(userinfo)
    assert up.requests[0].head.startswith(f"GET /v1/a HTTP/1.1\r\nhost: {host}\r\n".encode())
    assert up.requests[0].header("proxy-authorization") is None


async def test_proxy_cannot_read_a_tunnel(authority: trustme.CA) -> None:
    """The certificate behind a tunnel must be the server's: a proxy cannot read what passes."""
    async with (
        upstream(own, tls=server_tls(authority, "other.example")) as up,
        serving(ProxyServer()) as port,
        transport(proxy=Proxy("127.0.0.1", port), tls=client_tls(authority)) as it,
    ):
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await ask(it, up.url)
    assert up.requests == []


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 5\r\n\r\nlogin", "status 407"),
        (b"HTTP/1.1 503 X\r\n\r\n", "status 503"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://evil.example\r\n\r\n", "status 302"),
        (b"SSH-2.0-x\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 2000 X\r\n\r\n", "not valid HTTP"),
        (OK + b"x: y\r\n" * MAX_REPLY_BYTES, "more than"),
        (OK + b"x: " + b"y" * 2 * MAX_REPLY_BYTES, "more than"),
        (OK + b"\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "before the TLS handshake"),
    ],
    ids=["login", "refused", "redirect", "no HTTP", "status", "many headers", "one header", "early bytes"],
)
async def test_refusal_of_a_proxy_is_a_connect_error(authority: trustme.CA, reply: bytes, problem: str) -> None:
    """A proxy that refuses, or replies with anything but a bounded success, is a `ConnectError`; it is closed at once."""

    async def replies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply)
            await reader.read()
        finally:
            gone.set()

    gone = asyncio.Event()
    async with serving(replies) as port, transport(proxy=Proxy("127.0.0.1", port), tls=client_tls(authority)) as it:
        with pytest.raises(httpx.ConnectError, match=problem):
            await ask(it, "https://far.example/v1")
        await asyncio.wait_for(gone.wait(), TIMEOUT_SECONDS)


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 O"], ids=["nothing", "half a reply"])
@pytest.mark.parametrize("how", ["closes", "hangs", "is left"])
async def test_silent_proxy_is_closed(authority: trustme.CA, part: bytes, how: str) -> None:
    """A proxy that closes is a `ConnectError`, one that hangs a `ConnectTimeout`; it is closed, also by a cancellation."""

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(part)
            asked.set()
            if how != "closes":
                await reader.read()
        finally:
            gone.set()

    asked, gone = asyncio.Event(), asyncio.Event()
    limit = 1.0 if how == "hangs" else TIMEOUT_SECONDS
    # An own authority: loading those of the system may take longer than the limit, before the proxy is asked.
    tls = client_tls(authority)
    async with serving(half) as port, transport(proxy=Proxy("127.0.0.1", port), tls=tls, connect=limit) as it:
        sending = asyncio.create_task(ask(it, "https://far.example/v1"))
        if how == "is left":
            await asyncio.wait_for(asked.wait(), TIMEOUT_SECONDS)
            sending.cancel()
        wanted = {"closes": httpx.ConnectError, "hangs": httpx.ConnectTimeout, "is left": asyncio.CancelledError}
        with pytest.raises(wanted[how]):
            await sending
        await asyncio.wait_for(gone.wait(), TIMEOUT_SECONDS)


async def test_endless_handshake_behind_a_tunnel_times_out(authority: trustme.CA) -> None:
    """A handshake behind a tunnel that never ends is given up in time, and the tunnel is closed."""
    gone = asyncio.Event()
    proxy = ProxyServer()
    async with (
        serving(reads(gone)) as silent,
        serving(proxy) as port,
        transport(proxy=Proxy("127.0.0.1", port), tls=client_tls(authority), connect=1.0) as it,
    ):
        with pytest.raises(httpx.ConnectTimeout):
            await ask(it, f"https://127.0.0.1:{silent}/")
        await asyncio.wait_for(proxy.gone.wait(), TIMEOUT_SECONDS)
        await asyncio.wait_for(gone.wait(), TIMEOUT_SECONDS)


TINYPROXY = shutil.which("tinyproxy") or next(iter(map(str, Path("/usr/sbin").glob("tinyproxy"))), None)


@asynccontextmanager
async def tinyproxy(folder: Path, *lines: str) -> AsyncIterator[int]:
    """Run tinyproxy on a free port."""
    assert TINYPROXY is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "tinyproxy.conf"
    config.write_text("\n".join([f"Port {port}", "Listen 127.0.0.1", "Timeout 60", "MaxClients 20", *lines, ""]))
    process = await asyncio.create_subprocess_exec(TINYPROXY, "-d", "-c", config, stdout=DEVNULL, stderr=DEVNULL)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.01)  # between two tries of a process that starts
                else:
                    writer.close()
                    break
        yield port
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.skipif(TINYPROXY is None, reason="tinyproxy is not installed")
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
async def test_real_proxy_carries_requests(tmp_path: Path, authority: trustme.CA, *, secure: bool) -> None:
    """A real proxy carries requests in absolute form and by CONNECT, with its credentials only."""
    tls = server_tls(authority, "127.0.0.1") if secure else None
    async with upstream(own, tls=tls) as up, tinyproxy(tmp_path, "BasicAuth user pass") as port:
        for userinfo, works in (("user:pass@", True), ("user:wrong@", False), ("", False)):
            proxy = parse_proxy(f"http://{userinfo}127.0.0.1:{port}")
            async with transport(proxy=proxy, tls=client_tls(authority)) as it:
                if works:
                    for _ in range(2):
                        assert await whole(await ask(it, up.url)) == b"own"
                elif secure:
                    with pytest.raises(httpx.ConnectError, match="status 40"):
                        await ask(it, up.url)
                else:
                    response = await ask(it, up.url)
                    assert response.status in (401, 407)
                    await response.aclose()
        assert len(up.requests) == 2
