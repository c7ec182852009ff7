"""One server in use: its pipeline, whether it has replicas, and the wait for them, which `replication` explains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from .connection import ConnectionLost, Receiver, Reply, encoded
from .pipeline import Pipeline
from .replication import HeldResults, Replication
from .server_advice import facts_of
from .url import Address

Answer = TypeVar("Answer")
INSPECTION_SECONDS = 5.0
"""Time after which a server in use is asked again whether it has replicas."""
DEMOTION_PHRASES = ("WAIT cannot be used with replica instances", "UNBLOCKED")
"""Parts of the errors of a server that became a replica after it had executed the scripts of a write."""


class Node:
    """The server at *address*, which owns *connection*. For *timeout* and *on_idle* see `Pipeline`; *monotonic* is in seconds."""

    def __init__(
        self,
        connection: AbstractConnection,
        address: Address,
        *,
        timeout: float,
        replication: Replication,
        monotonic: Callable[[], float],
        on_idle: Callable[[], None],
    ) -> None:
        self.address = address
        self.pipeline = Pipeline(connection, address, timeout, self._before_write, on_idle)
        self._replication, self._monotonic, self._on_idle = replication, monotonic, on_idle
        self._inspect_at = 0.0
        """When it is due to be inspected again."""
        self._replicas = 0
        self.is_primary = True
        self.lacks_script = False
        """Whether the next script must be sent with its source."""
        self._unfollowed: HeldResults | None = None
        """The results of scripts that are sent and not followed by a WAIT yet."""
        self._tasks: set[asyncio.Task[Any]] = set()

    async def inspect(self) -> None:
        """Find out whether it is a primary, and how many replicas it has. Where its user may not ask, none are assumed."""
        facts = facts_of(await self.pipeline.ask("INFO", "replication"))
        self.is_primary = facts.get("role", "master") == "master"
        count = int(facts.get("connected_slaves", "0")) if self.is_primary else 0
        # Where sentinels decide, a primary that has lost its replica may be replaced by it: it is still waited for.
        self._replicas = max(count, min(self._replicas, 1)) if self._replication.is_replaced else count

    def send_script(self, command: bytes, receiver: Receiver) -> None:
        """Send a script; *receiver* gets its result, or an error, once it is also on a replica."""
        if self._replicas and self._replication.wait_ms:
            if self._unfollowed is None:
                self._unfollowed = HeldResults()
            receiver = partial(self._unfollowed.receive, receiver)
        self.pipeline.send(command, receiver)

    def _before_write(self) -> None:
        """Send a WAIT behind the scripts of this write, and a question about replicas from time to time."""
        if self._replication.wait_ms and self._monotonic() >= self._inspect_at:
            self._inspect_at = self._monotonic() + INSPECTION_SECONDS
            self._start(self.inspect())
        held, self._unfollowed = self._unfollowed, None
        if held is not None and self._replication.should_wait():
            held.is_waiting = True
            self.pipeline.send(encoded("WAIT", 1, self._replication.wait_ms), partial(self._acknowledge, held))

    def _acknowledge(self, held: HeldResults, reply: Reply) -> None:
        """Give out results after *reply*, that to WAIT, or report the loss of the server."""
        if isinstance(reply, ResponseError) and any(phrase in str(reply) for phrase in DEMOTION_PHRASES):
            reply = ConnectionLost("replica", f"{self.address} is a replica now")
        if isinstance(reply, ConnectionLost):
            self._lose(held, reply)
        elif isinstance(reply, int) and reply > 0:
            self._replication.note_acknowledged()
            held.give_out()
        else:
            cause = str(reply) if isinstance(reply, Exception) else f"within {self._replication.wait_ms} ms"
            self._replication.note_missing(self.address, cause)
            if self._replication.is_replaced is None:
                held.give_out()
            else:
                question = self._start(self._replication.is_replaced(self.address))
                question.add_done_callback(partial(self._decide, held))

    def _decide(self, held: HeldResults, question: asyncio.Task[bool]) -> None:
        """Give out results that no replica has acknowledged, unless *question* says that the server is being replaced.

        It is a callback, so that it is called also for a question that was cancelled before it began.
        """
        is_replaced = question.cancelled() or question.exception() is not None or question.result()
        if self.pipeline.is_lost:
            self._lose(held, ConnectionLost("closed", f"{self.address} closed the connection"))
        elif is_replaced:
            self._lose(held, ConnectionLost("failover", str(self.address)))
        else:
            held.give_out()

    def _lose(self, held: HeldResults, lost: ConnectionLost) -> None:
        held.give_out(lost)
        self.pipeline.close()
        self._on_idle()  # also where the pipeline was idle or lost before

    def _start(self, work: Coroutine[Any, Any, Answer]) -> asyncio.Task[Answer]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        """Close the connection; what is in flight is lost."""
        self.pipeline.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.pipeline.wait_closed()
