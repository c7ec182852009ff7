"""What every store guarantees about standings, which are read without reserving."""

from __future__ import annotations

import msgspec
import pytest
from claims import DAY_SECONDS, budget, chosen_by_client, rate, reserve, totals
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.api.claim import Claim
from policies.api.store import Standing, Store
from policies.api.window import MAX_EXACT_LIMIT, Calendar, Sliding, Window
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio


def nothing(claim: Claim) -> Claim:
    """Return *claim* with an amount of 0."""
    return msgspec.structs.replace(claim, base=0)


async def standing(store: Store, claim: Claim) -> Standing:
    (found,) = await store.standings([claim])
    return found


async def test_standing_of_an_unused_counter_is_empty(store: Store, clock: FakeClock) -> None:
    """An unused limit has all of it left; a calendar window ends at its end, a sliding one has room now."""
    of_budget, of_rate = await store.standings([nothing(budget(100)), rate(3)])
    assert (of_budget.limit, of_budget.used, of_budget.held, of_budget.left) == (100, 0, 0, 100)
    assert 0 < of_budget.resets_at - clock.now <= DAY_SECONDS
    assert (of_rate.limit, of_rate.used, of_rate.held, of_rate.needed) == (3, 0, 0, 0)
    assert of_rate.resets_at == pytest.approx(clock.now)
    assert await store.standings([]) == []


async def test_standing_tells_spent_from_held(store: Store) -> None:
    """What running calls have reserved is held, what settled calls cost is spent; further reads change neither."""
    await reserve(store, "1", budget(100, 60))
    await reserve(store, "2", budget(100, 30))
    await store.settle("1", {budget(100).key: 25})
    for _ in range(5):
        found = await standing(store, nothing(budget(100)))
        assert (found.spent, found.held, found.left) == (25, 30, 45)
    assert await totals(store) == [(25, 30)]
    await store.release("2")
    assert (await standing(store, nothing(budget(100)))).held == 0


async def test_standing_has_the_limit_of_its_claim(store: Store) -> None:
    """Claims on one counter with different limits have one use and different remainders; none is below 0."""
    await reserve(store, "1", budget(100, 60))
    found = await store.standings([nothing(budget(limit)) for limit in (100, 70, 50)])
    assert [(each.limit, each.used, each.left) for each in found] == [(100, 60, 40), (70, 60, 10), (50, 60, 0)]


async def test_standing_equals_that_of_a_refusal(store: Store, clock: FakeClock) -> None:
    """A claim that does not fit has the numbers of its refusal: used, held, needed and when there is room."""
    for call in range(3):
        await reserve(store, f"{call}", rate(3), budget(100, 30))
        clock.advance(7)
    for claim in (rate(3), budget(100, 20), rate(3, base=2), rate(3, base=4)):
        refused = await reserve(store, "x", claim)
        assert refused.refused == 0
        assert await standing(store, claim) == refused.standings[0]


async def test_standing_leaves_expired_cells_out(store: Store, clock: FakeClock) -> None:
    """Cells that have expired do not count, although nothing writes that; room appears when the next one expires."""
    started = clock.now
    for call in range(3):
        await reserve(store, f"{call}", rate(3))
        clock.advance(20)
    clock.advance(1)
    found = await standing(store, rate(3))
    assert found.used == 2
    assert started + 80 <= found.resets_at <= started + 81
    clock.now = found.resets_at - 0.001
    assert (await standing(store, rate(3))).used == 2
    clock.advance(0.001)
    assert (await standing(store, rate(3))).used == 1
    clock.advance(21)
    found = await standing(store, rate(3))
    assert found.used == 0
    assert found.resets_at == pytest.approx(clock.now)


async def test_standing_of_a_closed_window_is_empty(store: Store, clock: FakeClock) -> None:
    """The counter of a calendar window that has ended does not count in the next one."""
    await reserve(store, "1", budget(100, 60))
    clock.advance(DAY_SECONDS)
    await store.heartbeat()
    assert (await standing(store, nothing(budget(100)))).used == 0


async def test_clock_that_steps_back_keeps_the_standing(store: Store, clock: FakeClock) -> None:
    """A clock that is set back does not empty a sliding window."""
    await reserve(store, "1", rate(1))
    clock.advance(-3600)
    assert (await standing(store, rate(1))).used == 1


@pytest.mark.parametrize("window", [Calendar("day"), Sliding(60.0)])
async def test_reading_gives_no_identity_a_counter(store: Store, window: Window) -> None:
    """Identities that were only read take no place in their group; beyond its bound they have the shared counter's standing."""
    for at in range(20):
        assert (await standing(store, chosen_by_client(f"read{at}", window=window))).used == 0
    for at in range(4):
        assert (await reserve(store, f"{at}", chosen_by_client(f"{at}", limit=100, window=window))).refused is None
    new, first, shared = await store.standings(
        [chosen_by_client(name, limit=100, window=window) for name in ("new", "0", "3")]
    )
    assert (new.used, first.used, shared.used) == (10, 10, 10)
    await reserve(store, "5", chosen_by_client("3", limit=100, window=window))
    assert (await standing(store, chosen_by_client("new", limit=100, window=window))).used == 20
    assert (await standing(store, chosen_by_client("0", limit=100, window=window))).used == 10


async def test_standing_of_a_large_limit_counts_shared_entries(store: Store, clock: FakeClock) -> None:
    """A sliding window whose requests share entries, and one with many entries, have the total of what is in the window."""
    limit = 5 * MAX_EXACT_LIMIT
    for call in range(600):
        clock.advance(0.2)
        await reserve(store, f"{call}", rate(limit, 60, base=3))
    found = await standing(store, rate(limit, 60, base=3))
    assert 299 * 3 <= found.used <= 301 * 3


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(1, 3), st.floats(0, 40)), max_size=12), asked=st.integers(1, 4))
async def test_standing_predicts_the_next_reservation(
    store: Store, clock: FakeClock, steps: list[tuple[int, float]], asked: int
) -> None:
    """After any calls, a claim fits if and only if its standing says so, and a refusal has the same standing."""
    clock.advance(10 * DAY_SECONDS)
    await store.heartbeat()
    for at, (amount, pause) in enumerate(steps):
        await reserve(store, f"{clock.now}.{at}", rate(6, base=amount))
        clock.advance(pause)
    claim = rate(6, base=asked)
    before = await standing(store, claim)
    grant = await reserve(store, f"{clock.now}.last", claim)
    assert (grant.refused is None) == (before.needed == 0) == (before.left >= asked)
    if grant.refused is not None:
        assert grant.standings[0] == before


async def test_part_after_the_window_never_resets_in_the_past(store: Store, clock: FakeClock) -> None:
    """A part that is counted in a window that has ended stands in a limit that resets now, not before."""
    claim = budget(100, 10, window="minute")
    await store.reserve("1", [claim])
    clock.advance(90)
    grant = await store.reserve("1", [claim], part=1)
    assert [each.used for each in grant.standings] == [20]
    assert [each.resets_at for each in grant.standings] == [grant.now]
