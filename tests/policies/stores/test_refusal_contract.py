"""Which limit every store names in a refusal, and what it reports of it: one suite for all of them."""

from __future__ import annotations

import pytest
from claims import DAY_SECONDS, budget, chosen_by_client, rate, reserve

from policies.api.claim import Claim
from policies.api.store import Grant, RefusalCase, Standing, Store
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio


def refusal(grant: Grant) -> Standing:
    """Return the state of the limit that refused."""
    assert grant.refused is not None
    return grant.standings[grant.refused]


async def spend(store: Store, claim: Claim, amount: int) -> None:
    """Spend *amount* of the limit of *claim*."""
    await reserve(store, f"spends {claim.policy}", claim)
    await store.settle(f"spends {claim.policy}", {claim.key: amount})


async def test_standing_tells_spent_from_held(store: Store) -> None:
    """A standing has what is spent and what running calls hold; a settlement turns the one into the other."""
    await spend(store, budget(100, 30), 25)
    admitted = (await reserve(store, "1", budget(100, 40))).standings[0]
    assert (admitted.used, admitted.spent, admitted.held, admitted.left, admitted.needed) == (65, 25, 40, 35, 0)

    refused = refusal(await reserve(store, "2", budget(100, 50)))
    assert (refused.used, refused.spent, refused.held, refused.needed, refused.case) == (65, 25, 40, 50, "held")
    await store.settle("1", {budget(1).key: 26})
    refused = refusal(await reserve(store, "3", budget(100, 50)))
    assert (refused.used, refused.spent, refused.held, refused.case) == (51, 51, 0, "spent")


async def test_parts_of_a_reservation_are_held(store: Store) -> None:
    """Each part of a reservation is held, and a released one is not."""
    await reserve(store, "1", budget(100, 40))
    assert (await reserve(store, "1", budget(100, 30), part=1)).standings[0].held == 70
    assert refusal(await reserve(store, "1", budget(100, 31), part=2)).case == "held"
    await store.release("1")
    assert (await reserve(store, "2", budget(100, 1))).standings[0].held == 1


async def test_repeated_reservation_reports_the_same(store: Store) -> None:
    """A reservation that is sent again is answered with the same spent and held amounts."""
    await spend(store, budget(100, 1), 5)
    first = await reserve(store, "1", budget(100, 60))
    assert await reserve(store, "1", budget(100, 60)) == first


@pytest.mark.parametrize(
    ("base", "case"),
    [(20, None), (21, "held"), (60, "held"), (61, "spent"), (100, "spent"), (101, "never_fits"), (10**6, "never_fits")],
)
async def test_case_of_a_refusal(store: Store, base: int, case: RefusalCase | None) -> None:
    """A claim above the limit never fits; one above what is not spent waits for the reset, any other for running calls."""
    await spend(store, budget(100, 40), 40)
    await reserve(store, "running", budget(100, 40))
    grant = await reserve(store, "x", budget(100, base))
    assert (None if grant.refused is None else refusal(grant).case) == case
    if case is not None:
        assert refusal(grant).needed == base


@pytest.mark.parametrize(("floor", "ceiling", "needed"), [(64, 400, 138), (64, 20, 50), (64, 0, 10), (0, 400, 10)])
async def test_needed_is_the_smallest_form_of_the_call(store: Store, floor: int, ceiling: int, needed: int) -> None:
    """A call needs its prompt and answers of `floor` tokens each, or of the ceiling that it asks for if that is less."""
    claim = budget(needed - 1, 10, per_token=2, floor=floor)
    assert refusal(await reserve(store, "x", claim, ceiling=ceiling)).needed == needed
    assert refusal(await reserve(store, "x", claim, ceiling=ceiling)).case == "never_fits"
    claim = budget(needed, 10, per_token=2, floor=floor)
    assert (await reserve(store, "y", claim, ceiling=ceiling)).refused is None


async def test_claims_on_one_counter_need_their_sum(store: Store) -> None:
    """Two claims of one call on one counter need the sum of both, so together they may never fit."""
    pair = (budget(100, 40, per_token=1, floor=15), budget(100, 40, per_token=1, floor=15))
    standing = refusal(await reserve(store, "x", *pair, ceiling=500))
    assert (standing.needed, standing.case) == (110, "never_fits")


async def test_shared_counter_of_identities_is_named_by_its_state(store: Store) -> None:
    """A claim that is counted in the overflow counter of its group is refused by the state of that counter."""
    for name in ("a", "b", "c", "d"):
        await reserve(store, name, chosen_by_client(name))
    standing = refusal(await reserve(store, "e", chosen_by_client("e")))
    assert (standing.held, standing.spent, standing.case) == (10, 0, "held")


async def test_sliding_window_holds_nothing(store: Store, clock: FakeClock) -> None:
    """What a sliding window has counted is spent until it expires, also while the call runs; too much never fits."""
    await reserve(store, "1", rate(2, base=2))
    clock.advance(10)
    standing = refusal(await reserve(store, "2", rate(2)))
    assert (standing.used, standing.spent, standing.held, standing.needed, standing.case) == (2, 2, 0, 1, "spent")
    assert standing.resets_at == pytest.approx(clock.now + 50)
    assert refusal(await reserve(store, "3", rate(2, base=3))).case == "never_fits"
    assert refusal(await reserve(store, "4", rate(2, base=3, name="empty"))).case == "never_fits"


HELD, SPENT, NEVER = budget(100, 10, name="held"), budget(100, 10, name="spent"), budget(9, 10, name="never")
SHORT, LONG = rate(1, 60, name="short"), rate(1, 3600, name="long")
MONTH = budget(100, 10, name="month", window="month")


@pytest.mark.parametrize(
    ("claims", "named"),
    [
        ([HELD, SPENT, NEVER], NEVER),
        ([NEVER, SPENT, HELD], NEVER),
        ([HELD, SPENT], SPENT),
        ([SPENT, HELD], SPENT),
        ([HELD, SHORT], SHORT),
        ([SHORT, NEVER, LONG], NEVER),
        ([SHORT, SPENT], SPENT),
        ([SPENT, SHORT], SPENT),
        ([SHORT, LONG], LONG),
        ([LONG, SHORT], LONG),
        ([SPENT, MONTH, HELD], MONTH),
        ([MONTH, SPENT], MONTH),
        ([HELD, budget(100, 20, name="held")], HELD),
    ],
)
async def test_refusal_names_the_limit_that_lasts_longest(
    store: Store, clock: FakeClock, claims: list[Claim], named: Claim
) -> None:
    """Of the limits that do not fit, the one that keeps the call out for longest refuses, whatever their order."""
    clock.advance(DAY_SECONDS / 2 - clock.now % DAY_SECONDS)
    for claim in (SPENT, MONTH):
        await spend(store, claim, 95)
    await reserve(store, "running", budget(100, 95, name="held"), SHORT, LONG)
    grant = await reserve(store, "x", *claims)
    assert grant.refused == claims.index(named)
    assert [standing.needed > 0 for standing in grant.standings] == [claim is named for claim in claims]


async def test_equal_limits_are_named_in_their_order(store: Store) -> None:
    """Of limits that refuse for as long, the first refuses; one that fits never does."""
    others = budget(1000, 10, name="roomy"), budget(5, 10, name="a"), budget(4, 10, name="b")
    assert (await reserve(store, "x", *others)).refused == 1
