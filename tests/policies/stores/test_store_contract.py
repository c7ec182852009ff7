"""What every store guarantees about reservations, charges and calendar windows: one suite for all of them."""

from __future__ import annotations

import msgspec
import pytest
from claims import DAY_SECONDS, budget, rate, reserve, totals

from policies.api.claim import Claim, counter_key
from policies.api.store import ReservationGone, Store
from policies.api.window import Calendar, Sliding, Window
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio


async def test_settlement_replaces_the_reservation_by_the_charge(store: Store) -> None:
    """A reservation counts against its limit until it is settled; then its charge does."""
    grant = await reserve(store, "1", budget(100, 60))
    assert (grant.refused, grant.standings[0].used, grant.standings[0].left) == (None, 60, 40)
    assert (await reserve(store, "2", budget(100, 41))).refused == 0
    await store.settle("1", {budget(100).key: 25})
    assert await totals(store) == [(25, 0)]
    assert (await reserve(store, "3", budget(100, 75))).refused is None
    assert (await reserve(store, "4", budget(100, 1))).refused == 0


async def test_all_claims_are_reserved_or_none(store: Store) -> None:
    """If one claim does not fit, nothing is reserved from any, and the answer names the first that does not fit."""
    for _ in range(5):
        grant = await reserve(store, "x", rate(3), budget(100, 50), budget(10, 50, name="small"))
        assert (grant.refused, [standing.used for standing in grant.standings]) == (2, [0, 0, 0])
    assert await totals(store) in ([], [(0, 0)])
    assert (await reserve(store, "y", rate(3, base=3), budget(100, 100))).refused is None


async def test_ceiling_is_lowered_to_what_fits(store: Store) -> None:
    """The ceiling is lowered to what fits into every claim, but not below the floor, or the wanted ceiling if that is less."""
    assert (await reserve(store, "1", budget(100, 5, per_token=1, floor=64), ceiling=400)).ceiling == 95
    await store.settle("1", {budget(1).key: 35})
    assert (await reserve(store, "2", budget(100, 5, per_token=1, floor=64), ceiling=400)).refused == 0
    assert (await reserve(store, "3", budget(100, 5, per_token=2, floor=20), ceiling=400)).ceiling == 30
    await store.settle("3", {budget(1).key: 0})
    two = [budget(100, 5, per_token=1), budget(50, 5, per_token=2, name="other")]
    assert (await reserve(store, "4", *two, ceiling=400)).ceiling == 22
    assert [each.reserved for each in await store.accounts()] == [27, 49]


async def test_ceiling_below_the_floor_is_not_lowered(store: Store) -> None:
    """A call that wants less than the floor is admitted with exactly that ceiling, or refused."""
    assert (await reserve(store, "1", budget(25, 5, per_token=1, floor=64), ceiling=20)).ceiling == 20
    await store.release("1")
    assert (await reserve(store, "2", budget(24, 5, per_token=1, floor=64), ceiling=20)).refused == 0


async def test_claims_on_one_counter_add_up(store: Store) -> None:
    """Two claims of one call on one counter add up."""
    assert (await reserve(store, "1", budget(100, 60), budget(100, 60))).refused == 0
    assert (await reserve(store, "2", budget(100, 60), budget(100, 40))).refused is None
    assert await totals(store) == [(0, 100)]


async def test_operations_are_idempotent(store: Store) -> None:
    """A reservation that is sent again reserves nothing more; a second settlement or release does nothing."""
    first = await reserve(store, "1", budget(100, 10, per_token=1), rate(5), ceiling=50)
    again = await reserve(store, "1", budget(100, 10, per_token=1), rate(5), ceiling=50)
    assert (first.ceiling, again.ceiling, again.standings[1].used) == (50, 50, 1)
    assert await totals(store) == [(0, 60)]
    for _ in range(2):
        await store.settle("1", {budget(1).key: 7})
    await store.release("1")
    await store.settle("unknown", {budget(1).key: 7})
    assert await totals(store) == [(7, 0)]


async def test_parts_add_to_one_reservation(store: Store) -> None:
    """Further parts add to a reservation, and one settlement ends them all."""
    await reserve(store, "1", budget(100, 40))
    await reserve(store, "1", budget(100, 40), part=1)
    assert (await reserve(store, "1", budget(100, 40), part=2)).refused == 0
    assert await totals(store) == [(0, 80)]
    await store.settle("1", {budget(1).key: 55})
    assert await totals(store) == [(55, 0)]


async def test_parts_may_leave_out_numbers(store: Store) -> None:
    """A part whose number does not follow that of the last one is ended with the others."""
    for part in (0, 2, 1, 5):
        await reserve(store, "1", budget(100, 10), part=part)
    assert await totals(store) == [(0, 40)]
    await store.settle("1", {budget(1).key: 35})
    assert await totals(store) == [(35, 0)]


async def test_charge_without_refund_is_at_least_the_reservation(store: Store) -> None:
    """Without a refund a reservation is charged at least in full; a claim without a charge is charged what it reserved."""
    await reserve(store, "1", budget(100, 40))
    await store.settle("1", {budget(1).key: 5}, refund=False)
    assert await totals(store) == [(40, 0)]
    await reserve(store, "2", budget(100, 10))
    await store.settle("2", {budget(1).key: 30}, refund=False)
    await reserve(store, "3", budget(100, 10))
    await store.settle("3", {})
    assert await totals(store) == [(80, 0)]


async def test_charge_may_exceed_the_limit(store: Store) -> None:
    """A charge beyond the limit is counted in full, and nothing more is admitted."""
    await reserve(store, "1", budget(100, 90))
    await store.settle("1", {budget(1).key: 130})
    assert await totals(store) == [(130, 0)]
    assert (await reserve(store, "2", budget(100, 0, per_token=1), ceiling=1)).refused == 0


async def test_counters_are_bounded(store: Store) -> None:
    """A counter never exceeds 2**53 - 1 and a charge is never negative, whatever an upstream reports."""
    for call in range(3):
        await reserve(store, f"{call}", budget(2**53 - 1, 1))
        await store.settle(f"{call}", {budget(1).key: 10**30})
    assert await totals(store) == [(2**53 - 1, 0)]
    await reserve(store, "x", budget(2**53 - 1, 0, name="other"))
    await store.settle("x", {budget(1, name="other").key: -5})
    assert (0, 0) in await totals(store)


async def test_settlement_charges_the_window_of_the_reservation(store: Store, clock: FakeClock) -> None:
    """A charge is counted in the window that was reserved from, also after the next window has begun."""
    clock.advance(DAY_SECONDS - clock.now % DAY_SECONDS - 600)
    await reserve(store, "1", budget(100, 90))
    clock.advance(1200)
    assert (await reserve(store, "2", budget(100, 90))).refused is None
    await store.settle("1", {budget(1).key: 50})
    assert await totals(store) == [(0, 90)]
    clock.advance(-1200)
    assert await totals(store) == [(50, 0)]


async def test_further_part_is_counted_in_the_window_of_the_first(store: Store, clock: FakeClock) -> None:
    """A part that is reserved after midnight takes from the day of the first part, and the settlement charges that day."""
    clock.advance(DAY_SECONDS - clock.now % DAY_SECONDS - 600)
    await reserve(store, "1", budget(100, 60))
    clock.advance(1200)
    assert (await reserve(store, "2", budget(100, 90))).refused is None
    assert (await reserve(store, "1", budget(100, 41), part=1)).refused == 0
    grant = await reserve(store, "1", budget(100, 0, per_token=1), ceiling=50, part=1)
    assert (grant.refused, grant.ceiling, grant.standings[0].used) == (None, 40, 100)
    assert await totals(store) == [(0, 90)]
    await store.settle("1", {budget(1).key: 95})
    assert await totals(store) == [(0, 90)]
    clock.advance(-1200)
    assert await totals(store) == [(95, 0)]


async def test_release_gives_everything_back(store: Store) -> None:
    """A release gives back all that was reserved, from sliding windows too."""
    await reserve(store, "1", rate(1), budget(100, 100))
    assert (await reserve(store, "2", rate(1))).refused == 0
    await store.release("1")
    await store.release("1")
    assert (await reserve(store, "3", rate(1), budget(100, 100))).refused is None


async def test_further_part_needs_a_reservation(store: Store) -> None:
    """A further part of a call without a reservation raises and reserves nothing: it would never be settled."""
    await reserve(store, "1", budget(100, 10))
    await store.settle("1", {})
    with pytest.raises(ReservationGone):
        await reserve(store, "1", budget(100, 10), part=1)
    assert await totals(store) == [(10, 0)]


async def test_ceiling_of_a_claim_in_dollars_is_exact(store: Store) -> None:
    """A claim in dollars fits with the highest ceiling that its limit pays for, to the last token."""
    claim = Claim(
        policy="m", identity="t", unit="usd", limit=1000, window=Calendar("day"), base=1, per_token=600_000, floor=64
    )
    grant = await reserve(store, "1", claim, ceiling=100_000)
    assert (grant.ceiling, grant.standings[0].used) == (1665, 1000)


def test_counter_keys_are_distinct() -> None:
    """A counter's key depends on policy, identity, unit and window alone, and the cache of keys is bounded."""
    windows: list[Window] = [
        Sliding(60.0),
        Sliding(0.5),
        Calendar("day"),
        Calendar("day", "Europe/Berlin"),
        Calendar("month"),
    ]
    claims = [
        Claim(policy=policy, identity=name, unit=unit, limit=9, window=window, base=1)
        for policy in ("a", "b")
        for name in ("", "t", "b")
        for unit in ("tokens", "usd")
        for window in windows
    ]
    names = [claim.key for claim in claims]
    assert len(set(names)) == len(claims)
    assert names == [claim.key for claim in claims]
    assert names[:3] == [
        "a\x1f\x1ftokens\x1fsliding@60",
        "a\x1f\x1ftokens\x1fsliding@0.5",
        "a\x1f\x1ftokens\x1fday@UTC",
    ]
    assert (
        msgspec.structs.replace(claims[0], limit=1, base=5, per_token=2, max_identities=3, identity_group="c").key
        == names[0]
    )
    for at in range(5000):
        assert counter_key("a", f"{at}", "tokens", windows[0]) == f"a\x1f{at}\x1ftokens\x1fsliding@60"
    assert counter_key.cache_info().currsize <= 1024
