"""The retry budget: what deposits retries, for how long, and that idle time does not pay for a retry storm."""

from __future__ import annotations

import openai
import pytest

from policies import Chain, Fallback, Policy, RetryClassifier, UpstreamError
from policies.api.services import Services
from policies.engine.retry_budget import MAX_TENANTS, RetryBudget, RetryBudgets
from policies.engine.sliding_window import SlidingWindow
from policies.testing import FakeClock, ScriptedUpstream, make_call, make_services, serve

BROKEN = UpstreamError(openai.OpenAIError("down"), "overloaded")
REFUSED = UpstreamError(openai.OpenAIError("not asked"), "unavailable")
RETRY = RetryClassifier(attempts=10, base=0, cap=0)


def withdraw_all(budget: RetryBudget) -> int:
    """Withdraw until the budget is empty; return how many retries it gave."""
    taken = 0
    while budget.withdraw():
        taken += 1
    return taken


def budget_after(clock: FakeClock, calls: int) -> RetryBudget:
    """Return a budget with the deposits of *calls* calls."""
    budget = RetryBudget(clock)
    for _ in range(calls):
        budget.deposit()
    return budget


@pytest.mark.parametrize(
    ("calls", "idle", "retries"),
    [(0, 0, 10), (10, 0, 11), (1000, 0, 110), (1000, 59, 110), (1000, 60, 10), (1000, 86_400, 10), (100_000, 0, 110)],
)
def test_deposits_of_the_last_minute_and_a_reserve(calls: int, idle: float, retries: int) -> None:
    """A tenth of the calls of the last minute, at most 100, plus a reserve of 10; idle time adds nothing beyond that."""
    clock = FakeClock()
    budget = budget_after(clock, calls)
    clock.advance(idle)
    assert withdraw_all(budget) == retries


def test_deposits_expire_bucket_by_bucket() -> None:
    """Deposits expire in steps of a sixth of a minute; a full budget drops its oldest deposit for a new one."""
    clock = FakeClock()
    budget = RetryBudget(clock, start=0, per_second=0)
    for _ in range(6):
        for _ in range(100):
            budget.deposit()
        clock.advance(10)
    assert withdraw_all(budget) == 50, "the first hundred are a minute old"
    for _ in range(1000):
        budget.deposit()
    clock.advance(59)
    for _ in range(500):
        budget.deposit()
    clock.advance(1)
    assert withdraw_all(budget) == 50


def test_time_refills_the_reserve() -> None:
    """The reserve grows by a fifth of a retry each second, up to its initial amount."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    assert withdraw_all(budget) == 10
    clock.advance(20)
    assert withdraw_all(budget) == 4
    clock.advance(600)
    assert withdraw_all(budget) == 10


async def calls(chain: Chain, services: Services, times: int) -> None:
    """Make *times* calls, one after the other."""
    for _ in range(times):
        await serve([], make_call("hi", services=services), chain=chain)


@pytest.mark.anyio
async def test_idle_time_pays_for_no_retry_storm() -> None:
    """A thousand failing calls after ten idle minutes get no more retries than a thousand calls after a start."""
    services, clock = make_services(), FakeClock()
    services.monotonic = clock
    upstream = ScriptedUpstream([BROKEN])
    chain = Chain([RETRY], upstream, services)
    await calls(chain, services, 1)
    clock.advance(600)
    upstream.names.clear()
    await calls(chain, services, 1000)

    assert 1100 <= len(upstream.names) <= 1110


@pytest.mark.anyio
@pytest.mark.parametrize("policies", [[RETRY], [Fallback(), RETRY]], ids=["alone", "with another"])
async def test_calls_that_the_breaker_refused_deposit_nothing(policies: list[Policy]) -> None:
    """A call that the breaker refused was not sent, so it deposits no retry for that upstream."""
    services = make_services(upstreams=("a", "b") if len(policies) > 1 else ("a",))
    upstream = ScriptedUpstream(*[[REFUSED], ["fine"]] * 200 if len(policies) > 1 else [[REFUSED]])
    retries = RetryBudgets(FakeClock())
    await calls(Chain(policies, upstream, services, retries=retries), services, 200)

    assert withdraw_all(retries.of("a")) == 10
    assert withdraw_all(retries.of("b")) == (30 if len(policies) > 1 else 10)


@pytest.mark.anyio
async def test_client_retries_deposit_nothing() -> None:
    """A hundred calls deposit ten retries beside the initial ten; calls that an SDK repeats deposit none."""
    extra = []
    for repeated in (False, True):
        upstream, services = ScriptedUpstream([BROKEN]), make_services()
        chain = Chain([RetryClassifier(base=0, cap=0, attempts=10)], upstream, services)
        for _ in range(100):
            await serve([], make_call("hi", services=services, is_client_retry=repeated), chain=chain)
        extra.append(len(upstream.names) - 100)

    assert (18 <= extra[0] <= 20, extra[1]) == (True, 10)


@pytest.mark.anyio
async def test_each_upstream_has_its_own_budget() -> None:
    """When the retries of an upstream are used up, the next one takes over; its first attempt is no retry."""
    upstream, services = ScriptedUpstream([BROKEN]), make_services(upstreams=("a", "b"))
    chain = Chain([Fallback(attempts=2), RetryClassifier(attempts=4, base=0, cap=0)], upstream, services)
    for _ in range(100):
        await serve([], make_call("hi", services=services), chain=chain)
    assert 110 <= upstream.names.count("a") <= 120
    assert 110 <= upstream.names.count("b") <= 120


@pytest.mark.anyio
async def test_outage_is_not_multiplied() -> None:
    """A thousand failing calls get at most ten retries and a tenth of the calls, for all calls together."""
    clock = FakeClock()
    services = make_services(clock=clock)

    async def sleep(_: float) -> None:
        return None

    services.sleep = sleep
    upstream = ScriptedUpstream([BROKEN])
    chain = Chain([RetryClassifier(name="r", attempts=3)], upstream, services)
    for _ in range(1000):
        await serve([], make_call("hi", services=services), chain=chain)

    assert 1000 + 100 < len(upstream.calls) <= 1000 + 10 + 100


def test_one_tenant_cannot_use_up_the_retries_of_another() -> None:
    """A tenant whose calls all fail takes its own deposits and half of the reserve; the other's deposits stay."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    for _ in range(200):
        budget.deposit("failing")
    for _ in range(100):
        budget.deposit("other")
    taken = sum(budget.withdraw("failing") for _ in range(1_000))
    assert taken == 20 + 5
    assert sum(budget.withdraw("other") for _ in range(1_000)) == 10 + 5
    clock.advance(10)
    assert not budget.withdraw("failing"), "the reserve has two again, and they are not for this tenant"
    assert budget.withdraw("other") is False, "it has had its share as well"
    assert budget.withdraw("new")


def test_tenant_without_calls_gets_from_the_reserve() -> None:
    """A tenant that comes after another one has taken all gets the next retry that is refilled."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    budget.deposit("failing")
    while budget.withdraw("failing"):
        pass
    budget.deposit("new")
    clock.advance(5)
    assert not budget.withdraw("failing")
    assert budget.withdraw("new")


def test_single_tenant_has_the_whole_budget() -> None:
    """A tenant that calls alone gets all retries, also after another one has been silent for a minute."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    budget.deposit("gone")
    clock.advance(60)
    for _ in range(100):
        budget.deposit("alone")
    assert sum(budget.withdraw("alone") for _ in range(1_000)) == 20


def test_tenants_of_a_retry_budget_are_bounded() -> None:
    """Tenants beyond the bound count as one; those without a call in the last minute are dropped."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    for at in range(MAX_TENANTS + 100):
        budget.deposit(f"t{at}")
    late = [budget.withdraw(f"t{MAX_TENANTS + at}") for at in range(100)]
    assert sum(late) < 20
    assert budget.withdraw("t1")
    clock.advance(60)
    budget.deposit("new")
    assert sum(budget.withdraw("new") for _ in range(100)) == 10


@pytest.mark.anyio
async def test_failing_calls_of_one_tenant_leave_retries_to_another() -> None:
    """Through the chain: after one tenant's calls have failed for a while, another tenant's calls are still repeated."""
    services, upstream = make_services(), ScriptedUpstream([BROKEN])
    retries = RetryBudgets(FakeClock())
    works = Chain([RETRY], ScriptedUpstream(["fine"]), services, retries=retries)
    fails = Chain([RETRY], upstream, services, retries=retries)
    for _ in range(20):
        await serve([], make_call("hi", services=services, tenant="other"), chain=works)
    for _ in range(200):
        await serve([], make_call("hi", services=services, tenant="failing"), chain=fails)
    upstream.names.clear()
    await serve([], make_call("hi", services=services, tenant="other"), chain=fails)
    assert len(upstream.names) > 1


def test_call_of_a_tenant_without_a_place_reads_few_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """While all places are taken, a call does not read the windows of all tenants; a place that falls free is used."""
    clock, reads = FakeClock(), list[SlidingWindow]()
    budget = RetryBudget(clock)
    for at in range(MAX_TENANTS):
        budget.deposit(f"t{at}")
    expire = SlidingWindow.expire

    def counted(window: SlidingWindow, now: float) -> None:
        reads.append(window)
        expire(window, now)

    with monkeypatch.context() as patch:
        patch.setattr(SlidingWindow, "expire", counted)
        for _ in range(100):
            budget.deposit("late")
    assert len(reads) < 2 * MAX_TENANTS
    clock.advance(60)
    budget.deposit("late")
    assert sum(budget.withdraw("late") for _ in range(20)) == 10
