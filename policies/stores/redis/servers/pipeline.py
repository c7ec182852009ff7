"""One connection with many commands in flight: they are written without waiting, and replies are matched in order.

Commands of one event-loop iteration leave in one write. Each command has a receiver, which is called exactly once: with the reply,
with the error that the server answered, or with `ConnectionLost`. Receivers are called in the order of the commands.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from policies.stores.batching.deadline import TICKS_PER_DEADLINE

from .classification import failure_of
from .connection import ConnectionLost, Receiver, Reply, closed, encoded, next_reply
from .url import Address

MAX_COMMANDS_PER_WRITE = 256
"""Most commands that are written at once, so that no step of the event loop takes long."""
FAILURES_IN_USE = ("timeout", "no_route", "not_redis")
"""Failures that end a connection which was in use, beside that its peer closes it: a TLS handshake, for example, does not."""


class Pipeline:
    """A connection to the server at *address*, which owns *connection*.

    It is lost when its peer closes it, or when no reply has arrived for *timeout* seconds while one is expected. Only time in which the
    event loop ran counts, as in `finish_within`. *before_write* is called before each write and may add commands. *on_idle* is called
    when no reply is expected any more, also after a loss.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        address: Address,
        timeout: float,
        before_write: Callable[[], None],
        on_idle: Callable[[], None],
    ) -> None:
        self.address, self._connection = address, connection
        self._timeout, self._before_write, self._on_idle = timeout, before_write, on_idle
        self._receivers: deque[Receiver] = deque()
        self._unwritten: list[bytes] = []
        self._has_unwritten = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self.is_lost = False
        self._silent_ticks = 0
        """Ticks since the last reply, while one is expected."""
        self._tick_timer: asyncio.TimerHandle | None = None
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]
        self._closing: asyncio.Task[None] | None = None

    def send(self, command: bytes, receiver: Receiver) -> None:
        """Write the encoded *command* soon. It must not be called once the connection is lost."""
        if not self._receivers:
            self._silent_ticks = 0
            if self._tick_timer is None:
                self._start_tick()
            self._is_idle.clear()
        self._receivers.append(receiver)
        self._unwritten.append(command)
        self._has_unwritten.set()

    async def ask(self, *command: str) -> Reply:
        """Return the reply to *command*; errors of the server and `ConnectionLost` are returned too."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        if self.is_lost:
            return ConnectionLost("closed", f"{self.address} closed the connection")
        self.send(encoded(*command), lambda reply: None if future.done() else future.set_result(reply))
        return await future

    @property
    def is_idle(self) -> bool:
        """Whether no reply is expected."""
        return not self._receivers

    async def wait_until_idle(self) -> None:
        """Return when no reply is expected, also after a loss."""
        await self._is_idle.wait()

    async def _write(self) -> None:
        try:
            while not self.is_lost:
                await self._has_unwritten.wait()
                self._before_write()
                commands = self._unwritten[:MAX_COMMANDS_PER_WRITE]
                del self._unwritten[:MAX_COMMANDS_PER_WRITE]
                if not self._unwritten:
                    self._has_unwritten.clear()
                await self._connection.send_packed_command(b"".join(commands), check_health=False)
        except (RedisError, OSError) as error:
            self._lose(_loss_by(error))

    async def _read(self) -> None:
        try:
            while not self.is_lost:
                reply = await next_reply(self._connection)
                self._silent_ticks = 0
                if not self._receivers:
                    self._lose(ConnectionLost("not_redis", "it answered without being asked"))
                    return
                self._receivers.popleft()(reply)
                if not self._receivers:
                    self._end_wait()
        except (RedisError, OSError) as error:
            self._lose(_loss_by(error))

    def _start_tick(self) -> None:
        self._tick_timer = asyncio.get_running_loop().call_later(self._timeout / TICKS_PER_DEADLINE, self._tick)

    def _tick(self) -> None:
        self._tick_timer = None
        if not self._receivers:
            return
        self._silent_ticks += 1
        if self._silent_ticks > TICKS_PER_DEADLINE:  # the first tick may have begun before the first command
            message = f"{self.address} did not answer for {self._timeout:g} seconds"
            self._lose(ConnectionLost("timeout", message, is_stalled=True))
        else:
            self._start_tick()

    def close(self) -> None:
        """Close the connection; what is in flight is lost."""
        self._lose(ConnectionLost("closed", f"the connection to {self.address} was closed"))

    def _lose(self, error: ConnectionLost) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._closing = asyncio.create_task(closed(self._connection))
        while self._receivers:
            self._receivers.popleft()(error)
        self._end_wait()

    def _end_wait(self) -> None:
        self._is_idle.set()
        self._on_idle()

    async def wait_closed(self) -> None:
        """Return when the tasks have ended and the connection is closed. `close` must have been called before."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._closing is not None:
            await self._closing


def _loss_by(error: Exception) -> ConnectionLost:
    """Return the loss of a connection by *error*. Its peer has closed it, unless the error is known to say otherwise."""
    failure = failure_of(error)
    return ConnectionLost(failure if failure in FAILURES_IN_USE else "closed", str(error))
