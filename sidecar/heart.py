"""Pings for all waiting clients, by one timer."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Protocol, TypeAlias

import msgspec

CallAt: TypeAlias = Callable[[float, Callable[[], None]], Any]
_Entry: TypeAlias = "tuple[float, int, Beat]"


class Waiting(Protocol):
    """An answer that a client is waiting for."""

    quiet_since: float
    """When something was last sent to it, by the heart's clock."""

    def ping(self) -> None:
        """Send a sign of life now, without waiting for it."""
        ...


class Beat(msgspec.Struct, eq=False):
    """A place in the heart's queue; who sets `waiting` to None, when the answer is over, gives it up."""

    waiting: Waiting | None


class Heart:
    """Pings each waiting client when nothing was sent to it for *interval* seconds.

    Sending costs nothing here: an answer notes the time, and is looked at again only when its ping would be due.
    """

    def __init__(self, interval: float, *, clock: Callable[[], float], call_at: CallAt) -> None:
        self._interval, self._clock, self._call_at = interval, clock, call_at
        self._queue: list[_Entry] = []
        self._count = 0
        self._armed = False

    def watch(self, waiting: Waiting) -> Beat:
        """Ping *waiting* from now on.  Once per call, at its beginning."""
        beat = Beat(waiting)
        self._count += 1
        heappush(self._queue, (self._clock() + self._interval, self._count, beat))
        if not self._armed:
            self._armed = True
            self._call_at(self._queue[0][0], self._tick)
        return beat

    def _tick(self) -> None:
        now, queue = self._clock(), self._queue
        again: list[tuple[float, Beat]] = []
        try:
            while queue and queue[0][0] <= now:
                beat = heappop(queue)[2]
                waiting = beat.waiting
                if waiting is None:
                    continue
                due = waiting.quiet_since + self._interval
                late = due <= now
                again.append((now + self._interval if late else due, beat))
                if late:
                    waiting.ping()
                    waiting.quiet_since = now
        finally:  # one that cannot be pinged takes no others with it
            for due, beat in again:
                self._count += 1
                heappush(queue, (due, self._count, beat))
            self._armed = bool(queue)
            if queue:
                self._call_at(queue[0][0], self._tick)
