"""How long upstream may go without progress: one timer for a whole answer, armed again only when it goes off.

Progress is output, or an answer's end; pings, comments and empty pieces are none.  Time in which nobody waits for upstream,
because a slow client is still taking what came, does not count.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class ProgressTimeout:
    """Turns a read that takes too long into `TimeoutError`: `with patience:` around each read, `progress` after it.

    Entering and leaving cost two looks at the clock, and no timer.
    """

    __slots__ = ("_at", "_before", "_expired", "_handle", "_left", "_limit", "_loop", "_since", "_task", "_waiting")

    def __init__(self, limit: float) -> None:
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None  # for the type: a coroutine runs in a task
        self._task, self._before = task, task.cancelling()
        self._limit, self._since = limit, self._loop.time()
        self._left, self._waiting, self._expired = self._since, False, False
        self._at = self._since + limit
        self._handle = self._loop.call_at(self._at, self._due)

    def _arm(self, at: float) -> None:
        self._at = at
        self._handle = self._loop.call_at(at, self._due)

    def progress(self, limit: float) -> None:
        """Begin to wait anew, up to *limit* seconds until the next progress."""
        if self._waiting:
            self._left = self._loop.time()
        self._since = self._left
        self._limit = limit
        if self._since + limit < self._at:  # else the timer goes off too early, and is set anew
            self._handle.cancel()
            self._arm(self._since + limit)

    def stop(self) -> None:
        """Let go of the timer.  Once, when the answer is over."""
        self._handle.cancel()

    def _due(self) -> None:
        now = self._loop.time()
        end = self._since + self._limit if self._waiting else now + self._limit - (self._left - self._since)
        if end > now:
            self._arm(end)
        elif self._waiting:
            self._expired = True
            self._task.cancel()
        else:
            self._arm(now + self._limit)

    def __enter__(self) -> None:
        assert not self._handle.cancelled()  # whoever has let go of the timer would wait for ever
        self._since += self._loop.time() - self._left
        self._waiting = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting, self._left = False, self._loop.time()
        if not self._expired:
            return
        self._expired = False
        # As asyncio.timeout does it: a cancellation from elsewhere that came in the same turn wins.
        if self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error
