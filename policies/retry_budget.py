"""A limit on all retries at one upstream together.

A maximum per call does not help in an outage: every call fails, every call is sent three times, and the upstream that
could not bear the load gets three times of it.  So each call deposits a tenth of a retry, each second a fifth of one, and
each retry withdraws a whole one (Finagle's retry budget; Google SRE, "Handling Overload").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class RetryBudget:
    """Retries that may still be made: *share* of the calls, plus *per_second*, plus a *start*; at most *most* at once."""

    __slots__ = ("_balance", "_clock", "_most", "_per_second", "_seen", "_share")

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        share: float = 0.1,
        per_second: float = 0.2,
        start: float = 10.0,
        most: float = 100.0,
    ) -> None:
        self._clock, self._share, self._per_second, self._most = clock, share, per_second, most
        self._balance, self._seen = start, clock()

    def deposit(self) -> None:
        """Count one call.  Once per call and upstream, not per attempt."""
        self._balance = min(self._most, self._balance + self._share)

    def withdraw(self) -> bool:
        """Take one retry; False where there is none left."""
        now = self._clock()
        self._balance = min(self._most, self._balance + max(0.0, now - self._seen) * self._per_second)
        self._seen = now
        if self._balance < 1:
            return False
        self._balance -= 1
        return True


class RetryBudgets:
    """The budgets of all upstreams of a process, by name.

    What a call tries first at an upstream is no retry there, also where it comes from another one; what it tries again is.
    """

    __slots__ = ("_by_name", "_clock")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._by_name = clock, dict[str, RetryBudget]()

    def of(self, name: str) -> RetryBudget:
        """Return the budget of the upstream called *name*."""
        found = self._by_name.get(name)
        if found is None:
            found = self._by_name[name] = RetryBudget(self._clock)
        return found
