"""Pings to all waiting clients, sent by one timer."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Any, Protocol, TypeAlias

import msgspec

CallAt: TypeAlias = Callable[[float, Callable[[], None]], Any]


class PingTarget(Protocol):
    """A response that a client waits for."""

    last_sent_at: float
    """When something was last sent to the client, in seconds of the clock of `Heartbeats`."""

    def ping(self) -> None:
        """Write a ping to the client; must not block."""
        ...


class _Entry(msgspec.Struct, eq=False):
    """A target in the heap; None after it was forgotten, since a heap cannot remove from its middle."""

    target: PingTarget | None


class Heartbeats:
    """Ping each watched target after *interval* seconds without output.

    *clock* is monotonic, in seconds; *call_at* is the event loop's. Sending is free: a response notes the time in
    `last_sent_at`, which is read only when its ping would be due.

    Targets wait for their first check in the order in which they were added, because all of them are due after the same
    interval: a dict suffices. Most calls end before it and never reach the heap. Measured on a busy machine: 0.8 µs for
    `watch` and `forget`, against 5.9 µs for a timer per call.
    """

    def __init__(self, interval: float, *, clock: Callable[[], float], call_at: CallAt) -> None:
        self._interval, self._clock, self._call_at = interval, clock, call_at
        self._unchecked: dict[PingTarget, float] = {}
        """When the first check of each target is due; the earliest comes first."""
        self._entries: dict[PingTarget, _Entry] = {}
        """The heap's entry of each target that has been checked."""
        self._heap: list[tuple[float, int, _Entry]] = []
        """When the next check of an entry is due; a counter keeps entries from being compared."""
        self._pushes = 0
        self._timer_runs = False

    def __len__(self) -> int:
        return len(self._unchecked) + len(self._heap)

    def watch(self, target: PingTarget) -> None:
        """Start pinging *target*. Called once per call, when its response starts."""
        self._unchecked[target] = due = self._clock() + self._interval
        if not self._timer_runs:
            self._timer_runs = True
            self._call_at(due, self._tick)

    def forget(self, target: PingTarget) -> None:
        """Stop pinging *target*. Called once per call, when its response is over; unknown targets are ignored."""
        if self._unchecked.pop(target, None) is None and (entry := self._entries.pop(target, None)) is not None:
            entry.target = None

    def _tick(self) -> None:
        now, heap = self._clock(), self._heap
        due = self._first_checks(now)
        while heap and heap[0][0] <= now:
            due.append(heappop(heap)[2])
        checked: list[tuple[float, _Entry]] = []
        try:
            while due:
                entry = due.pop()
                target = entry.target
                if target is None:
                    continue
                ping_at = target.last_sent_at + self._interval
                is_due = ping_at <= now
                checked.append((now + self._interval if is_due else ping_at, entry))
                if is_due:
                    target.ping()
                    target.last_sent_at = now
        finally:  # if a ping raises, all other targets keep their checks
            checked += [(now, entry) for entry in due]
            for check_at, entry in checked:
                self._pushes += 1
                heappush(heap, (check_at, self._pushes, entry))
            self._timer_runs = bool(heap or self._unchecked)
            if self._timer_runs:
                first = next(iter(self._unchecked.values()), inf)
                self._call_at(min(first, heap[0][0]) if heap else first, self._tick)

    def _first_checks(self, now: float) -> list[_Entry]:
        """Return entries for the targets whose first check is due; later checks go through the heap."""
        due: list[PingTarget] = []
        for target, check_at in self._unchecked.items():
            if check_at > now:
                break
            due.append(target)
        for target in due:
            del self._unchecked[target]
            self._entries[target] = _Entry(target)
        return [self._entries[target] for target in due]
