"""Estimates of tokens."""

from __future__ import annotations

import pytest

from policies import Budget, Usage
from policies.api.tokens import Estimator, Size, streamed_tokens
from policies.testing import ScriptedUpstream, make_call, make_services, serve


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
