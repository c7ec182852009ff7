"""An event loop whose time passes only when the test advances it. Tasks run on the real loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Timer:
    """What `call_at` and `call_later` return."""

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when, self.callback, self.cancelled = when, callback, False

    def cancel(self) -> None:
        self.cancelled = True


class VirtualLoop:
    """The part of an event loop that timers need. `timers_made` counts all timers, `pending` those that are set."""

    def __init__(self) -> None:
        self.now, self.timers_made = 1000.0, 0
        self._timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        self.timers_made += 1
        self._timers.append(Timer(when, callback))
        return self._timers[-1]

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return self.call_at(self.now + delay, callback)

    def create_task(self, coroutine: Any) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(coroutine)

    @property
    def pending(self) -> list[Timer]:
        self._timers = [timer for timer in self._timers if not timer.cancelled]
        return self._timers

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass, and call what is due, in the order of its time."""
        end = self.now + seconds
        while due := [timer for timer in self.pending if timer.when <= end]:
            first = min(due, key=lambda timer: timer.when)
            self._timers.remove(first)
            self.now = first.when
            first.callback()
        self.now = end
