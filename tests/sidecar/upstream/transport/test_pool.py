"""The connection pool: how many idle connections it keeps, how long, and which one is reused next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import httpx
import pytest

from policies.testing import FakeClock
from sidecar.upstream.transport.connection import REUSE_DELAY, Connection
from sidecar.upstream.transport.pool import KEEPALIVE_SECONDS, MAX_IDLE_CONNECTIONS, ConnectionPool

pytestmark = pytest.mark.anyio


class Transport(asyncio.Transport):
    """A socket that closes at once."""

    def __init__(self, protocol: Connection) -> None:
        super().__init__()
        self._protocol, self._closing, self.paused = protocol, False, False
        protocol.connection_made(self)

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def write(self, data: object) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._protocol.connection_lost(None)

    abort = close


class Loop:
    """The timers of a loop, on the clock of the test."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.timers: list[tuple[float, Callable[..., None]]] = []

    def call_later(self, delay: float, callback: Callable[..., None], *given: object, **_: Any) -> Any:
        entry = (self.clock() + delay, partial(callback, *given))
        self.timers.append(entry)
        return Handle(self, entry)

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for entry in [each for each in self.timers if each[0] <= self.clock()]:
            self.timers.remove(entry)
            entry[1]()


class Handle:
    def __init__(self, loop: Loop, entry: tuple[float, Callable[..., None]]) -> None:
        self._loop, self._entry = loop, entry

    def cancel(self) -> None:
        self._loop.timers.remove(self._entry)


@pytest.fixture
def loop() -> Loop:
    return Loop(FakeClock())


@pytest.fixture
def pool(loop: Loop) -> ConnectionPool:
    async def connect(make: Callable[[], Connection]) -> Connection:
        connection = make()
        Transport(connection)
        return connection

    return ConnectionPool(connect, loop=cast("asyncio.AbstractEventLoop", loop), clock=loop.clock)


async def used(connection: Connection) -> Connection:
    """Let *connection* receive a response, and release it."""
    head = connection.request(b"")
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    assert connection.ended
    await head
    await connection.aclose()
    return connection


async def test_newest_idle_connection_is_reused_first(pool: ConnectionPool) -> None:
    """The connection that became idle last is reused first."""
    connections = [await pool.open() for _ in range(3)]
    for each in connections:
        await used(each)

    assert [pool.pop(), pool.pop(), pool.pop(), pool.pop()] == [*reversed(connections), None]
    assert (pool.open_count, pool.idle_count) == (3, 0)


async def test_idle_connection_expires(pool: ConnectionPool, loop: Loop) -> None:
    """An idle connection is closed after `KEEPALIVE_SECONDS`, by one timer for all of them."""
    first, second = await pool.open(), await pool.open()
    await used(first)
    loop.advance(KEEPALIVE_SECONDS - 1)
    await used(second)
    assert len(loop.timers) == 1
    loop.advance(1)
    assert (first.transport, second.transport is None) == (None, False)
    assert len(loop.timers) == 1
    loop.advance(KEEPALIVE_SECONDS)

    assert (pool.open_count, pool.idle_count, loop.timers) == (0, 0, [])


async def test_expired_connection_is_not_reused(pool: ConnectionPool, loop: Loop) -> None:
    """A connection that has expired is not reused, even before the timer has closed it."""
    connection = await used(await pool.open())
    loop.clock.advance(KEEPALIVE_SECONDS + 0.1)

    assert pool.pop() is None
    assert connection.transport is None


async def test_idle_connections_are_bounded(pool: ConnectionPool) -> None:
    """At most `MAX_IDLE_CONNECTIONS` are idle; the one that was idle longest is closed."""
    connections = [await pool.open() for _ in range(MAX_IDLE_CONNECTIONS + 2)]
    for each in connections:
        await used(each)

    assert (pool.open_count, pool.idle_count) == (MAX_IDLE_CONNECTIONS, MAX_IDLE_CONNECTIONS)
    assert [each.transport is None for each in connections[:3]] == [True, True, False]


async def test_lost_connection_leaves_the_pool(pool: ConnectionPool) -> None:
    """A connection that is lost, or on which unexpected bytes arrive, leaves the pool."""
    lost, unasked = await used(await pool.open()), await used(await pool.open())
    assert lost.transport is not None
    lost.transport.close()
    unasked.data_received(b"x")

    assert (pool.open_count, pool.idle_count, pool.pop()) == (0, 0, None)


async def slow(pool: ConnectionPool) -> Connection:
    """Return a connection whose reading was paused during its response, which is released."""
    connection = await pool.open()
    transport = cast("Transport", connection.transport)
    connection.request(b"")
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"x" * 90_000)
    assert transport.paused
    assert len(connection.take()) == 90_000
    assert not transport.paused
    connection.data_received(b"x" * 10_000)
    await connection.aclose()
    return connection


async def test_reused_after_paused_reading(pool: ConnectionPool, loop: Loop) -> None:
    """A connection whose reading was paused is reused after `REUSE_DELAY`, if nothing arrives meanwhile."""
    connection = await slow(pool)
    assert pool.pop() is None
    loop.advance(REUSE_DELAY)
    assert pool.pop() is connection

    unasked = await slow(pool)
    unasked.data_received(b"x")
    loop.advance(REUSE_DELAY)
    assert pool.pop() is None


async def test_closed_before_reuse(pool: ConnectionPool, loop: Loop) -> None:
    """Closing the pool also closes a connection that is about to become idle."""
    connection = await slow(pool)
    await pool.aclose()
    loop.advance(REUSE_DELAY)

    assert (connection.transport, pool.open_count, pool.idle_count) == (None, 0, 0)


async def test_connection_with_early_bytes_is_not_used(pool: ConnectionPool, loop: Loop) -> None:
    """A connection on which bytes arrive before its first request is not used."""

    async def connect(make: Callable[[], Connection]) -> Connection:
        connection = make()
        if early:
            connection.data_received(b"x")
        Transport(connection)
        if not early:
            connection.data_received(b"x")
        return connection

    pool = ConnectionPool(connect, loop=cast("asyncio.AbstractEventLoop", loop), clock=loop.clock)
    for early in (True, False):  # noqa: B007  # `connect` reads it
        with pytest.raises(httpx.ConnectError, match="before the request"):
            await pool.open()
    assert pool.open_count == 0


async def test_cancelled_connect_leaves_no_connection(loop: Loop) -> None:
    """A request that is cancelled in the iteration in which its connection opens leaves no connection."""
    made: list[Connection] = []

    async def connect(make: Callable[[], Connection]) -> Connection:
        await asyncio.sleep(0)
        made.append(make())
        Transport(made[0])
        asyncio.get_running_loop().call_soon(opening.cancel)
        return made[0]

    pool = ConnectionPool(connect, loop=cast("asyncio.AbstractEventLoop", loop), clock=loop.clock)
    opening = asyncio.create_task(pool.open())
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert made[0].transport is None


async def test_close_ends_all_connections(pool: ConnectionPool, loop: Loop) -> None:
    """Closing ends idle connections and those in use, and no timer is left."""
    busy, idle = await pool.open(), await used(await pool.open())
    busy.request(b"")
    await pool.aclose()

    assert (busy.transport, idle.transport, pool.open_count, loop.timers) == (None, None, 0, [])
    assert busy.broken is not None
