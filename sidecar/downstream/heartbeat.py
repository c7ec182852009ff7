"""Pings for all waiting clients, by one timer."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Any, Protocol, TypeAlias

import msgspec

CallAt: TypeAlias = Callable[[float, Callable[[], None]], Any]
_Entry: TypeAlias = "tuple[float, int, Entry]"


class PingTarget(Protocol):
    """An answer that a client is waiting for."""

    last_sent_at: float
    """When something was last sent to it, by the heart's clock."""

    def ping(self) -> None:
        """Send a sign of life now, without waiting for it."""
        ...


class Entry(msgspec.Struct, eq=False):
    """A place in the heart's queue; given up where nobody is `waiting` in it any more."""

    waiting: PingTarget | None


class Heartbeats:
    """Pings each waiting client when nothing was sent to it for *interval* seconds.

    Sending costs nothing here: an answer notes the time, and is looked at again only when its ping would be due.  The first
    looks are due in the order in which the answers began, and most answers are over before: those wait in that order, with
    no place in the queue, and leave nothing behind.
    """

    def __init__(self, interval: float, *, clock: Callable[[], float], call_at: CallAt) -> None:
        self._interval, self._clock, self._call_at = interval, clock, call_at
        self._new: dict[PingTarget, float] = {}
        self._places: dict[PingTarget, Entry] = {}
        self._queue: list[_Entry] = []
        self._count = 0
        self._armed = False

    def __len__(self) -> int:
        return len(self._new) + len(self._queue)

    def watch(self, waiting: PingTarget) -> None:
        """Ping *waiting* from now on.  Once per call, at its beginning."""
        self._new[waiting] = due = self._clock() + self._interval
        if not self._armed:
            self._armed = True
            self._call_at(due, self._tick)

    def forget(self, waiting: PingTarget) -> None:
        """Send no more pings.  Once, when the answer is over."""
        if self._new.pop(waiting, None) is None and (beat := self._places.pop(waiting, None)) is not None:
            beat.waiting = None

    def _tick(self) -> None:
        now, queue = self._clock(), self._queue
        due = self._first_looks(now)
        while queue and queue[0][0] <= now:
            due.append(heappop(queue)[2])
        again: list[tuple[float, Entry]] = []
        try:
            while due:
                beat = due.pop()
                waiting = beat.waiting
                if waiting is None:
                    continue
                following = waiting.last_sent_at + self._interval
                late = following <= now
                again.append((now + self._interval if late else following, beat))
                if late:
                    waiting.ping()
                    waiting.last_sent_at = now
        finally:  # one that cannot be pinged takes no others with it
            again += [(now, beat) for beat in due]
            for following, beat in again:
                self._count += 1
                heappush(queue, (following, self._count, beat))
            self._armed = bool(queue or self._new)
            if self._armed:
                first = next(iter(self._new.values()), inf)
                self._call_at(min(first, queue[0][0]) if queue else first, self._tick)

    def _first_looks(self, now: float) -> list[Entry]:
        """Give those a place in the queue that are to be looked at for the first time."""
        due: list[PingTarget] = []
        for waiting, first in self._new.items():
            if first > now:
                break
            due.append(waiting)
        for waiting in due:
            del self._new[waiting]
            self._places[waiting] = Entry(waiting)
        return [self._places[waiting] for waiting in due]
