"""Transports, TLS contexts, servers and a proxy for tests of how connections are opened."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trustme
from wire import TIMEOUT_SECONDS, Connection

from sidecar.upstream.transport.http_transport import HttpTransport


async def own(connection: Connection) -> None:
    """Answer with a body that no other server of the test sends."""
    await connection.answer(200, b"own")


def server_tls(authority: trustme.CA, *names: str, clients: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    authority.issue_cert(*names).configure_cert(context)
    if clients:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_tls(authority: trustme.CA, *, certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    authority.configure_trust(context)
    if certificate:
        authority.issue_cert("client@example.org").configure_cert(context)
    return context


@asynccontextmanager
async def transport(**options: Any) -> AsyncIterator[HttpTransport]:
    made = HttpTransport(**{"connect": TIMEOUT_SECONDS, **options})
    try:
        yield made
    finally:
        await made.aclose()
        assert made.open_count == 0


@asynccontextmanager
async def serving(handle: Callable[..., Awaitable[None]], **options: Any) -> AsyncIterator[int]:
    """Run a server on a free port; its handlers are cancelled at the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]  # in a task
        try:
            await handle(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def reads(gone: asyncio.Event) -> Callable[..., Awaitable[None]]:
    """Return a server that reads and never answers; it sets *gone* when its client has disconnected."""

    async def handle(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65_536):
                pass
        finally:
            gone.set()

    return handle


class ProxyServer:
    """An HTTP proxy for CONNECT and requests in absolute form. `asked` holds the heads of its requests."""

    def __init__(self, reply: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> None:
        self.asked: list[bytes] = []
        self._reply = reply
        self.gone = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head)
            method, url, _ = head.split(b"\r\n")[0].split(b" ")
            connects = method == b"CONNECT"
            host, _, port = (url if connects else url.split(b"/")[2]).rpartition(b":")
            if connects:
                writer.write(self._reply)
                if not self._reply.startswith(b"HTTP/1.1 200"):
                    await reader.read()
                    return
            up_reader, up_writer = await asyncio.open_connection(host.decode(), int(port))
            if not connects:
                up_writer.write(head)
            await asyncio.gather(self._pass(reader, up_writer), self._pass(up_reader, writer))
        finally:
            self.gone.set()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()
