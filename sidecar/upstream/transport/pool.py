"""The connections to one origin: idle ones wait for the next request, for a limited time and in a limited number."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeAlias

import httpx

from .connection import Connection

KEEPALIVE_SECONDS = 30.0
MAX_IDLE_CONNECTIONS = 1_000
CLOSE_SECONDS = 1.0
"""Seconds that `ConnectionPool.aclose` waits for the sockets to close."""

Connect: TypeAlias = Callable[[Callable[[], Connection]], Coroutine[Any, Any, Connection]]


class ConnectionPool:
    """Connections to one origin, without a limit on those in use.  *connect* opens a new one from a protocol factory.

    The most recently used connection is reused first, so that surplus ones expire.
    """

    def __init__(self, connect: Connect, *, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._connect, self._loop, self._clock = connect, loop, clock
        self._open: set[Connection] = set()
        self._idle: dict[Connection, float] = {}
        """Idle connections in the order in which they became idle, with that time in seconds."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None

    @property
    def open_count(self) -> int:
        """The number of open connections, idle or in use."""
        return len(self._open)

    @property
    def idle_count(self) -> int:
        """The number of idle connections."""
        return len(self._idle)

    def pop(self) -> Connection | None:
        """Return an idle connection, which is then in use; None if there is none."""
        idle = self._idle
        while idle:
            connection, since = idle.popitem()
            transport = connection.transport
            if transport is not None and not transport.is_closing() and self._clock() - since <= KEEPALIVE_SECONDS:
                return connection
            connection.close()
        return None

    async def open(self) -> Connection:
        """Open a new connection.  Raise `httpx.ConnectError` or `httpx.ConnectTimeout`."""
        if not self._closed:
            connection = await self._connected()
            transport = connection.transport
            if transport is None or transport.is_closing():
                msg = "the server closed the connection, or sent bytes, before the request"
                raise httpx.ConnectError(msg)
            self._open.add(connection)
            if not self._closed:
                return connection
            connection.abort()
        msg = "the transport is closed"
        raise httpx.ConnectError(msg)

    async def _connected(self) -> Connection:
        """Connect in an empty context (contextvars): the connection outlives the call, whose context it would keep."""
        connecting = asyncio.create_task(self._connect(self._new), context=Context())
        try:
            return await connecting
        except asyncio.CancelledError:
            # Cancelled in the event-loop iteration in which the connection was made: only this call knows it.
            if connecting.done() and not connecting.cancelled() and connecting.exception() is None:
                connecting.result().abort()
            raise

    def _new(self) -> Connection:
        return Connection(self._loop, self._keep, self._drop)

    def _keep(self, connection: Connection) -> None:
        """Make an open connection idle, if it can serve another request."""
        transport = connection.transport
        if self._closed or connection.should_close or transport is None or transport.is_closing():
            connection.close()
            return
        idle = self._idle
        idle[connection] = self._clock()
        if len(idle) > MAX_IDLE_CONNECTIONS:
            oldest = next(iter(idle))
            del idle[oldest]
            oldest.close()
        if self._timer is None:
            self._start_timer(KEEPALIVE_SECONDS)

    def _drop(self, connection: Connection) -> None:
        """Forget a connection that was lost."""
        self._open.discard(connection)
        self._idle.pop(connection, None)
        if self._emptied is not None and not self._open and not self._emptied.done():
            self._emptied.set_result(None)

    def _start_timer(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._close_expired, context=Context())

    def _close_expired(self) -> None:
        self._timer = None
        now = self._clock()
        while self._idle:
            oldest, since = next(iter(self._idle.items()))
            left = since + KEEPALIVE_SECONDS - now
            if left > 0:
                self._start_timer(left)
                return
            del self._idle[oldest]
            oldest.close()

    async def aclose(self) -> None:
        """Abort all connections, also those in use, and wait at most `CLOSE_SECONDS` until their sockets are closed."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._idle.clear()
        for connection in list(self._open):
            if connection.transport is not None:
                connection.transport.abort()  # a response in progress breaks with `httpx.ReadError`
        if self._open:
            self._emptied = self._loop.create_future()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._emptied
