"""Limit the time an upstream may take between two outputs, with a timer that all its answers share.

Only output and the end of a choice are progress; pings, comments and empty pieces are not. Before the first output,
keep-alive bytes extend the wait: a server that sends them has the request in its queue or reads its prompt. After it they
do not: a model that has begun and writes nothing for so long has stopped. The time between reads, during which a slow
client is served, does not count. Measured: 2.1 µs for an answer with three reads, against 4.5 µs for one `asyncio.timeout`.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING

from policies.engine.due_queue import DueQueue

if TYPE_CHECKING:
    from types import TracebackType


MAX_EXTENSION = 12
"""Upper limit of an extended wait, as a multiple of the original one: an hour with the defaults, like a call's deadline."""


class ProgressTimers:
    """Timers that the answers of one upstream share, in the running event loop: one for each first limit, of which there are few."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._by_limit: dict[float, DueQueue[ProgressTimeout]] = {}

    def of(self, limit: float) -> DueQueue[ProgressTimeout]:
        """Return the timer for answers that wait *limit* seconds first."""
        found = self._by_limit.get(limit)
        if found is None:
            loop = self.loop
            call_at = partial(loop.call_at, context=Context())
            found = DueQueue(limit, ProgressTimeout.fired, clock=loop.time, call_at=call_at)
            self._by_limit[limit] = found
        return found


class ProgressTimeout:
    """Raises `TimeoutError` from a read that takes too long: `with timeout:` around each read, `reset` after progress.

    *limit* is in seconds.  Entering and leaving read the clock and set no timer.  Progress under the same limit, inside
    `with`, may also be noted by `since = now()`, which costs no Python call for each token.  The first wait uses one
    of the shared *timers*. A timer of its own is set only for a later limit that is shorter, and after the shared one has fired.
    """

    __slots__ = (
        "_at",
        "_before",
        "_begun",
        "_expired",
        "_first_timer",
        "_is_stopped",
        "_left",
        "_loop",
        "_own_timer",
        "_task",
        "limit",
        "now",
        "since",
        "waiting",
    )

    def __init__(self, limit: float, timers: ProgressTimers | None = None) -> None:
        timers = timers or ProgressTimers()
        self._loop = loop = timers.loop
        task = asyncio.current_task(loop)
        assert task is not None  # for the type: a coroutine runs in a task
        self._task, self._before = task, task.cancelling()
        self.now, self.limit = loop.time, limit
        self.since = self._begun = self._left = now = loop.time()
        self.waiting = self._expired = self._is_stopped = False
        self._at = now + limit
        self._own_timer: asyncio.TimerHandle | None = None
        self._first_timer = timers.of(limit)
        self._first_timer.add(self, now)

    def _arm(self, at: float) -> None:
        self._cancel()
        self._at = at
        self._own_timer = self._loop.call_at(at, self.fired)

    def _cancel(self) -> None:
        if self._own_timer is None:
            self._first_timer.remove(self)
        else:
            self._own_timer.cancel()

    def reset(self, limit: float) -> None:
        """Start a new wait of up to *limit* seconds until the next call."""
        if self.waiting:
            self._left = self.now()
        self._begun = self.since = self._left
        self.limit = limit
        if self.since + limit < self._at:  # a timer that fires too early is set again
            self._arm(self.since + limit)

    def extend(self) -> None:
        """Restart the current wait, because the server is alive; in all it lasts at most `MAX_EXTENSION` times its limit."""
        at = self.now() if self.waiting else self._left
        self.since = max(self.since, min(at, self._begun + (MAX_EXTENSION - 1) * self.limit))

    def stop(self) -> None:
        """Cancel the timer. Called once, when the answer has ended."""
        self._is_stopped = True
        self._cancel()

    def fired(self) -> None:
        """End the wait if it is due, else set the timer again. Called by the timer."""
        now = self.now()
        end = self.since + self.limit if self.waiting else now + self.limit - (self._left - self.since)
        if end > now:
            self._arm(end)
        elif self.waiting:
            self._expired = True
            self._task.cancel()
        else:
            self._arm(now + self.limit)

    def __enter__(self) -> None:
        assert not self._is_stopped  # without its timer it would wait forever
        self.since += self.now() - self._left
        self.waiting = True

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.waiting, self._left = False, self.now()
        if not self._expired:
            return
        self._expired = False
        # As in asyncio.timeout: another cancellation in the same event-loop iteration takes precedence.
        if self._task.uncancel() <= self._before and error_type is asyncio.CancelledError:
            raise TimeoutError from error
