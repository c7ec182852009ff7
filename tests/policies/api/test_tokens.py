"""Estimates of tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Budget, Usage
from policies.api.decoding.token_counts import streamed_tokens
from policies.api.tokens import REMEMBER_SECONDS, Estimator, Size
from policies.testing import FakeClock, ScriptedUpstream, make_call, make_services, serve


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("a", 1), (" internation", 1), ("x" * 13, 4), ("x" * 40, 10), ("\U0001f642" * 12, 12), ("\U0001f642", 1)],
)
def test_short_piece_is_one_token(text: str, tokens: int) -> None:
    """A streamed piece counts as one token, unless it is too long for one."""
    assert streamed_tokens(text) == tokens


def test_estimate_follows_reported_usage() -> None:
    """The estimate of a model follows reported usage slowly and within bounds; small prompts and old models are ignored."""
    estimator, size = Estimator(), Size(3500, 1)
    assert estimator.estimate("m", size) == 1004
    for _ in range(100):
        estimator.learn("m", size, 2004)
    assert 1900 < estimator.estimate("m", size) <= 2004
    assert estimator.estimate("other", size) == 1004
    for _ in range(100):
        estimator.learn("wild", size, 10**9)
    assert estimator.estimate("wild", size) <= 3504
    estimator.learn("tiny", Size(10, 1), 500)
    assert estimator.estimate("tiny", size) == 1004
    estimator.learn("x" * 257, size, 2004)
    assert estimator.estimate("x" * 257, size) == 1004
    count = 5_000
    for at in range(count):
        estimator.learn(f"m{at}", size, 2004)
    corrected = [at for at in range(count) if estimator.estimate(f"m{at}", size) != 1004]
    assert corrected == list(range(count - 4_096, count))


def test_estimate_is_never_corrected_below_half() -> None:
    """Reports of tiny prompts lower the estimate to half of bytes / 3.5 at most."""
    estimator, size = Estimator(), Size(3500, 1)
    for _ in range(200):
        estimator.learn("m", size, 5)
    assert 502 <= estimator.estimate("m", size) <= 510


@pytest.mark.anyio
async def test_tenants_do_not_correct_the_estimates_of_each_other() -> None:
    """What upstream reports for the calls of one tenant changes the reservations of that tenant alone."""
    services, text = make_services(), "x" * 3_500
    policy = Budget(name="b", tokens=1_000_000)
    for _ in range(20):
        call = make_call(text, services=services, tenant="one")
        await serve([policy], call, ScriptedUpstream(["a"], usage=Usage(input=3_000, output=1)))
    reserved = {}
    for tenant in ("one", "two"):
        call = make_call(text, services=services, tenant=tenant, body={"max_tokens": 1})
        await serve([policy], call, ScriptedUpstream(["a"]))
        reserved[tenant] = call.standings[0][0].base
    assert reserved["two"] == 1_004
    assert reserved["one"] > 2_000


@given(
    reports=st.lists(
        st.tuples(st.sampled_from(["one", "other"]), st.integers(1, 40_000), st.integers(-5, 10**9)), max_size=60
    ),
    size=st.integers(0, 100_000),
)
def test_reports_correct_within_bounds_and_for_one_tenant(reports: list[tuple[str, int, int]], size: int) -> None:
    """Whatever upstream reports, an estimate stays between half of the shipped one and one token per byte."""
    estimator = Estimator(FakeClock())
    for tenant, length, reported in reports:
        estimator.learn("m", Size(length, 1), reported, tenant=tenant)
    shipped = Estimator().estimate("m", Size(size, 1))
    for tenant in ("one", "other"):
        estimate = estimator.estimate("m", Size(size, 1), tenant=tenant)
        assert shipped // 2 <= estimate <= size + 4
    assert estimator.estimate("m", Size(size, 1), tenant="third") == shipped


def test_another_tenants_reports_leave_a_long_prompt_affordable() -> None:
    """A prompt of 30 kB needs the same reservation whatever the calls of another tenant reported."""
    estimator, prompt = Estimator(FakeClock()), Size(30_000, 1)
    before = estimator.estimate("m", prompt, tenant="victim")
    for reported in (10**9, 300):
        for _ in range(500):
            estimator.learn("m", Size(3_000, 1), reported, tenant="attacker")
        assert estimator.estimate("m", prompt, tenant="victim") == before


def test_correction_is_forgotten_after_an_hour() -> None:
    """Wrong reports do not make a prompt unaffordable forever: without new ones the shipped estimate holds again."""
    clock = FakeClock()
    estimator, prompt = Estimator(clock), Size(30_000, 1)
    shipped = estimator.estimate("m", prompt, tenant="t")
    for _ in range(100):
        estimator.learn("m", prompt, 10**9, tenant="t")
    clock.advance(REMEMBER_SECONDS)
    corrected = estimator.estimate("m", prompt, tenant="t")
    clock.advance(1)
    assert (corrected > 3 * shipped, estimator.estimate("m", prompt, tenant="t")) == (True, shipped)
    estimator.learn("m", prompt, shipped, tenant="t")
    assert estimator.estimate("m", prompt, tenant="t") == pytest.approx(shipped, rel=0.01)


def test_one_tenants_models_displace_no_other_tenants_corrections() -> None:
    """A tenant that makes up models replaces its own pairs; the corrections of other tenants stay, and new ones find room."""
    estimator, size = Estimator(FakeClock()), Size(3_500, 1)
    victims = [(f"v{at}", f"m{model}") for at in range(20) for model in range(20)]
    for tenant, model in victims:
        estimator.learn(model, size, 3_000, tenant=tenant)
    for at in range(3 * Estimator.MAX_PAIRS):
        estimator.learn(f"invented {at}", size, 3_000, tenant="attacker")
    assert all(estimator.estimate(model, size, tenant=tenant) > 1_004 for tenant, model in victims)
    for at in range(100):
        estimator.learn(f"new {at}", size, 3_000, tenant="new")
    assert all(estimator.estimate(f"new {at}", size, tenant="new") > 1_004 for at in range(100))
    kept = sum(
        estimator.estimate(f"invented {at}", size, tenant="attacker") > 1_004 for at in range(3 * Estimator.MAX_PAIRS)
    )
    assert kept == Estimator.MAX_PAIRS - len(victims) - 100


@pytest.mark.anyio
async def test_trained_estimate_overspends_by_the_running_calls_alone() -> None:
    """A tenant that lowers its own estimates overspends at most by what its running prompts exceed their reservations."""
    services, limit = make_services(), 10_000
    policy = Budget(name="b", tokens=limit)
    for _ in range(60):
        call = make_call("x" * 700, services=services, tenant="t", body={"max_tokens": 1})
        await serve([policy], call, ScriptedUpstream(["a"], usage=Usage(input=10, output=1)))
    spent = []
    for _ in range(20):
        call = make_call("\U0001f98a" * 875, services=services, tenant="t", body={"max_tokens": 1})
        await serve([policy], call, ScriptedUpstream(["a"], usage=Usage(input=3_500, output=1)))
        (account,) = await services.store.accounts()
        spent.append(account.spent)
    assert spent[-1] == spent[-2], "the excess is charged, so later calls are refused"
    assert limit < spent[-1] <= limit + 3_501 - (3_500 // 7)
