"""Deadlines that count only time in which the event loop ran, so that a slow or suspended process never blames the server.

A deadline is divided into ticks. A tick ends by a timer of the event loop, and the loop polls its sockets between two timers of
the same kind. After a suspension of any length one tick has passed, and the bytes that arrived meanwhile are read first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

Result = TypeVar("Result")
TICKS_PER_DEADLINE = 10
"""Ticks of a deadline."""


async def finish_within(seconds: float, operation: Awaitable[Result]) -> Result:
    """Return the result of *operation*, or cancel it after *seconds* and raise `TimeoutError`."""
    task = asyncio.ensure_future(operation)
    try:
        for _ in range(TICKS_PER_DEADLINE):
            await asyncio.wait({task}, timeout=seconds / TICKS_PER_DEADLINE)
            if task.done():
                return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(BaseException):  # the cause of the end is raised instead
                await task


class StallTimer:
    """Calls *on_stall* when `note_progress` has not been called for *seconds*. It runs between `start` and `stop`.

    *is_waiting* returns whether anything is expected: while not, the timer ends by itself.
    """

    def __init__(self, seconds: float, is_waiting: Callable[[], bool], on_stall: Callable[[], None]) -> None:
        self._tick_seconds, self._is_waiting, self._on_stall = seconds / TICKS_PER_DEADLINE, is_waiting, on_stall
        self._handle: asyncio.TimerHandle | None = None
        self._ticks = 0

    def start(self) -> None:
        """Begin to wait, where nothing was expected before."""
        self._ticks = 0
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(self._tick_seconds, self._tick)

    def note_progress(self) -> None:
        """Note that something arrived."""
        self._ticks = 0

    def stop(self) -> None:
        """End the timer."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self) -> None:
        self._handle = None
        if not self._is_waiting():
            return
        self._ticks += 1
        if self._ticks > TICKS_PER_DEADLINE:  # the first tick may have begun before `start`
            self._on_stall()
        else:
            self._handle = asyncio.get_running_loop().call_later(self._tick_seconds, self._tick)
