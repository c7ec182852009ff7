"""Limit the retries of all calls at one upstream (Finagle's retry budget; Google SRE, "Handling Overload").

A limit per call does not help in an outage: every call fails and is sent three times, so an overloaded upstream gets
three times its load. Here each call deposits a tenth of a retry, each second adds a fifth of one, and a retry withdraws
one.

Deposits and the refill are counted separately, and neither accumulates: a deposit expires after a minute, and the
refill stops at the initial amount. So a quiet or busy period does not permit a retry storm afterwards.

All tenants share the budget. While several of them call, each one may take what its own calls deposit and half of the
reserve a minute. So a tenant whose calls all fail does not use up the retries of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .sliding_window import SlidingWindow

if TYPE_CHECKING:
    from collections.abc import Callable

DEPOSIT_BUCKETS = 6
"""Buckets of the window; deposits expire one bucket at a time."""


MAX_TENANTS = 256
"""Tenants of one upstream that are counted on their own; further ones count as one."""
OTHER_TENANTS = ""
DEFAULT_TENANT = "default"


class RetryBudget:
    """Limits retries to *share* of the calls of the last *window* seconds, and at most *most* of them at once.

    A reserve of *start* retries is added; it is refilled by *per_second*. *clock* is monotonic, in seconds.
    """

    __slots__ = (
        "_balance", "_calls", "_clock", "_full_until", "_max_calls", "_per_second", "_price", "_refilled_at", "_start",
        "_tenants", "_window",
    )  # fmt: skip

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
        # Deposits are counted in calls, because whole numbers add up exactly: ten times 0.1 is less than 1.
        self._price, self._max_calls = 1 / share, most / share
        self._clock, self._per_second, self._start = clock, per_second, start
        self._balance, self._refilled_at = start, clock()
        self._window = window
        self._calls = SlidingWindow(window, buckets=DEPOSIT_BUCKETS)
        self._tenants: dict[str, SlidingWindow] = {}
        """The calls of each tenant, and its retries, which are marked."""
        self._full_until = self._refilled_at
        """Until then all tenants count as recent, so that a call of a further one does not read them all."""

    def deposit(self, tenant: str = DEFAULT_TENANT) -> None:
        """Count one call of *tenant* that was sent to the upstream. Called once per call and upstream, not per attempt."""
        now, calls = self._clock(), self._calls
        calls.add(now)
        if calls.total >= self._max_calls + 1:
            calls.remove_oldest(1)
        (self._tenants.get(tenant) or self._added(tenant, now)).add(now)

    def withdraw(self, tenant: str = DEFAULT_TENANT) -> bool:
        """Take one retry for *tenant* from the budget; return False if none is left for it."""
        now = self._clock()
        own = self._tenants.get(tenant) or self._added(tenant, now)
        if self._has_had_its_share(own, now) or not self._take(now):
            return False
        own.add(now, marked=True)
        return True

    def _has_had_its_share(self, own: SlidingWindow, now: float) -> bool:
        """Whether a tenant has taken its deposits and half of the reserve, while others call."""
        own.expire(now)
        if own.marked < self._start / 2 + (own.total - own.marked) / self._price:
            return False
        for other in self._tenants.values():
            other.expire(now)
        return any(other.total for other in self._tenants.values() if other is not own)

    def _added(self, tenant: str, now: float) -> SlidingWindow:
        """Count *tenant* on its own if there is room, also that of tenants without a recent call."""
        tenants = self._tenants
        if len(tenants) >= MAX_TENANTS and now >= self._full_until:
            self._full_until = now + self._window / DEPOSIT_BUCKETS
            for name, window in list(tenants.items()):
                window.expire(now)
                if not window.total:
                    del tenants[name]
        if len(tenants) >= MAX_TENANTS:
            tenant = OTHER_TENANTS
        return tenants.setdefault(tenant, SlidingWindow(self._window, buckets=DEPOSIT_BUCKETS))

    def _take(self, now: float) -> bool:
        calls = self._calls
        calls.expire(now)
        if calls.total >= self._price:
            calls.remove_oldest(self._price)
            return True
        self._balance = min(self._start, self._balance + max(0.0, now - self._refilled_at) * self._per_second)
        self._refilled_at = now
        if self._balance < 1:
            return False
        self._balance -= 1
        return True


class RetryBudgets:
    """The retry budgets of all upstreams of a process, by name.

    The first attempt of a call at an upstream does not count as a retry, also after a fallback; each further one does.
    """

    __slots__ = ("_clock", "by_name")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self.by_name = clock, dict[str, RetryBudget]()

    def of(self, name: str) -> RetryBudget:
        """Return the budget of the upstream *name*, created on first use."""
        found = self.by_name.get(name)
        if found is None:
            found = self.by_name[name] = RetryBudget(self._clock)
        return found
