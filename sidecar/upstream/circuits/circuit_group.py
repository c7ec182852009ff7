"""The circuits of one upstream, or of one of its models: one for each tenant, and one for all tenants together.

A tenant's own attempts open its own circuit. The circuit for all opens only if it would also open without the
attempts of any one tenant. So the requests of one tenant never block another one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from policies.engine.sliding_window import SlidingWindow

from .circuit import WINDOW_BUCKETS, Circuit, Scope, TenantCircuit

if TYPE_CHECKING:
    from sidecar.config.upstream import BreakerSettings

MAX_TENANTS = 64
"""Tenants with a circuit of their own in one group; further ones share one and count as one tenant.

A tenant whose attempt fails takes the place of one without failures, so that it does not block those that share.
"""
OTHER_TENANTS = "(others)"


class Used(Protocol):
    """Something with the time of its last use."""

    used_at: float


U = TypeVar("U", bound=Used)


class BoundedTable(Generic[U]):
    """At most *size* entries by name. A new one may replace an entry that was not used for *idle* seconds."""

    __slots__ = ("_full_until", "_idle", "_size", "entries")

    def __init__(self, size: int, idle: float) -> None:
        self._size, self._idle = size, idle
        self.entries: dict[str, U] = {}
        self._full_until = -math.inf

    @property
    def is_full(self) -> bool:
        """Whether a new entry must replace another one."""
        return len(self.entries) >= self._size

    def unused(self, now: float) -> str | None:
        """Return the name of the entry to replace; None if all are in use."""
        if now < self._full_until:
            return None
        oldest = self.least_recent(self.entries)
        # Times of use only grow, so no entry becomes unused before this one does.
        self._full_until = self.entries[oldest].used_at + self._idle
        return None if now < self._full_until else oldest

    def least_recent(self, names: Iterable[str]) -> str:
        """Return the one of *names* that was used least recently."""
        return min(names, key=lambda name: self.entries[name].used_at)


class CircuitGroup:
    """See the module. *model* is None for the group of an upstream; *owner* is the tenant that sent the first attempt."""

    __slots__ = ("_independent", "_settings", "model", "others", "owner", "shared", "tenants", "used_at")

    def __init__(self, settings: BreakerSettings, model: str | None = None, owner: str = "") -> None:
        self._settings, self.model, self.owner = settings, model, owner
        self.used_at = -math.inf
        self.shared = Circuit(settings, Scope(model))
        self.tenants: BoundedTable[TenantCircuit] = BoundedTable(MAX_TENANTS, settings.window)
        self.others: TenantCircuit | None = None
        self._independent = SlidingWindow(settings.window, buckets=WINDOW_BUCKETS)
        """Failures that do not depend on the request."""

    def add(self, tenant: str, now: float) -> TenantCircuit:
        """Add a circuit for *tenant*, used *now*, and return it."""
        circuit = self.tenants.entries[tenant] = self._new(tenant)
        circuit.used_at = now
        return circuit

    def without_failures(self, now: float) -> str | None:
        """Return the tenant whose circuit to replace by that of a failing tenant; None if all others fail as well."""
        entries = self.tenants.entries
        for circuit in entries.values():
            circuit.attempts.expire(now)
        names = [name for name, each in entries.items() if each.cause is None and not each.attempts.marked]
        return self.tenants.least_recent(names) if names else None

    def of_others(self) -> TenantCircuit:
        """Return the circuit that tenants without one of their own share."""
        if self.others is None:
            self.others = self._new(OTHER_TENANTS)
        return self.others

    def _new(self, tenant: str) -> TenantCircuit:
        return TenantCircuit(self._settings, Scope(self.model, tenant))

    @property
    def of_tenants(self) -> list[TenantCircuit]:
        """The circuits of all tenants."""
        circuits = list(self.tenants.entries.values())
        return circuits if self.others is None else [*circuits, self.others]

    def to_open(self, own: TenantCircuit, now: float, *, independent: bool) -> Circuit | None:
        """Return the circuit that must open after a failure of *own*; None for none.

        *independent*: the failure does not depend on the request, like a refused connection. Such failures of one tenant
        are enough to open the circuit for all.
        """
        windows = [circuit.attempts for circuit in self.of_tenants]
        for window in (*windows, self._independent):
            window.expire(now)
        total, failed = sum(each.total for each in windows), sum(each.marked for each in windows)
        if independent:
            self._independent.add(now)
        if self._is_over(total, self._independent.total) or all(
            self._is_over(total - each.total, failed - each.marked) for each in windows
        ):
            return self.shared
        if own.cause is None and self._is_over(own.attempts.total, own.attempts.marked):
            return own
        return None

    def _is_over(self, total: float, failed: float) -> bool:
        return total >= self._settings.calls and failed >= self._settings.rate * total

    def clear(self, circuit: Circuit) -> None:
        """Forget the attempts that *circuit* counts."""
        for each in self.of_tenants:
            if circuit is self.shared or circuit is each:
                each.attempts.clear()
        if circuit is self.shared:
            self._independent.clear()

    def deciding(self, now: float) -> list[Circuit]:
        """Return the circuits that decide about calls: that for all if it is open, else those of blocked and recent tenants."""
        if self.shared.cause is not None:
            return [self.shared]
        since = now - self._settings.window
        return [each for each in self.of_tenants if each.cause is not None or each.used_at > since]
