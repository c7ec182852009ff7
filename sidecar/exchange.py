"""One request and its answer over a kept connection: aiohttp's connections, without its session.

A session makes two request objects, an answer object, a cookie jar's look-up, timers and three sets of headers for each
call; what passes here is bytes out and bytes in.  Every failure leaves as an exception of httpx, mapped once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from ssl import SSLContext
from typing import NamedTuple, Protocol, TypeAlias, cast

import aiohttp
import httpx
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from multidict import CIMultiDict
from yarl import URL

from .connector import Arrived, Connector, Handler

Headers: TypeAlias = Sequence[tuple[str, str]]
Reached: TypeAlias = Callable[[], None]

STALE = 0.25
"""Seconds in which a kept connection that closes on a request without a word was closed before it: nothing was done."""
EXACT = 1e9
"""Seconds from which aiohttp rounds limits to whole ones."""


class Answer(Protocol):
    """An answer whose body is unread."""

    @property
    def status(self) -> int:
        """Its status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, found by names in any case."""
        ...

    def header(self, name: bytes) -> str:
        """Return the first header of that *name*, which is in lower case; empty where there is none."""
        ...

    @property
    def ended(self) -> bool:
        """Whether all of the body has arrived."""
        ...

    async def read(self) -> bytes:
        """Return what came next of the body, as it came; empty at its end.  Raises one of `bounded.BROKEN`."""
        ...

    async def close(self) -> None:
        """Give the connection back if the answer has ended, else cut it at once.  Once; nothing waits in it."""
        ...


class Exchange(Protocol):
    """Where requests to one upstream go."""

    async def send(self, method: str, url: httpx.URL, headers: Headers, body: bytes, reached: Reached) -> Answer:
        """Send a request and return its answer; *reached* is called when it has a connection, before it is sent.

        Raises `httpx.HTTPError`: a `ConnectError` or `ConnectTimeout` where upstream has done nothing.  Cancelled, it cuts
        the connection.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class Place(NamedTuple):
    """What aiohttp connects by and keeps by, and the first lines of every request there."""

    request: aiohttp.ClientRequest
    key: ConnectionKey
    first: bytes


class Direct:
    """See `Exchange`: over HTTP/1.1, as many connections as there are calls, each kept for the next one.

    *connect* are the seconds for a connection, names and TLS included; *trust* says which certificates are good, None for
    the system's authorities.
    """

    def __init__(self, *, connect: float | None = None, trust: SSLContext | None = None) -> None:
        self._timeout = aiohttp.ClientTimeout(connect=connect, ceil_threshold=EXACT)
        self._trust = trust
        self._connector: Connector | None = None
        self._places: dict[tuple[str, bytes], Place] = {}

    @property
    def connector(self) -> Connector:
        """The connections, made in the running loop when they are first needed."""
        if self._connector is None:
            self._connector = Connector(self._trust)
        return self._connector

    def _place(self, method: str, url: httpx.URL) -> Place:
        """Return where requests to *url* go; there are two such places of an upstream."""
        key = method, url.raw_path
        place = self._places.get(key)
        if place is None:
            loop = asyncio.get_running_loop()
            request = aiohttp.ClientRequest(method, URL(str(url), encoded=True), loop=loop, ssl=self._trust or True)
            first = b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method.encode(), url.raw_path, url.netloc)
            place = self._places[key] = Place(request, request.connection_key, first)
        return place

    async def send(self, method: str, url: httpx.URL, headers: Headers, body: bytes, reached: Reached) -> Answer:
        """See `Exchange.send`."""
        request, key, first = self._place(method, url)
        try:
            connection = self.connector.kept(key) or await self.connector.connect(request, [], self._timeout)
        except TimeoutError as error:
            msg = "no connection in time"
            raise httpx.ConnectTimeout(msg) from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx.ConnectError(str(error)) from error
        handler = cast("Handler", connection.protocol)  # the connector makes no others
        kept, begun = handler.begin(), asyncio.get_running_loop().time()
        try:
            reached()
            lines = "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("latin-1")
            size = b"content-length: %d\r\n\r\n" % len(body) if body else b"\r\n"
            transport = handler.transport
            if transport is None:  # closed in this very turn
                msg = "the connection was closed"
                raise httpx.ReadError(msg)
            transport.write(b"".join((first, lines, size, body)))
            await handler.head()
        except BaseException as error:
            cut(connection, handler)
            unheard = isinstance(error, httpx.ReadError | OSError) and kept and not handler.heard
            if unheard and asyncio.get_running_loop().time() - begun < STALE:
                msg = "a kept connection had been closed"
                raise httpx.ConnectError(msg) from error
            if isinstance(error, OSError):
                raise httpx.ReadError(str(error)) from error
            raise
        return DirectAnswer(connection, handler)

    async def close(self) -> None:
        """See `Exchange.close`."""
        if self._connector is not None:
            await self._connector.close()


class DirectAnswer:
    """See `Answer`: one that also says when something of its body has come, so that no task need be woken for it."""

    __slots__ = ("_connection", "_handler", "_headers", "status")

    def __init__(self, connection: Connection, handler: Handler) -> None:
        self.status, self._headers = handler.status, handler.headers
        self._connection, self._handler = connection, handler

    @property
    def headers(self) -> Mapping[str, str]:
        """See `Answer.headers`."""
        return CIMultiDict((name.decode("latin-1"), _text(value)) for name, value in self._headers)

    def header(self, name: bytes) -> str:
        """See `Answer.header`."""
        for each, value in self._headers:
            if each == name:
                return _text(value)
        return ""

    @property
    def ended(self) -> bool:
        """See `Answer.ended`."""
        return self._handler.ended

    @property
    def broken(self) -> httpx.HTTPError | None:
        """Why nothing more will come of a body that has not ended."""
        return self._handler.broken

    async def read(self) -> bytes:
        """See `Answer.read`: also what had arrived before the connection broke."""
        return await self._handler.read()

    def taken(self) -> bytes:
        """Return what has come since; empty if it is nothing."""
        return self._handler.taken()

    def listen(self, arrived: Arrived | None) -> None:
        """See `Handler.listen`.  What had come before is not told of."""
        self._handler.listen(arrived)

    async def close(self) -> None:
        """See `Answer.close`."""
        handler, transport = self._handler, self._handler.transport
        if handler.ended and transport is not None and not transport.get_write_buffer_size():
            handler.rest()
            self._connection.release()
        else:
            cut(self._connection, handler)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def cut(connection: Connection, handler: Handler) -> None:
    """Close a connection at once, with whatever is still to be sent: to wait for that would keep what was left alive."""
    handler.rest()
    if (transport := handler.transport) is not None:
        transport.abort()
    connection.close()


class OverHttpx:
    """See `Exchange`: over any transport of httpx.  Mock transports come in here."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def send(self, method: str, url: httpx.URL, headers: Headers, body: bytes, reached: Reached) -> Answer:
        """See `Exchange.send`."""
        reached()
        request = httpx.Request(method, url, headers=list(headers), content=body or None)
        return HttpxAnswer(await self._transport.handle_async_request(request))

    async def close(self) -> None:
        """See `Exchange.close`."""
        await self._transport.aclose()


class HttpxAnswer:
    """See `Answer`."""

    def __init__(self, response: httpx.Response) -> None:
        self.status, self.headers = response.status_code, response.headers
        self._response = response
        self._pieces: AsyncIterator[bytes] = aiter(response.stream)  # type: ignore[arg-type]  # an asynchronous transport's
        self.ended = False

    def header(self, name: bytes) -> str:
        """See `Answer.header`."""
        value: str = self.headers.get(name.decode(), "")
        return value

    async def read(self) -> bytes:
        """See `Answer.read`."""
        async for piece in self._pieces:
            if piece:
                return piece
        self.ended = True
        return b""

    async def close(self) -> None:
        """See `Answer.close`."""
        await self._response.aclose()
