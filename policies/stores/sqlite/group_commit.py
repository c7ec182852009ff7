"""Group commit: operations of one event-loop iteration are executed in one transaction.

1. Where several calls are running, an operation is queued. Further operations of the same iteration queue behind it.
2. At the end of the iteration all of them are executed in their order, in one transaction. With `extra_iterations` the queue
   waits for some more iterations, as long as each brings another operation, and for some milliseconds at most.
3. Then each gets its result. If the transaction fails, it is rolled back and all of them have failed.

The database is not locked while operations are queued. If one operation raises an error of its own, each of them is executed
again in a transaction of its own. Whether to queue is learnt: after an operation that was alone, the next ones do not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from policies.api.store import StoreDown

MAX_UNQUEUED_OPERATIONS = 63
"""Most operations that are executed at once before one is queued again, to see whether others come with it."""
MAX_EXTRA_WAIT_SECONDS = 0.005
"""Time after which no further iteration is waited for."""


class UncancellableFuture(asyncio.Future[Any]):
    """The result of an operation that is executed even if its caller is cancelled; the cancellation is delivered afterwards."""

    def cancel(self, msg: Any = None) -> bool:
        """Refuse: the task that awaits this keeps the cancellation for later."""
        return False


QueuedOperation: TypeAlias = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]
"""The future of the result, the function, and its arguments."""


class GroupCommit:
    """The queue of one store. *execute* runs operations in one transaction and returns their results.

    `extra_iterations` is how many more event-loop iterations the queue waits for at most.
    """

    extra_iterations = 0

    def __init__(self, execute: Callable[[Sequence[QueuedOperation]], Sequence[Any]]) -> None:
        self._execute = execute
        self.queued: list[QueuedOperation] = []
        """Queued operations. While there are any, every further operation must queue behind them."""
        self._unqueued_limit = self._unqueued_left = 0
        self._last_length = self._iterations_left = 0
        self._started_at = 0.0

    def should_queue(self) -> bool:
        """Return whether an operation should be queued, where none is queued and several calls are running."""
        if self._unqueued_left:
            self._unqueued_left -= 1
            return False
        return True

    def submit(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Queue an operation; it is not executed if its future is cancelled before."""
        return self._queue(asyncio.get_running_loop().create_future(), function, arguments)

    def submit_uncancellable(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Queue an operation that is executed even if its caller is cancelled; the cancellation is delivered afterwards."""
        return self._queue(UncancellableFuture(loop=asyncio.get_running_loop()), function, arguments)

    def _queue(
        self, future: asyncio.Future[Any], function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> asyncio.Future[Any]:
        loop = future.get_loop()
        if self.queued and self.queued[-1][0].get_loop() is not loop:
            self.flush()  # that loop was stopped with operations in the queue, and may never run again
        if not self.queued:
            self._last_length, self._iterations_left, self._started_at = 0, self.extra_iterations, loop.time()
            loop.call_soon(self._end_iteration, loop)
        self.queued.append((future, function, arguments))
        return future

    def _end_iteration(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.queued or self.queued[-1][0].get_loop() is not loop:
            return
        has_grown = self._iterations_left and len(self.queued) > self._last_length
        if has_grown and loop.time() - self._started_at < MAX_EXTRA_WAIT_SECONDS:
            self._last_length, self._iterations_left = len(self.queued), self._iterations_left - 1
            loop.call_soon(self._end_iteration, loop)
        else:
            self.flush()

    def flush(self) -> None:
        """Execute all queued operations now, except cancelled ones and reservations whose loop is closed."""
        queued, self.queued = self.queued, []
        if not queued:
            return
        alone = len(queued) == 1
        self._unqueued_limit = min(2 * self._unqueued_limit + 1, MAX_UNQUEUED_OPERATIONS) if alone else 0
        self._unqueued_left = self._unqueued_limit
        self._execute_group([each for each in queued if _is_wanted(each[0])])

    def _execute_group(self, group: Sequence[QueuedOperation]) -> None:
        try:
            results = self._execute(group)
        except StoreDown as error:
            for future, *_ in group:
                _set_exception(future, StoreDown(*error.args, taken=error.taken))
                future.exception()  # marks it as retrieved, also where its caller is cancelled in the same iteration
        except Exception as error:  # noqa: BLE001  # it is raised in the caller of the operation
            if len(group) == 1:
                _set_exception(group[0][0], error)
                return
            for each in group:
                self._execute_group([each])
        else:
            for (future, *_), result in zip(group, results, strict=True):
                try:
                    future.set_result(result)
                except RuntimeError:
                    continue  # its loop is closed


def _is_wanted(future: asyncio.Future[Any]) -> bool:
    """Return whether an operation is still to be executed."""
    return not future.cancelled() and (isinstance(future, UncancellableFuture) or not future.get_loop().is_closed())


def _set_exception(future: asyncio.Future[Any], error: Exception) -> None:
    with contextlib.suppress(RuntimeError):  # its loop is closed
        future.set_exception(error)
