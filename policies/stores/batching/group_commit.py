"""Group commit: operations of one event-loop iteration are executed together, in SQLite and Redis stores.

1. An operation is queued. Further operations of the same iteration queue behind it.
2. At the end of the iteration they are executed in their order, in batches: in one transaction of a file, or by one script of a
   server. With `extra_iterations` the queue waits for some more iterations, as long as each brings another operation, and for
   some milliseconds at most.
3. Then each gets its result. If the batch fails, none of it was executed, and all of them have failed.

If one operation raises an error of its own, each of its batch is executed again alone. Where executing at once is cheap,
`should_queue` tells whether to queue: after an operation that was alone, the next ones do not wait for others.

A store that is locked by another program raises `StoreBusy`. Then the queue is kept, and tried again until the store is free
or the oldest operation has waited for `patience` seconds. The event loop runs on meanwhile. Time for which this process itself
stood still counts little: it says nothing about the store.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from policies.api.store import StoreDown

MAX_BATCH_OPERATIONS = 128
"""Most operations that are executed together."""
MAX_BATCH_CLAIMS = 640
"""Most claims of operations that are executed together, so that no step of the event loop and no lock takes long."""
MAX_UNQUEUED_OPERATIONS = 63
"""Most operations that are executed at once before one is queued again, to see whether others come with it."""
MAX_EXTRA_WAIT_SECONDS = 0.005
"""Time after which no further iteration is waited for."""
MIN_BUSY_WAIT_SECONDS, MAX_BUSY_WAIT_SECONDS = 0.0005, 0.01
"""The first and the longest wait between two attempts at a busy store; each wait is twice the one before."""
MAX_COUNTED_SECONDS = 0.1
"""Most of the time between two attempts that counts as waiting; more means that this process stood still."""


class StoreBusy(StoreDown):
    """Another program has locked the store for the moment. Nothing was executed."""


class UncancellableFuture(asyncio.Future[Any]):
    """The result of an operation that is executed even if its caller is cancelled; the cancellation is delivered afterwards."""

    def cancel(self, msg: Any = None) -> bool:
        """Refuse: the task that awaits this keeps the cancellation for later."""
        return False


class QueuedOperation(NamedTuple):
    """The future of an operation's result, what executes it, its arguments, when it was queued, and its claims.

    `queued_at` is in the loop's time. `claims` is the number of counters that it reads and writes.
    """

    future: asyncio.Future[Any]
    function: Any
    arguments: tuple[Any, ...]
    queued_at: float
    claims: int = 1


class GroupCommit:
    """The queue of one store.

    *execute* runs operations in one batch and returns their results. It returns None if it sets the futures itself, later.
    `extra_iterations` is how many more event-loop iterations the queue waits for at most. *patience* is how long an
    operation waits for a busy store, in seconds.
    """

    extra_iterations = 0

    def __init__(
        self, execute: Callable[[Sequence[QueuedOperation]], Sequence[Any] | None], *, patience: float = 2.0
    ) -> None:
        self._execute, self._patience = execute, patience
        self.queued: list[QueuedOperation] = []
        """Queued operations. While there are any, every further operation must queue behind them."""
        self._unqueued_limit = self._unqueued_left = 0
        self._last_length = self._iterations_left = 0
        self._busy_wait = 0.0
        """Seconds until the next attempt at a busy store; 0 if it is not busy."""
        self._attempted_at = 0.0
        """When operations were executed last, or when the first of the queue was queued, in the loop's time."""

    @property
    def is_busy(self) -> bool:
        """Whether the store was busy at the last attempt."""
        return self._busy_wait > 0

    def should_queue(self) -> bool:
        """Return whether an operation should be queued, where none is queued and several calls are running."""
        if self._unqueued_left:
            self._unqueued_left -= 1
            return False
        return True

    def submit(self, function: Any, arguments: tuple[Any, ...], claims: int = 1) -> asyncio.Future[Any]:
        """Queue an operation; it is not executed if its future is cancelled before."""
        return self._queue(asyncio.get_running_loop().create_future(), function, arguments, claims)

    def submit_uncancellable(self, function: Any, arguments: tuple[Any, ...], claims: int = 1) -> asyncio.Future[Any]:
        """Queue an operation that is executed even if its caller is cancelled; the cancellation is delivered afterwards."""
        return self._queue(UncancellableFuture(loop=asyncio.get_running_loop()), function, arguments, claims)

    def _queue(
        self, future: asyncio.Future[Any], function: Any, arguments: tuple[Any, ...], claims: int
    ) -> asyncio.Future[Any]:
        loop = future.get_loop()
        if self.queued and self.queued[-1].future.get_loop() is not loop:
            self.flush()  # that loop was stopped with operations in the queue, and may never run again
        now = loop.time()
        if not self.queued:
            self._last_length, self._iterations_left = 0, self.extra_iterations
            loop.call_soon(self._end_iteration, loop)
            self._attempted_at = now
        self.queued.append(QueuedOperation(future, function, arguments, now, claims))
        return future

    def _end_iteration(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.queued or self.queued[-1].future.get_loop() is not loop:
            return
        has_grown = self._iterations_left and len(self.queued) > self._last_length
        if has_grown and loop.time() - self.queued[0].queued_at < MAX_EXTRA_WAIT_SECONDS:
            self._last_length, self._iterations_left = len(self.queued), self._iterations_left - 1
            loop.call_soon(self._end_iteration, loop)
            return
        self._execute_first()
        if self.queued:
            wait = self._busy_wait
            if wait:
                loop.call_later(wait, self._end_iteration, loop)
            else:
                loop.call_soon(self._end_iteration, loop)

    def flush(self) -> None:
        """Execute all queued operations now, except cancelled ones and reservations whose loop is closed.

        Where the store is busy, they fail with `StoreBusy`.
        """
        while self.queued:
            self._execute_first()
            if self._busy_wait:
                self._busy_wait = 0.0
                fail_operations(self.queued, StoreBusy("the store is locked"))
                self.queued = []

    def _execute_first(self) -> None:
        """Execute the first operations of the queue, or keep them there if the store is busy."""
        number = _batch_length(self.queued)
        batch, self.queued = self.queued[:number], self.queued[number:]
        if not self._busy_wait:
            self._unqueued_limit = min(2 * self._unqueued_limit + 1, MAX_UNQUEUED_OPERATIONS) if len(batch) == 1 else 0
            self._unqueued_left = self._unqueued_limit
        batch = [each for each in batch if _is_wanted(each.future)]
        if not batch:
            return
        try:
            self._execute_batch(batch)
        except StoreBusy as error:
            self._wait_for_busy(batch, error)
        else:
            self._busy_wait = 0.0
            if self.queued:
                self._attempted_at = self.queued[0].future.get_loop().time()

    def _wait_for_busy(self, batch: list[QueuedOperation], error: StoreBusy) -> None:
        """Keep *batch* at the head of the queue, except those operations that have waited for long enough."""
        now = batch[0].future.get_loop().time()
        stood_still, self._attempted_at = now - self._attempted_at - MAX_COUNTED_SECONDS, now
        if stood_still > 0:
            batch, self.queued = _moved(batch, stood_still, now), _moved(self.queued, stood_still, now)
        waiting = [each for each in batch if now - each.queued_at < self._patience and not each.future.done()]
        fail_operations([each for each in batch if now - each.queued_at >= self._patience], error)
        self.queued = waiting + self.queued
        self._busy_wait = min(max(2 * self._busy_wait, MIN_BUSY_WAIT_SECONDS), MAX_BUSY_WAIT_SECONDS)

    def _execute_batch(self, batch: Sequence[QueuedOperation]) -> None:
        try:
            results = self._execute(batch)
        except StoreBusy:
            raise
        except StoreDown as error:
            fail_operations(batch, error)
        except Exception as error:  # noqa: BLE001  # it is raised in the caller of the operation
            if len(batch) == 1:
                _set_exception(batch[0].future, error)
                return
            for each in batch:
                self._execute_batch([each])
        else:
            if results is None:
                return
            for operation, result in zip(batch, results, strict=True):
                with contextlib.suppress(RuntimeError):  # its loop is closed
                    operation.future.set_result(result)


def _batch_length(operations: Sequence[QueuedOperation]) -> int:
    """Return how many of the first *operations* are executed together: one at least."""
    claims = 0
    for at, each in enumerate(operations[:MAX_BATCH_OPERATIONS]):
        claims += each.claims
        if at and claims > MAX_BATCH_CLAIMS:
            return at
    return MAX_BATCH_OPERATIONS


def _is_wanted(future: asyncio.Future[Any]) -> bool:
    """Return whether an operation is still to be executed."""
    return not future.cancelled() and (isinstance(future, UncancellableFuture) or not future.get_loop().is_closed())


def _moved(operations: Sequence[QueuedOperation], seconds: float, now: float) -> list[QueuedOperation]:
    """Return *operations* as if they had been queued so many *seconds* later, at most *now*."""
    return [each._replace(queued_at=min(each.queued_at + seconds, now)) for each in operations]


def fail_operations(operations: Sequence[QueuedOperation], error: StoreDown) -> None:
    """Raise a copy of *error* in the callers of *operations*."""
    for each in operations:
        if each.future.cancelled():
            continue
        _set_exception(each.future, type(error)(*error.args, taken=error.taken))
        each.future.exception()  # marks it as retrieved, also where its caller is cancelled in the same iteration


def _set_exception(future: asyncio.Future[Any], error: Exception) -> None:
    # The loop of the future may be closed, and its caller may have been cancelled.
    with contextlib.suppress(RuntimeError, asyncio.InvalidStateError):
        future.set_exception(error)
