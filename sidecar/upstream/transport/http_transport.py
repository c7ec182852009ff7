"""HTTP/1.1 over own connections: the transport of all upstreams that name no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from ssl import SSLContext
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

import httpx

from sidecar.config.proxies import DEFAULT_PORTS, Proxy

from .body_sender import BodySender, framing_of
from .connect import Connector, Route
from .dns_cache import DnsCache, resolve
from .pool import ConnectionPool

if TYPE_CHECKING:
    from sidecar.wire.relay.relayed_request import Upload

    from .connection import Connection
    from .response import Alive, Connected, Headers, Target

STALE_REUSE_SECONDS = 0.25
"""A reused connection that closes within this time without a byte had been closed by the server before the request."""
MAX_PREPARED_TARGETS = 256


class PreparedTarget(NamedTuple):
    """The pool of a target, and the first lines of every request to it."""

    pool: ConnectionPool
    lines: str


class HttpTransport:
    """See `Transport`.  As many connections as requests, each kept idle for 30 s.

    *connect* limits the opening of a connection, in seconds, DNS and TLS included.  *tls* has the trusted authorities and
    the client certificate; None means the system's authorities.  *proxy* leads to every target: absolute-form requests
    for http, CONNECT for https.  *uds* is the path of a Unix socket that serves every target.
    """

    def __init__(
        self,
        *,
        connect: float | None = None,
        tls: SSLContext | None = None,
        proxy: Proxy | None = None,
        proxy_tls: SSLContext | None = None,
        uds: str | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._proxy, self._uds, self._clock = proxy, uds, clock
        self._dns = DnsCache(resolve, clock=clock)
        self._connector = Connector(self._dns, timeout=connect, tls=tls, proxy_tls=proxy_tls)
        self._pools: dict[Route, ConnectionPool] = {}
        self._prepared: dict[Target, PreparedTarget] = {}
        self._closed = False

    @property
    def open_count(self) -> int:
        """The number of open connections, idle or in use."""
        return sum(pool.open_count for pool in self._pools.values())

    @property
    def idle_count(self) -> int:
        """The number of idle connections."""
        return sum(pool.idle_count for pool in self._pools.values())

    async def send(
        self, target: Target, headers: Headers, body: bytes, on_connected: Connected, on_alive: Alive | None = None
    ) -> Connection:
        """See `Transport.send`.

        A reused connection that the server had closed is replaced once, by a new one, with the same request.
        """
        pool, lines = self._prepared.get(target) or self._prepare(target)
        size = b"content-length: %d\r\n\r\n" % len(body) if body else b"\r\n"
        data = b"".join(((lines + _lines(headers)).encode("latin-1"), size, body))
        connection = reused = pool.pop()
        if connection is None:
            connection = await pool.open()
        try:
            on_connected()
        except BaseException:
            connection.abort()
            raise
        while True:
            sent_at = self._clock()
            try:
                await connection.request(data, on_alive)
                if connection.status or connection.broken is None:
                    return connection
                raise connection.broken
            except httpx.ReadError:
                connection.abort()
                if connection is not reused or connection.heard or self._clock() - sent_at >= STALE_REUSE_SECONDS:
                    raise
            except BaseException:
                connection.abort()
                raise
            connection = await pool.open()

    async def send_streamed(
        self, target: Target, headers: Headers, body: Upload, on_connected: Connected
    ) -> Connection:
        """See `Transport.send_streamed`. Each such request has a new connection: it cannot be sent again on another one."""
        pool, lines = self._prepared.get(target) or self._prepare(target)
        head = (lines + _lines(headers)).encode("latin-1") + framing_of(body)
        connection = await pool.open()
        try:
            on_connected()
            arrived = connection.request(head)
            connection.sender = BodySender(connection, body)
            await arrived
            if connection.status or connection.broken is None:
                return connection
            raise connection.broken
        except BaseException:
            if (sender := connection.sender) is not None:
                connection.sender = None
                sender.cancel()
            connection.abort()
            raise

    def _prepare(self, target: Target) -> PreparedTarget:
        url = target.url
        if url.scheme not in DEFAULT_PORTS:
            msg = f"unsupported scheme {url.scheme!r}: expected http or https"
            raise httpx.UnsupportedProtocol(msg)
        tls, host = url.scheme == "https", url.raw_host.decode("ascii")
        route = Route(host, url.port or DEFAULT_PORTS[url.scheme], tls, self._proxy, self._uds)
        if self._closed:
            msg = "the transport is closed"
            raise httpx.ConnectError(msg)
        pool = self._pools.get(route)
        if pool is None:
            connect = partial(self._connector.open, route)
            self._pools[route] = pool = ConnectionPool(connect, loop=asyncio.get_running_loop(), clock=self._clock)
        netloc, path = url.netloc.decode("ascii"), url.raw_path.decode("ascii")
        via = "" if tls or self._proxy is None or self._uds is not None else f"{url.scheme}://{netloc}"
        lines = f"{target.method} {via}{path} HTTP/1.1\r\nhost: {netloc}\r\n" + _lines(target.headers)
        if via and self._proxy is not None and self._proxy.authorization:
            lines += f"proxy-authorization: {self._proxy.authorization}\r\n"
        if len(self._prepared) >= MAX_PREPARED_TARGETS:
            self._prepared.clear()
        self._prepared[target] = prepared = PreparedTarget(pool, lines)
        return prepared

    async def aclose(self) -> None:
        """See `Transport.aclose`.  Requests in progress fail."""
        self._closed = True
        self._prepared.clear()
        self._dns.close()
        await asyncio.gather(*(pool.aclose() for pool in self._pools.values()))


def _lines(headers: Headers) -> str:
    lines = ""
    for name, value in headers:
        lines += f"{name}: {value}\r\n"
    return lines
