"""One server in use: its pipeline, whether it has replicas, and the wait for them.

A primary answers before its replicas have a write, so a failover may forget the last moments. Where the server has replicas, a
WAIT follows the scripts of each write. Their results are held back until one replica has acknowledged them, for `wait_ms` at most.
What remains possible:

- A primary that fails before the acknowledgement: the results were not given out, and the scripts are sent again to the new one.
- Of several replicas another one is promoted than the one that acknowledged. Redis prefers the one that has most data, but does
  not guarantee it.
- Where sentinels decide, a failover begins while the primary is alive. Without an acknowledgement the sentinels are asked; the results
  are given out only if they do not replace the server.
- No replica acknowledges in time, as in the first second after it has connected. The result is given out nevertheless, which is
  logged once. For 0.5 to 10 seconds no more acknowledgements are awaited, so that calls are not slowed down. A failover in that
  time forgets what was counted in it: limits admit that much more, and settlements of lost reservations charge their own amounts.
- A primary and its replicas that lose their memory at the same time, without `appendonly yes`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from .connection import Reply, encoded
from .pipeline import ConnectionLost, Pipeline
from .server_advice import facts_of
from .url import Address

FIRST_PAUSE_WITHOUT_REPLICA_SECONDS, LONGEST_PAUSE_WITHOUT_REPLICA_SECONDS = 0.5, 10.0
"""Time without WAIT after a missing acknowledgement. It is twice the one before if the next one is missing too."""
PRIMARY_ROLE = b"master"
DEMOTION_PHRASES = ("WAIT cannot be used with replica instances", "UNBLOCKED")
"""Parts of the errors of a server that became a replica after it had executed the scripts of a batch."""
_log = logging.getLogger("sidecar.store")


class Durability:
    """Whether writes wait for a replica: *wait_ms* milliseconds at most, 0 for never. Shared by all nodes of a link.

    *is_replaced* returns whether another server replaces the one at an address; it is asked when no replica acknowledges.
    None where no others decide that.
    """

    def __init__(
        self,
        wait_ms: int,
        monotonic: Callable[[], float],
        is_replaced: Callable[[Address], Awaitable[bool]] | None = None,
    ) -> None:
        self.wait_ms, self._monotonic, self.is_replaced = wait_ms, monotonic, is_replaced
        self._resume_at = self._pause = 0.0
        self._is_reported = False

    def should_wait(self) -> bool:
        """Return whether an acknowledgement should be awaited now."""
        return self._monotonic() >= self._resume_at

    def note_acknowledged(self) -> None:
        """Note that a replica has acknowledged in time."""
        self._is_reported, self._pause = False, 0.0

    def note_missing(self, address: Address, cause: str) -> None:
        """Note that no replica has acknowledged in time, for *cause*. The first time it is logged."""
        longest = FIRST_PAUSE_WITHOUT_REPLICA_SECONDS if self.is_replaced else LONGEST_PAUSE_WITHOUT_REPLICA_SECONDS
        self._pause = min(max(2 * self._pause, FIRST_PAUSE_WITHOUT_REPLICA_SECONDS), longest)
        self._resume_at = self._monotonic() + self._pause
        if not self._is_reported:
            self._is_reported = True
            _log.warning(
                "Redis %s: no replica confirmed a write (%s); if %s fails now, its last writes are lost, and limits admit"
                " that much more; see that its replicas run and can be reached",
                address,
                cause,
                address,
            )


class _HeldScript:
    """A script whose result is held back until a replica has acknowledged it."""

    __slots__ = ("is_answered", "is_followed", "receiver", "reply")

    def __init__(self, receiver: Callable[[Reply], None]) -> None:
        self.receiver = receiver
        self.reply: Reply = None
        self.is_answered = self.is_followed = False
        """Whether the result is held back, and whether a WAIT was written behind it."""

    def receive(self, reply: Reply) -> None:
        if self.is_followed and not isinstance(reply, Exception):
            self.reply, self.is_answered = reply, True
        else:
            self.receiver(reply)


class Node:
    """The server at *address*, which owns *connection*. For *timeout* and *on_idle* see `Pipeline`.

    *on_write* is called before each write.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        address: Address,
        *,
        timeout: float,
        durability: Durability,
        on_idle: Callable[[], None],
        on_write: Callable[[Node], None],
    ) -> None:
        self.address = address
        self.pipeline = Pipeline(connection, address, timeout, self._follow, on_idle)
        self._durability, self._on_write = durability, on_write
        self.inspect_at = 0.0
        """When it is due to be inspected again."""
        self.replicas = 0
        self.is_primary = True
        self.lacks_script = False
        """Whether the next script must be sent with its source."""
        self._on_idle = on_idle
        self._asking: asyncio.Task[None] | None = None
        self._doubted: list[list[_HeldScript]] = []
        """Batches that no replica has acknowledged, while it is asked whether the server is replaced."""
        self._batch: list[_HeldScript] = []
        """Scripts that are sent and not followed by a WAIT yet."""

    async def inspect(self) -> None:
        """Find out whether it is a primary, and how many replicas it has. Where its user may not ask, none are assumed."""
        role = await self.pipeline.ask("ROLE")
        if isinstance(role, list):
            self.is_primary = role[0] == PRIMARY_ROLE
            self._note_replicas(len(role[2]) if self.is_primary else 0)
            return
        facts = facts_of(await self.pipeline.ask("INFO", "replication"))
        self.is_primary = facts.get("role", "master") == "master"
        self._note_replicas(int(facts.get("connected_slaves", "0")) if self.is_primary else 0)

    def _note_replicas(self, count: int) -> None:
        # Where sentinels decide, a primary that has lost its replica may be replaced by it: it is still waited for.
        self.replicas = max(count, min(self.replicas, 1)) if self._durability.is_replaced else count

    def send_script(self, command: bytes, receiver: Callable[[Reply], None]) -> None:
        """Send a script; *receiver* gets its result, or an error, once it is also on a replica."""
        if self.replicas and self._durability.wait_ms:
            held = _HeldScript(receiver)
            self._batch.append(held)
            receiver = held.receive
        self.pipeline.send(command, receiver)

    def _follow(self) -> None:
        """Send a WAIT behind the scripts of this write."""
        self._on_write(self)
        if self._batch:
            batch, self._batch = self._batch, []
            if self._durability.should_wait():
                for held in batch:
                    held.is_followed = True
                self.pipeline.send(encoded("WAIT", 1, self._durability.wait_ms), partial(self._acknowledge, batch))

    def _acknowledge(self, batch: list[_HeldScript], reply: Reply) -> None:
        """Give the results of *batch* to their receivers, or the loss of the server."""
        if isinstance(reply, ResponseError) and any(phrase in str(reply) for phrase in DEMOTION_PHRASES):
            reply = ConnectionLost(f"{self.address} is a replica now")
        if isinstance(reply, ConnectionLost):
            self._lose(batch, reply)
        elif isinstance(reply, int) and reply > 0:
            self._durability.note_acknowledged()
            _give_out(batch)
        else:
            cause = str(reply) if isinstance(reply, Exception) else f"within {self._durability.wait_ms} ms"
            self._durability.note_missing(self.address, cause)
            if self._durability.is_replaced is None:
                _give_out(batch)
            else:
                self._doubted.append(batch)
                if self._asking is None:
                    self._asking = asyncio.get_running_loop().create_task(self._ask_about(self._durability.is_replaced))

    async def _ask_about(self, is_replaced: Callable[[Address], Awaitable[bool]]) -> None:
        """Give out the results that no replica has acknowledged, unless the server is being replaced."""
        try:
            lost = ConnectionLost(f"{self.address} is being replaced") if await is_replaced(self.address) else None
        finally:
            self._asking = None
        doubted, self._doubted = self._doubted, []
        for batch in doubted:
            if lost is None and not self.pipeline.is_lost:
                _give_out(batch)
            else:
                self._lose(batch, lost or ConnectionLost(f"{self.address} closed the connection"))

    async def aclose(self) -> None:
        """Close the connection; what is in flight is lost."""
        self.pipeline.close()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        doubted, self._doubted = self._doubted, []
        for batch in doubted:
            self._lose(batch, ConnectionLost("the connection was closed"))
        await self.pipeline.wait_closed()

    def _lose(self, batch: list[_HeldScript], lost: ConnectionLost) -> None:
        for held in batch:
            if held.is_answered:
                held.receiver(lost)
        self.pipeline.close()
        self._on_idle()  # also where the pipeline was idle or lost before


def _give_out(batch: list[_HeldScript]) -> None:
    for held in batch:
        if held.is_answered:
            held.receiver(held.reply)
