"""One request and its answer over a kept connection: aiohttp's connections, without its session.

A session makes two request objects, an answer object, a cookie jar's look-up, timers and three sets of headers for each
call; what passes here is bytes out and bytes in.  Every failure leaves as an exception of httpx, mapped once.
"""

from __future__ import annotations

import asyncio
from ssl import SSLContext
from time import monotonic
from typing import NamedTuple

import aiohttp
import httpx
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from .pool import Connector
from .response import Answer, Headers, Reached, Target

STALE = 0.25
"""Seconds in which a kept connection that closes on a request without a word was closed before it: nothing was done."""
EXACT = 1e9
"""Seconds from which aiohttp rounds limits to whole ones."""


class Place(NamedTuple):
    """What aiohttp connects by and keeps by, and the first lines of every request there."""

    request: aiohttp.ClientRequest
    key: ConnectionKey
    first: str


class Direct:
    """See `Exchange`: over HTTP/1.1, as many connections as there are calls, each kept for the next one.

    *connect* are the seconds for a connection, names and TLS included; *trust* says which certificates are good, None for
    the system's authorities.
    """

    def __init__(self, *, connect: float | None = None, trust: SSLContext | None = None) -> None:
        self._timeout = aiohttp.ClientTimeout(connect=connect, ceil_threshold=EXACT)
        self._trust = trust
        self._connector: Connector | None = None
        self._places: dict[Target, Place] = {}

    @property
    def connector(self) -> Connector:
        """The connections, made in the running loop when they are first needed."""
        if self._connector is None:
            self._connector = Connector(self._trust)
        return self._connector

    def _place(self, target: Target) -> Place:
        loop = asyncio.get_running_loop()
        url = URL(str(target.url), encoded=True)
        request = aiohttp.ClientRequest(target.method, url, loop=loop, ssl=self._trust or True)
        first = f"{target.method} {target.url.raw_path.decode()} HTTP/1.1\r\nhost: {target.url.netloc.decode()}\r\n"
        place = Place(request, request.connection_key, first + _lines(target.headers))
        self._places[target] = place
        return place

    async def send(self, target: Target, headers: Headers, body: bytes, reached: Reached) -> Answer:
        """See `Exchange.send`."""
        request, key, first = self._places.get(target) or self._place(target)
        connector = self._connector or self.connector
        handler = kept = connector.kept(key)
        if handler is None:
            try:
                handler = await connector.opened(request, self._timeout)
            except TimeoutError as error:
                msg = "no connection in time"
                raise httpx.ConnectTimeout(msg) from error
            except (aiohttp.ClientError, OSError) as error:
                raise httpx.ConnectError(str(error)) from error
        handler.begin()
        begun = monotonic()
        try:
            reached()
            size = b"content-length: %d\r\n\r\n" % len(body) if body else b"\r\n"
            lines = first + _lines(headers) if headers else first
            transport = handler.transport
            if transport is None:  # closed in this very turn
                msg = "the connection was closed"
                raise httpx.ReadError(msg)
            transport.write(b"".join((lines.encode("latin-1"), size, body)))
            await handler.head()
        except BaseException as error:
            handler.cut()
            unheard = isinstance(error, httpx.ReadError | OSError) and kept is not None and not handler.heard
            if unheard and monotonic() - begun < STALE:
                msg = "a kept connection had been closed"
                raise httpx.ConnectError(msg) from error
            if isinstance(error, OSError):
                raise httpx.ReadError(str(error)) from error
            raise
        return handler

    async def close(self) -> None:
        """See `Exchange.close`."""
        if self._connector is not None:
            await self._connector.close()


def _lines(headers: Headers) -> str:
    lines = ""
    for name, value in headers:
        lines += f"{name}: {value}\r\n"
    return lines
