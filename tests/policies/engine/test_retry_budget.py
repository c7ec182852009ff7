"""The retry budget: what earns retries, for how long, and that no storm is paid with what was saved up."""

from __future__ import annotations

import openai
import pytest

from policies import Chain, Fallback, Policy, RetryClassifier, UpstreamError
from policies.api.services import Services
from policies.engine.retry_budget import RetryBudget
from policies.testing import FakeClock, ScriptedUpstream, make_call, make_services, serve

BROKEN = UpstreamError(openai.OpenAIError("down"), "overloaded")
REFUSED = UpstreamError(openai.OpenAIError("not asked"), "unavailable")
RETRY = RetryClassifier(attempts=10, base=0, cap=0)


def left(budget: RetryBudget) -> int:
    """Take all that there is."""
    taken = 0
    while budget.withdraw():
        taken += 1
    return taken


def after(clock: FakeClock, calls: int) -> RetryBudget:
    budget = RetryBudget(clock)
    for _ in range(calls):
        budget.deposit()
    return budget


@pytest.mark.parametrize(
    ("calls", "idle", "retries"),
    [(0, 0, 10), (10, 0, 11), (1000, 0, 110), (1000, 59, 110), (1000, 60, 10), (1000, 86_400, 10), (100_000, 0, 110)],
)
def test_recent(calls: int, idle: float, retries: int) -> None:
    """A tenth of the calls of the last minute, at most a hundred, and ten more; idle time saves nothing up beyond them."""
    clock = FakeClock()
    budget = after(clock, calls)
    clock.advance(idle)
    assert left(budget) == retries


def test_a_minute_slides() -> None:
    """Each call is forgotten by itself, in steps of a sixth; a full purse lets go of its oldest."""
    clock = FakeClock()
    budget = RetryBudget(clock, start=0, per_second=0)
    for _ in range(6):
        for _ in range(100):
            budget.deposit()
        clock.advance(10)
    assert left(budget) == 50, "the first hundred are a minute old"
    for _ in range(1000):
        budget.deposit()
    clock.advance(59)
    for _ in range(500):
        budget.deposit()
    clock.advance(1)
    assert left(budget) == 50


def test_time_refills_the_start() -> None:
    """A fifth of a retry each second, until the start is there again."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    assert left(budget) == 10
    clock.advance(20)
    assert left(budget) == 4
    clock.advance(600)
    assert left(budget) == 10


async def calls(chain: Chain, services: Services, times: int) -> None:
    for _ in range(times):
        await serve([], make_call("hi", services=services), chain=chain)


@pytest.mark.anyio
async def test_quiet_night() -> None:
    """A thousand dead calls after ten idle minutes cost no more than a thousand fresh ones."""
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
async def test_refused_calls_earn_nothing(policies: list[Policy]) -> None:
    """A call that a breaker did not let through has cost its upstream nothing, and pays for no retry there."""
    services = make_services(upstreams=("a", "b") if len(policies) > 1 else ("a",))
    upstream = ScriptedUpstream(*[[REFUSED], ["fine"]] * 200 if len(policies) > 1 else [[REFUSED]])
    chain = Chain(policies, upstream, services)
    await calls(chain, services, 200)

    assert left(chain._retries.of("a")) == 10
    assert left(chain._retries.of("b")) == (30 if len(policies) > 1 else 10)
