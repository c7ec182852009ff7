"""The timer of a silent server. It counts only time in which the event loop ran, as `finish_within` does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from policies.stores.batching.deadline import TICKS_PER_DEADLINE


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
