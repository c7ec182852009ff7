"""Count the events of a sliding window in a fixed number of buckets."""

from __future__ import annotations

import math
from collections import deque


class SlidingWindow:
    """Counts events of the last *seconds*; each event may be marked, such as a failure among attempts.

    Events that begin within one of *buckets* equal parts of the window share a bucket and are forgotten together, so memory
    is bounded and an event is counted for at most *seconds* after the first event of its bucket. `now` is a monotonic time in
    seconds; the totals are those of the last call of `add` or `expire`.
    """

    __slots__ = ("_bucket_seconds", "_buckets", "_newest", "_seconds", "_valid_until", "marked", "total")

    def __init__(self, seconds: float, *, buckets: int) -> None:
        self._seconds, self._bucket_seconds = seconds, seconds / buckets
        self._buckets: deque[list[float]] = deque()
        """For each bucket, the oldest first: the time of its first event, its events, its marked events."""
        self._newest: list[float] = []
        self._valid_until = -math.inf
        """Until when the oldest bucket counts and the newest one takes events: `add` looks at no bucket before."""
        self.total = self.marked = 0.0

    def add(self, now: float, *, marked: bool = False) -> None:
        """Count one event."""
        if now >= self._valid_until:
            self._renew(now)
        newest = self._newest
        newest[1] += 1
        self.total += 1
        if marked:
            newest[2] += 1
            self.marked += 1

    def _renew(self, now: float) -> None:
        """Forget old buckets, and begin a new one where the newest is complete."""
        self.expire(now)
        buckets = self._buckets
        if not buckets or buckets[-1][0] + self._bucket_seconds <= now:
            buckets.append([now, 0.0, 0.0])
        self._newest = buckets[-1]
        self._valid_until = min(buckets[0][0] + self._seconds, self._newest[0] + self._bucket_seconds)

    def expire(self, now: float) -> None:
        """Remove events older than the window."""
        buckets = self._buckets
        while buckets and buckets[0][0] + self._seconds <= now:
            _, total, marked = buckets.popleft()
            self.total -= total
            self.marked -= marked
            self._valid_until = -math.inf

    def remove_oldest(self, amount: float) -> None:
        """Remove *amount* events, the oldest first. Marks are kept."""
        for bucket in self._buckets:
            taken = min(amount, bucket[1])
            bucket[1] -= taken
            self.total -= taken
            amount -= taken
            if amount <= 0:
                return

    def clear(self) -> None:
        """Remove all events."""
        self._buckets.clear()
        self._valid_until = -math.inf
        self.total = self.marked = 0.0
