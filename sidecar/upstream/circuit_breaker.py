"""Circuit breaker: stop sending to an upstream, or to one of its models, that fails, and probe it until it has recovered.

Failures of the connection count for the upstream, all others for the upstream and the model. Closed, a circuit counts
results in a sliding window. Open, it refuses. After `probe` seconds one attempt is let through, and its result decides
(Nygard, "Release It!", ch. 5; counting by rate in a sliding window is Hystrix's).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import msgspec

from policies.api.failure_kinds import FAILURE_CLASSES
from sidecar.config.upstream import BreakerSettings
from sidecar.upstream.circuits.circuit import Circuit
from sidecar.upstream.circuits.circuit_group import BoundedTable, CircuitGroup

if TYPE_CHECKING:
    from policies.api.upstream import UpstreamError
    from sidecar.upstream.circuits.circuit import Scope, TenantCircuit

UNHEALTHY_KINDS = frozenset(name for name, each in FAILURE_CLASSES.items() if each.sick)
"""Failure kinds that count against the upstream's health.  A rate limit, a refused key or a bad request do not count: the upstream works."""
CONNECTION_KINDS = frozenset({"connect", "connect_timeout"})
"""Unhealthy kinds that count for the upstream as a whole: it was not reached, or closed the connection before an answer."""
MAX_MODELS = 256
"""Models of one upstream with a group of circuits of their own; further ones share one."""
MAX_MODEL_NAME_CHARACTERS = 256
"""Models with a longer name share the circuits of the models without a group: clients choose the names."""
OTHER_MODELS = "(others)"

State: TypeAlias = Literal["closed", "open", "half-open", "partly-open"]
"""`partly-open`: some models, or some tenants, are refused."""


class Change(NamedTuple):
    """A circuit opened because of *cause*, or closed."""

    state: Literal["closed", "open"]
    scope: Scope
    cause: UpstreamError | None


class BreakerOpen(Exception):
    """Nothing is sent for the next *wait* seconds; *cause* is the failure that opened the breaker."""

    def __init__(self, wait: float, cause: UpstreamError) -> None:
        super().__init__(wait)
        self.wait, self.cause = wait, cause


class Permit(msgspec.Struct, eq=False):
    """Permission for one attempt, to be ended once: by `succeeded`, `failed` or `release`.  Later calls have no effect.

    `model` is the upstream's name of the model. `probes` are the open circuits that the attempt probes; a probe may
    succeed with its first output. `epoch` is the breaker's when the permit was given, -1 when it has been ended.
    """

    breaker: Breaker
    tenant: str
    model: str
    epoch: int
    probes: tuple[Circuit, ...] = ()

    def answered(self) -> None:
        """Note that the head of an answer has arrived, which proves to a probe that the upstream can be reached."""
        if self.probes:
            self.breaker.reached(self)

    def succeeded(self) -> None:
        """Count the attempt as a success."""
        self.breaker.ended(self, None)

    def failed(self, error: UpstreamError, *, connected: bool = True) -> None:
        """Count the attempt as a failure if *error* is of an unhealthy kind, else as an answer.

        *connected*: a connection was made, so the request may be the cause of *error*.
        """
        self.breaker.ended(self, error, connected=connected)

    def release(self) -> None:
        """Release the permit without a result (client cancelled).  No effect after success or failure."""
        self.breaker.released(self)


class Breaker:
    """The circuit breaker of one upstream, for all calls of a process.

    *clock* is monotonic, in seconds.  *on_change* is called when a circuit opens and when it closes.
    """

    def __init__(
        self,
        settings: BreakerSettings,
        clock: Callable[[], float],
        *,
        on_change: Callable[[Change], None] | None = None,
    ) -> None:
        self._settings, self._clock, self._on_change = settings, clock, on_change
        self._epoch = self._open_count = 0
        self._upstream = CircuitGroup(settings)
        self._models: BoundedTable[CircuitGroup] = BoundedTable(MAX_MODELS, settings.window)
        self._other_models = CircuitGroup(settings, OTHER_MODELS)

    @property
    def state(self) -> State:
        """The state of all circuits together: `open` and `half-open` if all calls are refused, `half-open` during a probe."""
        if not self._open_count:
            return "closed"
        now = self._clock()
        deciding = self._upstream.deciding(now)
        if not deciding or any(each.cause is None for each in deciding):
            groups = (*self._models.entries.values(), self._other_models)
            deciding = [circuit for group in groups for circuit in group.deciding(now)]
            if not deciding or any(each.cause is None for each in deciding):
                return "partly-open"
        return "half-open" if any(each.probing for each in deciding) else "open"

    def enter(self, tenant: str, model: str, client: str = "") -> Permit:
        """Return the permit for one attempt of *tenant* with *model*.  Raises `BreakerOpen`.

        Tenants take turns in probing what is blocked for all of them; the addresses *client* take turns within a tenant.
        """
        if not self._open_count:
            return Permit(self, tenant, model, self._epoch)
        now = self._clock()
        callers = self._open_circuits(tenant, model, client, now)
        wait, cause = 0.0, None
        for circuit, caller in callers.items():
            if (own_wait := circuit.wait(caller, now)) > wait:
                wait, cause = own_wait, circuit.cause
        if cause is not None:
            raise BreakerOpen(min(wait, self._settings.probe), cause)
        for circuit, caller in callers.items():
            circuit.begin_probe(caller, now)
        return Permit(self, tenant, model, self._epoch, tuple(callers))

    def refuses(self, tenant: str, model: str, client: str = "") -> bool:
        """Whether `enter` would raise `BreakerOpen` now. Nothing is counted; the caller is remembered for its turn."""
        if not self._open_count:
            return False
        now = self._clock()
        circuits = self._open_circuits(tenant, model, client, now)
        return any(circuit.wait(caller, now) > 0 for circuit, caller in circuits.items())

    def _open_circuits(self, tenant: str, model: str, client: str, now: float) -> dict[Circuit, str]:
        """Return the open circuits of a call, each with the caller that takes turns at it."""
        groups = (self._upstream, self._group(model, tenant, now))
        pairs = ((group.shared, tenant, self._circuit(group, tenant, now)) for group in groups)
        each = (
            (circuit, caller) for shared, caller, own in pairs for circuit, caller in ((shared, caller), (own, client))
        )
        return {circuit: caller for circuit, caller in each if circuit.cause is not None}

    def reached(self, permit: Permit) -> None:
        """Close the circuits of the upstream that *permit* probes."""
        now = self._clock()
        for circuit in permit.probes:
            if circuit.scope.model is None and permit.epoch >= circuit.changed:
                self._close(self._upstream, circuit, now)

    def ended(self, permit: Permit, error: UpstreamError | None, *, connected: bool = True) -> None:
        """Count one result; the result of an attempt that started before the last change of a circuit is ignored by it."""
        epoch, probes = permit.epoch, permit.probes
        permit.epoch, permit.probes = -1, ()
        if epoch < 0 or self._settings.calls == 0:
            return
        now, tenant = self._clock(), permit.tenant
        if error is not None and _is_of_connection(error, connected=connected):
            self._count_failure(self._upstream, tenant, epoch, now, error, independent=not connected)
            for circuit in probes:
                circuit.end_probe(epoch, now, has_result=circuit.scope.model is None)
            return
        self._count_answer(self._upstream, tenant, epoch, now)
        group = self._group(permit.model, tenant, now)
        if error is None or error.kind not in UNHEALTHY_KINDS:
            self._count_answer(group, tenant, epoch, now)
        else:
            self._count_failure(group, tenant, epoch, now, error)
        for circuit in probes:
            circuit.end_probe(epoch, now, has_result=True)

    def released(self, permit: Permit) -> None:
        """End an attempt without a result."""
        epoch, probes = permit.epoch, permit.probes
        permit.epoch, permit.probes = -1, ()
        if probes:
            now = self._clock()
            for circuit in probes:
                circuit.end_probe(epoch, now, has_result=False)

    def _count_answer(self, group: CircuitGroup, tenant: str, epoch: int, now: float) -> None:
        # As `_circuit`, but without its call: this is counted twice per attempt.
        own = group.tenants.entries.get(tenant) or self._placed(group, tenant, now, fails=False)
        shared = group.shared
        group.used_at = own.used_at = now
        if epoch >= shared.changed and epoch >= own.changed:
            own.attempts.add(now)
            if self._open_count:
                self._close(group, own, now)
                self._close(group, shared, now)

    def _count_failure(
        self,
        group: CircuitGroup,
        tenant: str,
        epoch: int,
        now: float,
        error: UpstreamError,
        *,
        independent: bool = False,
    ) -> None:
        own, shared = self._circuit(group, tenant, now, fails=True), group.shared
        group.used_at = own.used_at = now
        if epoch < shared.changed or epoch < own.changed:
            return
        own.attempts.add(now, marked=True)
        for circuit in (shared, own):
            if circuit.cause is not None:
                circuit.cause = error
        if shared.cause is None and (opening := group.to_open(own, now, independent=independent)) is not None:
            self._change(opening, error, now)

    def _close(self, group: CircuitGroup, circuit: Circuit, now: float) -> None:
        if circuit.cause is not None:
            group.clear(circuit)
            self._change(circuit, None, now)

    def _change(self, circuit: Circuit, cause: UpstreamError | None, now: float) -> None:
        self._epoch += 1
        self._open_count += 1 if cause is not None else -1
        circuit.change(cause, self._epoch, now)
        if self._on_change is not None:
            self._on_change(Change("closed" if cause is None else "open", circuit.scope, cause))

    def _circuit(self, group: CircuitGroup, tenant: str, now: float, *, fails: bool = False) -> TenantCircuit:
        return group.tenants.entries.get(tenant) or self._placed(group, tenant, now, fails=fails)

    def _placed(self, group: CircuitGroup, tenant: str, now: float, *, fails: bool) -> TenantCircuit:
        """Return a circuit for a new *tenant* of *group*: in a free place, or in one unused for the whole window.

        Else a tenant that *fails* takes the place of one without failures, and the others share a circuit.
        """
        if group.tenants.is_full:
            replaced = group.tenants.unused(now) or (group.without_failures(now) if fails else None)
            if replaced is None:
                return group.of_others()
            self._forget((group.tenants.entries.pop(replaced),), now)
        return group.add(tenant, now)

    def _group(self, model: str, tenant: str, now: float) -> CircuitGroup:
        return self._models.entries.get(model) or self._placed_group(model, tenant, now)

    def _placed_group(self, model: str, tenant: str, now: float) -> CircuitGroup:
        """Return circuits for a new *model*: in a free place, or in one unused for the whole window.

        Else it takes one of the tenant that holds the most places, unless that is *tenant* itself. So a tenant that makes up
        names cannot keep the models of others out.
        """
        if len(model) > MAX_MODEL_NAME_CHARACTERS:
            return self._other_models
        if self._models.is_full:
            replaced = self._models.unused(now) or self._of_largest_holder(tenant)
            if replaced is None:
                return self._other_models
            group = self._models.entries.pop(replaced)
            self._forget((group.shared, *group.of_tenants), now)
        group = self._models.entries[model] = CircuitGroup(self._settings, model, owner=tenant)
        group.used_at = now
        return group

    def _of_largest_holder(self, tenant: str) -> str | None:
        groups = self._models.entries
        held = Counter(group.owner for group in groups.values())
        holder, places = held.most_common(1)[0]
        if places <= held[tenant] + 1:
            return None
        return self._models.least_recent(name for name, group in groups.items() if group.owner == holder)

    def _forget(self, circuits: Sequence[Circuit], now: float) -> None:
        for circuit in circuits:
            if circuit.cause is not None:
                self._change(circuit, None, now)


def _is_of_connection(failure: UpstreamError, *, connected: bool) -> bool:
    """Whether *failure* counts for the upstream as a whole; a short `head` may end before `connect` does."""
    return failure.kind in CONNECTION_KINDS or (failure.kind == "head_timeout" and not connected)
