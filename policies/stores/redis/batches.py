"""Send batches of operations to the server, and interpret the replies.

Operations of one event-loop iteration become one call of the script (group commit). Many calls are in flight at once. Each
reply has the time of the server and the generation of the store. A store that is not ready is prepared, and its batch sent again.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from policies.api.store import StoreDown
from policies.api.window import MICROSECONDS_PER_SECOND
from policies.stores.batching.group_commit import GroupCommit, QueuedOperation, fail_operations

from .messages import Operation
from .preparation import IncompatibleStore, prepare
from .script import MAX_OPERATIONS_PER_CALL
from .servers.failures import describe_failure, lost_data

MAX_PARTIAL_BATCHES_IN_FLIGHT = 8
"""Batches in flight beyond which only full ones are sent. So batches grow when the server is slower than its clients, and a batch
of many operations costs the server a third for each of them."""
BEAT_SECONDS = 1.0
"""Time after which a reservation records the heartbeat of its process again."""
MAX_BATCH_SENDS = 3
"""Most times that a batch is sent to a store that loses its content again and again."""
INCOMPATIBLE_SECONDS = 5.0
"""Time for which an incompatible store is not looked at again."""

REFUSED_BEFORE_WRITING = "OOM"
"""Code of an error that the first write of an operation raises: it was not executed."""

_log = logging.getLogger("sidecar.store")
_encoder, _decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder()


class BatchLink(Protocol):
    """Sends batches to the server."""

    def submit(self, payload: bytes) -> asyncio.Future[bytes]:
        """Execute the script with *payload* as its only argument, after those that were submitted before.

        The result raises `StoreDown`, with `taken` where the batch may have been executed. It may be executed twice.
        """
        ...

    async def warnings(self) -> Sequence[str]:
        """Return what endangers the counters on the server. Raises `StoreDown`."""
        ...

    async def aclose(self) -> None:
        """Close all connections. Batches without a reply fail."""
        ...


class Batches:
    """Executes operations by *link*, on behalf of *owner*.

    *address* is that of the server, for messages. *clock* replaces the server's; *monotonic* measures time. Operations wait for
    *patience* seconds while the store is converted, then they fail. Without *converts* they fail at once instead.
    """

    def __init__(
        self,
        link: BatchLink,
        owner: str,
        address: str,
        *,
        clock: Callable[[], float] | None,
        monotonic: Callable[[], float],
        offset: float,
        patience: float,
        converts: bool = True,
    ) -> None:
        self._link, self._owner, self._address = link, owner, address
        self._clock, self._monotonic, self._patience, self._converts = clock, monotonic, patience, converts
        self._clock_offset = offset
        """The server's clock minus ours, in seconds."""
        self._group = GroupCommit(self._execute)
        self._waiting: list[QueuedOperation] = []
        self._in_flight: set[asyncio.Future[bytes]] = set()
        self._resending: set[asyncio.Task[None]] = set()
        self._preparing: asyncio.Task[None] | None = None
        self._prepare_again_at = 0.0
        """Until when an incompatible store is not looked at again."""
        self.generation: str | None = None
        """The random identity of the content of the store; None while it is not known."""
        self._beat_at = 0.0
        """When a reservation recorded our heartbeat, in the server's time; 0 for never."""

    def submit(self, operation: Operation) -> asyncio.Future[Any]:
        """Queue *operation* for the next batch. The result is the server's time in seconds, and that of the operation.

        It raises `StoreDown`. A cancelled operation may be executed nevertheless. Raises TypeError, ValueError or OverflowError for
        an operation that MessagePack cannot express.
        """
        arguments, group = (msgspec.Raw(_encoder.encode(operation)),), self._group
        if group.queued or self._waiting or self._in_flight or group.should_queue():
            return group.submit(None, arguments)
        loop = asyncio.get_running_loop()  # it would be alone in its batch: then waiting for others is a waste
        alone = QueuedOperation(loop.create_future(), None, arguments, loop.time())
        self._send([alone], MAX_BATCH_SENDS)
        return alone.future

    def estimated_time(self) -> float:
        """Return the server's time, in seconds since 1970."""
        return self._clock() if self._clock is not None else self._monotonic() + self._clock_offset

    async def prepare(self) -> None:
        """Make the store ready, if it has not answered before, however long that takes. Raises `StoreDown`."""
        if self.generation is None:
            begun, *_ = await self._exchange()
            if len(begun) == 1:
                await asyncio.shield(self._preparation())

    async def aclose(self) -> None:
        """Send what is queued, wait for the replies in flight for a while, and close the link."""
        self._group.flush()
        waiting, self._waiting = self._waiting, []
        for at in range(0, len(waiting), MAX_OPERATIONS_PER_CALL):
            self._send(waiting[at : at + MAX_OPERATIONS_PER_CALL], MAX_BATCH_SENDS)
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=self._patience)
        tasks = [*self._resending, *([self._preparing] if self._preparing else [])]
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._link.aclose()

    def _execute(self, operations: Sequence[QueuedOperation]) -> None:
        self._waiting += operations
        self._send_waiting()

    def _send_waiting(self) -> None:
        """Send the operations that wait. Those that are too few for a batch wait while many batches are in flight."""
        while self._waiting and (
            len(self._in_flight) < MAX_PARTIAL_BATCHES_IN_FLIGHT or len(self._waiting) >= MAX_OPERATIONS_PER_CALL
        ):
            batch, self._waiting = self._waiting[:MAX_OPERATIONS_PER_CALL], self._waiting[MAX_OPERATIONS_PER_CALL:]
            if batch := [each for each in batch if not each.future.cancelled()]:
                self._send(batch, MAX_BATCH_SENDS)

    def _send(self, operations: Sequence[QueuedOperation], sends: int) -> None:
        begin = self._begin(beats=abs(self.estimated_time() - self._beat_at) > BEAT_SECONDS)
        reply = self._link.submit(_encoder.encode([begin, *[each.arguments[0] for each in operations]]))
        self._in_flight.add(reply)
        reply.add_done_callback(functools.partial(self._receive, operations, sends))

    def _begin(self, *, beats: bool = False) -> Operation:
        now = None if self._clock is None else round(self._clock() * MICROSECONDS_PER_SECOND)
        return ("begin", self._owner, now, beats)

    async def _exchange(self, *operations: Operation) -> Sequence[Any]:
        """Return the results of *operations* after that of `begin`, also from a store that is not ready."""
        reply = await self._link.submit(_encoder.encode([self._begin(), *operations]))
        results: Sequence[Any] = _decoder.decode(reply)
        for each in results:
            if isinstance(each, dict):
                raise self._failure(each)
        return results

    def _failure(self, result: dict[str, str]) -> StoreDown:
        """Return the error of an operation that failed with *result*."""
        text = result["error"]
        return StoreDown(describe_failure(text, self._address), taken=REFUSED_BEFORE_WRITING not in text)

    def _receive(self, operations: Sequence[QueuedOperation], sends: int, reply: asyncio.Future[bytes]) -> None:
        self._in_flight.discard(reply)
        self._send_waiting()
        try:
            begun, *results = _decoder.decode(reply.result())
            if len(begun) == 1:
                self._resend(operations, sends - 1)
                return
            now = self._note(begun)
            for operation, result in zip(operations, results, strict=True):
                if type(result) is dict:
                    fail_operations([operation], self._failure(result))
                elif not operation.future.done():
                    operation.future.set_result((now, result))
        except StoreDown as error:
            fail_operations(operations, error)
        except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001  # no caller may wait for ever, whatever failed
            fail_operations(
                operations, StoreDown(f"{self._address}: no valid reply ({type(error).__name__})", taken=True)
            )

    def _note(self, begun: Sequence[Any]) -> float:
        """Remember what the result of `begin` says, and return the time of the store in seconds."""
        microseconds, generation, *has_beaten = begun
        now: float = microseconds / MICROSECONDS_PER_SECOND
        if has_beaten:
            self._beat_at = now
        self._clock_offset = now - self._monotonic()
        if generation != self.generation:
            if self.generation is not None:
                _log.error("%s", lost_data(self._address))
            self.generation, self._beat_at = generation, 0.0
        return now

    def _resend(self, operations: Sequence[QueuedOperation], sends: int) -> None:
        task = asyncio.get_running_loop().create_task(self._send_when_ready(operations, sends))
        self._resending.add(task)
        task.add_done_callback(self._resending.discard)

    async def _send_when_ready(self, operations: Sequence[QueuedOperation], sends: int) -> None:
        try:
            if not sends:
                raise StoreDown(f"{self._address}: it loses its content again and again; see the log of the server")
            preparation = self._preparation()
            await asyncio.wait({preparation}, timeout=self._patience)
            if not preparation.done():
                raise StoreDown(f"{self._address}: its content is being checked or converted; wait some seconds")
            preparation.result()
        except StoreDown as error:
            fail_operations(operations, error)
        except asyncio.CancelledError:
            fail_operations(operations, StoreDown(f"{self._address}: the store was closed"))
            raise
        else:
            self._send(operations, sends)

    def _preparation(self) -> asyncio.Task[None]:
        """Return the task that makes the store ready, which all operations share."""
        if self._preparing is None or (self._preparing.done() and self._monotonic() >= self._prepare_again_at):
            self._preparing = asyncio.get_running_loop().create_task(self._prepare())
            self._preparing.add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )  # marks its exception as retrieved
        return self._preparing

    async def _prepare(self) -> None:
        async def execute(*operations: Operation) -> Sequence[Any]:
            return (await self._exchange(*operations))[1:]

        try:
            await prepare(execute, self._address, converts=self._converts)
        except IncompatibleStore:
            self._prepare_again_at = self._monotonic() + INCOMPATIBLE_SECONDS
            raise
