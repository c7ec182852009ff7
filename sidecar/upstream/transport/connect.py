"""Open connections: TCP, TLS, Unix sockets, and through HTTP proxies."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

import aiohappyeyeballs
import httpx
import msgspec

from sidecar.config.proxies import Proxy

from .tunnel import Tunnel

if TYPE_CHECKING:
    from .connection import Connection
    from .dns_cache import DnsCache

HAPPY_EYEBALLS_SECONDS = 0.25
"""Seconds after which the next address of a host is tried at the same time (RFC 8305)."""
ALPN_PROTOCOLS = ["http/1.1"]
KEEPALIVE_OPTIONS = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""TCP options, in seconds and probes: a server that vanished without FIN is detected after two minutes of silence."""


class Route(msgspec.Struct, frozen=True):
    """How to reach an origin: by TLS or not, through a proxy or not, or by the Unix socket *uds*."""

    host: str
    port: int
    tls: bool = False
    proxy: Proxy | None = None
    uds: str | None = None


class Connector:
    """Opens connections within *timeout* seconds each: DNS, TCP, CONNECT and TLS together; None for no limit.

    *tls* has the trusted authorities and the client certificate; without it the system's authorities are loaded at the
    first TLS connection, in a thread.  They also verify proxies with an https URL, unless *proxy_tls* is given.
    """

    def __init__(
        self,
        dns: DnsCache,
        *,
        timeout: float | None = None,
        tls: ssl.SSLContext | None = None,
        proxy_tls: ssl.SSLContext | None = None,
    ) -> None:
        self._dns, self._timeout, self._tls, self._proxy_tls = dns, timeout, tls, proxy_tls
        self._system_tls: ssl.SSLContext | None = None

    async def open(self, route: Route, make: Callable[[], Connection]) -> Connection:
        """Return a connected protocol from *make*.  Raise `httpx.ConnectError` or `httpx.ConnectTimeout`."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._open(route, make)
        except TimeoutError as error:
            msg = f"no connection within {self._timeout:g} s" if self._timeout is not None else "no connection in time"
            raise httpx.ConnectTimeout(msg) from error
        except (OSError, ValueError) as error:  # ValueError: a host that is no valid name
            raise httpx.ConnectError(str(error)) from error

    async def _open(self, route: Route, make: Callable[[], Connection]) -> Connection:
        loop = asyncio.get_running_loop()
        if route.uds is not None:
            return (await loop.create_unix_connection(make, route.uds))[1]
        if route.proxy is not None:
            return await self._open_through(route, route.proxy, make)
        context = await self._context(self._tls) if route.tls else None
        name = _server_name(route.host) if route.tls else None
        raw = await self._tcp(route.host, route.port)
        return (await loop.create_connection(make, sock=raw, ssl=context, server_hostname=name))[1]

    async def _open_through(self, route: Route, proxy: Proxy, make: Callable[[], Connection]) -> Connection:
        loop = asyncio.get_running_loop()
        outer = await self._context(self._proxy_tls) if proxy.secure else None
        inner = await self._context(self._tls) if route.tls else None
        name = _server_name(proxy.host) if proxy.secure else None
        raw = await self._tcp(proxy.host, proxy.port)
        if inner is None:
            return (await loop.create_connection(make, sock=raw, ssl=outer, server_hostname=name))[1]
        transport, tunnel = await loop.create_connection(Tunnel, sock=raw, ssl=outer, server_hostname=name)
        try:
            await tunnel.connect(proxy, route.host, route.port)
            connection = make()
            secured = await loop.start_tls(transport, connection, inner, server_hostname=_server_name(route.host))
            if secured is None:
                raise ConnectionResetError("the connection was closed during the TLS handshake")
        except BaseException:
            transport.abort()
            raise
        connection.connection_made(secured)
        return connection

    async def _tcp(self, host: str, port: int) -> socket.socket:
        addresses = await self._dns.lookup(host, port)
        try:
            raw = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=HAPPY_EYEBALLS_SECONDS)
        except RuntimeError as error:  # uvloop raises it for some failures of a socket
            raise OSError(str(error)) from error
        with contextlib.suppress(OSError):  # a socket that is closed already fails when it is used
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE_OPTIONS.items():
                if (number := getattr(socket, option, None)) is not None:
                    raw.setsockopt(socket.IPPROTO_TCP, number, value)
        return raw

    async def _context(self, given: ssl.SSLContext | None) -> ssl.SSLContext:
        """Return the context *given*, else that of the system's authorities."""
        if given is not None:
            return given
        if self._system_tls is None:
            self._system_tls = await asyncio.to_thread(system_tls)
        return self._system_tls


def system_tls() -> ssl.SSLContext:
    """Return a TLS context that trusts the system's authorities.  Reads files: tens of milliseconds."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(ALPN_PROTOCOLS)
    return context


def _server_name(host: str) -> str:
    """Return *host* as TLS names it.  Raise `ValueError` for a name that no certificate has."""
    name = host.removesuffix(".")
    if not name or name.startswith("."):
        raise ValueError(f"invalid host name {host!r}")
    return name
