"""Count the events of a sliding window in a fixed number of buckets."""

from __future__ import annotations

from collections import deque


class SlidingWindow:
    """Counts events of the last *seconds*; each event may be marked, such as a failure among attempts.

    Events that begin within one of *buckets* equal parts of the window share a bucket and are forgotten together, so memory
    is bounded and an event is counted for at most *seconds* after the first event of its bucket. `now` is a monotonic time in
    seconds; the totals are those of the last call of `add` or `expire`.
    """

    __slots__ = ("_bucket_seconds", "_buckets", "_seconds", "marked", "total")

    def __init__(self, seconds: float, *, buckets: int) -> None:
        self._seconds, self._bucket_seconds = seconds, seconds / buckets
        self._buckets: deque[list[float]] = deque()
        """For each bucket, the oldest first: the time of its first event, its events, its marked events."""
        self.total = self.marked = 0.0

    def add(self, now: float, *, marked: bool = False) -> None:
        """Count one event."""
        buckets = self._buckets
        if buckets and buckets[0][0] <= now - self._seconds:
            self.expire(now)
        if not buckets or buckets[-1][0] <= now - self._bucket_seconds:
            buckets.append([now, 0.0, 0.0])
        newest = buckets[-1]
        newest[1] += 1
        self.total += 1
        if marked:
            newest[2] += 1
            self.marked += 1

    def expire(self, now: float) -> None:
        """Remove events older than the window."""
        buckets, oldest = self._buckets, now - self._seconds
        while buckets and buckets[0][0] <= oldest:
            _, total, marked = buckets.popleft()
            self.total -= total
            self.marked -= marked

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
        self.total = self.marked = 0.0
