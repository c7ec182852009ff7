"""A limit on all retries at one upstream together.

A maximum per call does not help in an outage: every call fails, every call is sent three times, and the upstream that
could not bear the load gets three times of it.  So each call deposits a tenth of a retry, each second a fifth of one, and
each retry withdraws a whole one (Finagle's retry budget; Google SRE, "Handling Overload").

The two are kept apart, and neither is saved up: what calls deposited is gone after a minute, and what time gives fills no
more than the start.  So a quiet night, or a busy one, pays for no storm in the morning.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BUCKETS = 6
"""Calls are forgotten in steps of a sixth of the window."""


class RetryBudget:
    """Retries that may still be made: *share* of the calls of the last *window* seconds, and at most *most* of them at once.

    Beside them there is a *start*, which *per_second* fills up again.
    """

    __slots__ = (
        "_balance",
        "_buckets",
        "_clock",
        "_most",
        "_per_second",
        "_price",
        "_seen",
        "_start",
        "_total",
        "_window",
    )

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        share: float = 0.1,
        per_second: float = 0.2,
        start: float = 10.0,
        most: float = 100.0,
        window: float = 60.0,
    ) -> None:
        # In calls, because whole numbers add up: ten tenths of a retry are a little less than one.
        self._price, self._most = 1 / share, most / share
        self._clock, self._per_second, self._start, self._window = clock, per_second, start, window
        self._balance, self._seen = start, clock()
        self._buckets: deque[list[float]] = deque()
        self._total = 0.0

    def deposit(self) -> None:
        """Count one call that upstream got.  Once per call and upstream, not per attempt."""
        now, buckets = self._clock(), self._buckets
        held = self._held(now) if buckets and buckets[0][0] <= now - self._window else self._total
        if not buckets or buckets[-1][0] <= now - self._window / BUCKETS:
            buckets.append([now, 0.0])
        buckets[-1][1] += 1
        self._total += 1
        if held >= self._most:
            self._spend(1)

    def withdraw(self) -> bool:
        """Take one retry; False where there is none left."""
        now = self._clock()
        if self._held(now) >= self._price:
            self._spend(self._price)
            return True
        self._balance = min(self._start, self._balance + max(0.0, now - self._seen) * self._per_second)
        self._seen = now
        if self._balance < 1:
            return False
        self._balance -= 1
        return True

    def _held(self, now: float) -> float:
        """Return how many calls are not paid out yet, and forget those that are too old."""
        oldest = now - self._window
        while self._buckets and self._buckets[0][0] <= oldest:
            self._total -= self._buckets.popleft()[1]
        return self._total

    def _spend(self, calls: float) -> None:
        """Take *calls*, of those first that would be forgotten first."""
        for bucket in self._buckets:
            taken = min(calls, bucket[1])
            bucket[1] -= taken
            calls -= taken
            self._total -= taken


class RetryBudgets:
    """The budgets of all upstreams of a process, by name.

    What a call tries first at an upstream is no retry there, also where it comes from another one; what it tries again is.
    """

    __slots__ = ("_clock", "by_name")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self.by_name = clock, dict[str, RetryBudget]()

    def of(self, name: str) -> RetryBudget:
        """Return the budget of the upstream called *name*."""
        found = self.by_name.get(name)
        if found is None:
            found = self.by_name[name] = RetryBudget(self._clock)
        return found
