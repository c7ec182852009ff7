"""The circuit breaker with several tenants and models: what one of them can do to the others."""

from __future__ import annotations

import gc

import pytest

from policies.api.upstream import UpstreamError
from policies.testing import FakeClock
from sidecar.config.upstream import BreakerSettings
from sidecar.upstream.circuit_breaker import MAX_MODELS, Breaker, BreakerOpen, Change, Permit
from sidecar.upstream.circuits.circuit import Scope, TenantCircuit
from sidecar.upstream.circuits.circuit_group import MAX_TENANTS

SETTINGS = BreakerSettings(calls=10, rate=0.5, window=30, probe=5)


class Upstream:
    """A breaker and its clock, and what it reports."""

    def __init__(self, settings: BreakerSettings = SETTINGS) -> None:
        self.clock, self.changes = FakeClock(), list[Change]()
        self.breaker = Breaker(settings, self.clock, on_change=self.changes.append)

    def enter(self, tenant: str, model: str = "m", client: str = "") -> Permit:
        return self.breaker.enter(tenant, model, client)

    def fail(
        self, tenant: str, model: str = "m", kind: str = "server", *, connected: bool = True, times: int = 10
    ) -> None:
        """End *times* attempts with a failure; those that are refused are left out."""
        for _ in range(times):
            if self.passes(tenant, model):
                self.enter(tenant, model).failed(UpstreamError(RuntimeError(), kind), connected=connected)

    def succeed(self, tenant: str, model: str = "m", times: int = 1) -> None:
        for _ in range(times):
            self.enter(tenant, model).succeeded()

    def passes(self, tenant: str, model: str = "m", client: str = "") -> bool:
        """Whether an attempt would be let through; an attempt that is, is cancelled."""
        try:
            permit = self.enter(tenant, model, client)
        except BreakerOpen:
            return False
        if permit.probes:
            msg = "asking would use up the probe"
            raise AssertionError(msg)
        permit.release()
        return True

    @property
    def opened(self) -> list[Scope]:
        return [change.scope for change in self.changes if change.state == "open"]


def refusal(upstream: Upstream, tenant: str, model: str = "m", client: str = "") -> float | None:
    """Return the wait of a refused attempt; None for one that is let through, which is left unended."""
    try:
        upstream.enter(tenant, model, client)
    except BreakerOpen as refused:
        return refused.wait
    return None


@pytest.mark.parametrize("kind", ["server", "overloaded", "first_token_timeout", "interrupted", "idle_timeout"])
def test_failures_of_one_model_block_that_model_only(kind: str) -> None:
    """Failures after the connection count for the model: the tenant's other models are let through."""
    upstream = Upstream()
    upstream.fail("a", "bad", kind)
    assert (upstream.opened, upstream.breaker.state) == ([Scope("bad", "a")], "open")
    assert not upstream.passes("a", "bad")
    upstream.succeed("a", "good")
    assert upstream.breaker.state == "partly-open"


@pytest.mark.parametrize("kind", ["server", "connect"])
def test_failures_of_one_tenant_block_that_tenant_only(kind: str) -> None:
    """Failures that the requests may cause block their tenant only; a tenant that has not called yet is let through too."""
    upstream = Upstream()
    upstream.fail("a", kind=kind, times=100)
    assert not upstream.passes("a")
    assert upstream.passes("b")
    upstream.succeed("b", times=100)
    assert upstream.passes("c")
    assert [scope.tenant for scope in upstream.opened] == ["a"]


def test_refused_connections_block_all() -> None:
    """An upstream that cannot be reached is blocked for all tenants and models at once."""
    for kind in ("connect", "connect_timeout", "head_timeout"):
        upstream = Upstream()
        upstream.fail("a", "x", kind, connected=False)
        assert not upstream.passes("b", "y")
        assert (upstream.opened, upstream.breaker.state) == ([Scope()], "open")


def test_resets_and_one_refused_connection_block_one_tenant() -> None:
    """Failures that requests may cause do not count as refused connections: one of the latter blocks no other tenant."""
    upstream = Upstream()
    upstream.fail("a", kind="connect", times=9)
    upstream.fail("b", kind="connect", connected=False, times=1)
    assert upstream.passes("b")
    upstream.fail("a", kind="connect", times=9)
    assert (upstream.passes("a"), upstream.passes("b")) == (False, True)


def test_failures_of_several_tenants_block_all() -> None:
    """A model is blocked for all tenants if its attempts fail even without those of any one tenant."""
    upstream = Upstream()
    for _ in range(9):
        for tenant in ("a", "b"):
            upstream.fail(tenant, times=1)
    assert upstream.opened == []
    for tenant in ("a", "b"):
        upstream.fail(tenant, times=1)
    assert upstream.opened == [Scope("m", "a"), Scope("m")]
    assert not upstream.passes("c")
    assert upstream.passes("c", "other")


def test_many_tenants_with_few_calls_detect_an_outage() -> None:
    """In an outage of a model the failures of all tenants count together, however few each one has."""
    upstream = Upstream()
    for at in range(11):
        upstream.fail(f"t{at}", times=1)
    assert upstream.opened == [Scope("m")]


def test_answers_of_a_tenant_with_failures_count_for_all() -> None:
    """The answers of a tenant count although it has failures too, so they keep the model available to all."""
    upstream = Upstream()
    upstream.succeed("large", times=1_000)
    upstream.fail("large", times=60)
    upstream.fail("attacker", times=50)
    assert upstream.passes("large")
    assert upstream.passes("new")
    assert upstream.opened == [Scope("m", "attacker")]


def test_answer_closes_for_all() -> None:
    """The first answer to a probe closes the circuit for all; a tenant's own circuit closes by its own answer."""
    upstream = Upstream()
    for tenant in ("a", "b"):
        upstream.fail(tenant)
    assert upstream.opened == [Scope("m", "a"), Scope("m")]
    upstream.clock.advance(5)
    states = []
    upstream.succeed("c")
    assert upstream.passes("b")
    states.append(upstream.breaker.state)
    upstream.succeed("a")
    states.append(upstream.breaker.state)
    assert states == ["partly-open", "closed"]


def test_head_of_an_answer_closes_the_upstream() -> None:
    """A probe of an unreachable upstream succeeds with the head of its answer, before its first output."""
    upstream = Upstream()
    upstream.fail("a", kind="connect", connected=False)
    upstream.clock.advance(5)
    permit = upstream.enter("b")
    assert refusal(upstream, "a") == 5.0
    permit.answered()
    assert upstream.passes("a")
    permit.failed(UpstreamError(RuntimeError(), "server"))
    assert upstream.passes("a")


def test_model_stays_blocked_while_its_upstream_cannot_be_reached() -> None:
    """A failed connection proves nothing about a model: its circuit stays as it is, and the next probe may start at once."""
    upstream = Upstream()
    upstream.fail("a", "bad")
    upstream.clock.advance(5)
    upstream.enter("a", "bad", "1").failed(UpstreamError(RuntimeError(), "connect"), connected=False)
    assert refusal(upstream, "a", "bad", "1") == 5.0
    assert refusal(upstream, "a", "bad", "2") is None


def blocked_for_all() -> Upstream:
    upstream = Upstream()
    for tenant in ("a", "b"):
        upstream.fail(tenant)
    upstream.clock.advance(5)
    return upstream


def test_cancelled_probe_lets_another_tenant_probe_at_once() -> None:
    """A tenant that cancels its probe waits for its next turn; another one need not wait."""
    upstream = blocked_for_all()
    upstream.enter("c").release()
    assert refusal(upstream, "c") == 5.0
    upstream.succeed("d")
    assert upstream.passes("c")


@pytest.mark.parametrize("end", ["cancel", "fail", "hang"])
def test_probes_cannot_be_monopolised(end: str) -> None:
    """Tenants that ask all the time, and cancel, fail or never end their probes, leave turns to others."""
    upstream, failure = blocked_for_all(), UpstreamError(RuntimeError(), "server")
    attackers = [f"attacker {at}" for at in range(30)]
    begun = upstream.clock()
    assert refusal(upstream, attackers[0]) is None  # left unended
    for _ in range(10_000):
        for attacker in attackers:
            try:
                permit = upstream.enter(attacker)
            except BreakerOpen:
                continue
            if end == "cancel":
                permit.release()
            elif end == "fail":
                permit.failed(failure)
        if refusal(upstream, "victim") is None:
            break
        upstream.clock.advance(0.1)
    else:
        pytest.fail("the victim got no turn")
    assert upstream.clock() - begun <= SETTINGS.probe * (len(attackers) + 1)


def test_tenants_that_left_delay_no_probe() -> None:
    """A tenant that calls alone after an outage for many may make a probe after at most twice `probe` seconds."""
    upstream = blocked_for_all()
    for at in range(50):
        refusal(upstream, f"gone {at}")
    upstream.clock.advance(60)
    upstream.enter("left").failed(UpstreamError(RuntimeError(), "server"))
    upstream.clock.advance(2 * SETTINGS.probe)
    assert refusal(upstream, "left") is None


def test_clients_of_a_tenant_take_turns() -> None:
    """A client that cancels each probe of its tenant's circuit does not keep the tenant's other clients out."""
    upstream = Upstream()
    upstream.fail("a")
    upstream.clock.advance(5)
    upstream.enter("a", client="10.0.0.1").release()
    assert refusal(upstream, "a", client="10.0.0.1") == 5.0
    assert refusal(upstream, "a", client="10.0.0.2") is None


def test_invented_models_do_not_displace_those_of_others() -> None:
    """A tenant that makes up models takes no place of another tenant's, and its further ones share one circuit."""
    upstream = Upstream()
    upstream.fail("b", "real", times=9)
    for at in range(4 * MAX_MODELS):
        upstream.fail("a", f"invented {at}", times=1)
    upstream.fail("b", "real", times=1)
    assert not upstream.passes("b", "real")
    for at in range(20):
        upstream.succeed("b", f"own {at}")
    upstream.fail("b", "own 3")
    assert not upstream.passes("b", "own 3")
    assert upstream.passes("b", "own 4")
    assert not upstream.passes("a", "yet another"), "its further models share a circuit"


def test_places_of_models_become_free() -> None:
    """A model that was not used for the whole window gives way to a new one, and its circuit is reported as closed."""
    upstream = Upstream()
    upstream.fail("a", "first")
    for at in range(MAX_MODELS - 1):
        upstream.succeed("a", f"m{at}")
    upstream.clock.advance(SETTINGS.window)
    for at in range(MAX_MODELS):
        upstream.succeed("a", f"n{at}")
    assert upstream.breaker.state == "closed"
    assert [change.state for change in upstream.changes] == ["open", "closed"]
    upstream.fail("a", "n1")
    assert upstream.passes("a", "n2")


def test_memory_is_bounded() -> None:
    """Names of tenants and models beyond the bounds, and long names, share circuits."""
    upstream = Upstream()
    before = sum(type(each) is TenantCircuit for each in gc.get_objects())
    for at in range(2 * MAX_MODELS):
        upstream.fail("a", f"m{at}", times=1)
        upstream.fail("a", "x" * 300 + str(at), times=1)
    for at in range(2 * MAX_TENANTS):
        upstream.fail(f"t{at}", "m1", times=1)
    after = sum(type(each) is TenantCircuit for each in gc.get_objects())
    assert after - before <= (MAX_MODELS + 1) + 3 * (MAX_TENANTS + 1)


def test_tenants_beyond_the_bound_count_as_one() -> None:
    """Where 64 tenants have failures, further ones share a circuit; one unused for the window gives way to a new tenant."""
    upstream = Upstream()
    for at in range(MAX_TENANTS):
        upstream.succeed(f"t{at}", times=2)
        upstream.fail(f"t{at}", times=1)
    upstream.fail("late")
    assert not upstream.passes("later")
    assert upstream.passes("t1")
    upstream.clock.advance(SETTINGS.window)
    assert upstream.passes("later")


def test_failing_tenant_beyond_the_bound_blocks_no_other() -> None:
    """A tenant that fails takes the place of one that does not, also while all places are in use."""
    upstream = Upstream()
    for at in range(2 * MAX_TENANTS):
        upstream.succeed(f"t{at}", times=2)
    upstream.fail("late", times=100)
    upstream.fail(f"t{2 * MAX_TENANTS - 1}", times=100)
    assert [scope.tenant for scope in upstream.opened] == ["late", f"t{2 * MAX_TENANTS - 1}"]
    assert not upstream.passes("late")
    assert all(upstream.passes(f"t{at}") for at in range(2 * MAX_TENANTS - 1))
    assert upstream.passes("new")


def test_outage_before_the_recovery_does_not_count() -> None:
    """Once the circuit for all has closed, a few failures open none, whichever tenant's they are."""
    upstream = Upstream()
    upstream.fail("a", "x", "connect", connected=False)
    upstream.clock.advance(5)
    upstream.enter("b", "y").answered()
    upstream.succeed("b", "y", times=9)
    upstream.fail("a", "x", "connect", connected=False, times=1)
    assert upstream.breaker.state == "closed"
    for _ in range(10):
        for tenant in ("a", "b"):
            upstream.fail(tenant, "z", times=1)
    assert Scope("z") in upstream.opened
    upstream.clock.advance(5)
    upstream.succeed("c", "z")
    before = len(upstream.changes)
    upstream.fail("b", "z", times=1)
    assert upstream.changes[before:] == []


def test_head_of_an_answer_from_before_an_outage_closes_nothing() -> None:
    """The head of a probe's answer does not close a circuit that has closed and opened again meanwhile."""
    upstream = Upstream()
    upstream.fail("a", kind="connect", connected=False)
    upstream.clock.advance(5)
    late = upstream.enter("a")
    upstream.clock.advance(5)
    upstream.succeed("b")
    upstream.fail("a", kind="connect", connected=False)
    states: list[str] = [upstream.breaker.state]
    late.answered()
    late.release()
    states.append(upstream.breaker.state)
    upstream.clock.advance(5)
    upstream.enter("a")
    assert [*states, upstream.breaker.state] == ["open", "open", "half-open"]


def test_refused_call_waits_for_at_most_one_probe() -> None:
    """The wait of a refused attempt is at most `probe` seconds, also for a caller that gives way to others."""
    upstream = Upstream()
    upstream.fail("a", kind="connect", connected=False)
    for tenant in ("b", "c"):
        assert refusal(upstream, tenant) == 5
    upstream.clock.advance(5)
    assert refusal(upstream, "a") is None
    assert refusal(upstream, "a") == 5
