"""Calls whose prompt and answer are not read cost a fixed number of tokens."""

from __future__ import annotations

import pytest

from policies import Budget, Call, MaxTokens, Rejection, Trim
from policies.api.requests.request_form import PRICED_RELAY_REQUEST, RELAYED_REQUEST
from policies.api.usage import Usage
from policies.builtin.fixed_cost import FixedCost
from policies.builtin.prices import Price
from policies.testing import make_call

pytestmark = pytest.mark.anyio

PRICES = {"cheap": Price(1.0, 2.0), "dear": Price(30.0, 10.0)}


def relayed(model: str = "", tokens: int = 2_000) -> Call:
    operation = PRICED_RELAY_REQUEST if tokens else RELAYED_REQUEST
    call = make_call("", operation=operation, tokens_each=tokens)
    call.body = {"model": model} if model else {}
    return call


async def lease_of(policy: Budget, model: str = "") -> FixedCost:
    lease = await policy.admit(relayed(model))
    assert isinstance(lease, FixedCost)
    return lease


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage(), 0),
        (Usage(unreported=1), 2_000),
        (Usage(5, 7), 2_000),
        (Usage(500, 2_500), 3_000),
        (Usage(unreported=1) + Usage(500, 2_500), 5_000),
    ],
)
async def test_tokens_are_the_higher_of_both(usage: Usage, cost: int) -> None:
    """Each attempt that may have worked costs `tokens_each`, or its report if that is more; one that did not, nothing."""
    lease = await lease_of(Budget(tokens=10_000, name="b"))
    (claim,) = lease.claims()
    assert (claim.base, claim.per_token, claim.unit) == (2_000, 0, "tokens")
    assert lease.charge(claim, usage) == cost


@pytest.mark.parametrize(("model", "reserved"), [("cheap", 4_000), ("dear", 60_000), ("", 60_000)])
async def test_dollars_have_the_highest_price(model: str, reserved: int) -> None:
    """In dollars each token has the higher price of input and output; without a model, that of the dearest."""
    lease = await lease_of(Budget(usd=1.0, prices=PRICES, name="b"), model)
    (claim,) = lease.claims()
    assert (claim.base, claim.unit, claim.limit) == (reserved, "usd", 1_000_000)
    assert lease.charge(claim, Usage(unreported=1)) == reserved


async def test_models_without_a_price_are_refused() -> None:
    """A call for a model without a price is refused."""
    with pytest.raises(Rejection) as caught:
        await lease_of(Budget(usd=1.0, prices=PRICES, name="b"), "other")
    assert (caught.value.status, caught.value.code) == (400, "model_not_priced")


async def test_ceilings_do_not_write_fields() -> None:
    """A ceiling cannot be written into a body that is not read; `request` bounds `tokens_each` instead."""
    call = relayed("m")
    await MaxTokens(output=5, request=2_000).admit(call)
    await Trim(max_messages=1).admit(call)
    assert call.body == {"model": "m"}
    with pytest.raises(Rejection) as caught:
        await MaxTokens(output=5, request=1_999).admit(call)
    assert caught.value.code == "request_too_large"


async def test_routes_that_generate_nothing_cost_no_tokens() -> None:
    """A relayed call without `tokens_each` has no claim."""
    assert await Budget(tokens=10_000, name="b").admit(relayed("m", 0)) is None
