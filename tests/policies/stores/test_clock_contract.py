"""What every store guarantees if its clock is wrong for a while."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from claims import DAY_SECONDS, budget, chosen_by_client, rate, reserve
from redis_server import with_own_prefix

from policies.api.store import Store
from policies.api.window import Calendar
from policies.stores.opening import open_store
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio

HOUR_SECONDS = 3_600


@pytest.mark.parametrize("hours", [5, 50])
@pytest.mark.parametrize("window", ["minute", "hour", "day", "week", "month"])
async def test_clock_that_was_ahead_forgets_no_spending(
    store: Store, clock: FakeClock, hours: int, window: str
) -> None:
    """After the clock was ahead and is right again, what was spent before counts, and the limit is not locked."""
    claim = budget(100, 60, window=window)
    await reserve(store, "before", claim)
    await store.settle("before", {claim.key: 60})
    clock.advance(hours * HOUR_SECONDS)
    for call in range(5):
        await reserve(store, f"ahead {call}", claim)
        await store.settle(f"ahead {call}", {claim.key: 20})
        clock.advance(2)
        await store.heartbeat()
    clock.advance(-hours * HOUR_SECONDS - 10)
    await store.heartbeat()
    grant = await reserve(store, "after", budget(100, 41, window=window))
    assert grant.refused == 0
    assert grant.standings[0].used >= 60
    clock.now = grant.standings[0].resets_at + hours * HOUR_SECONDS
    assert (await reserve(store, "later", claim)).refused is None


@pytest.fixture(params=["sqlite", "redis"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[list[Store]]:
    """Give the stores of two processes on the same counters."""
    url = with_own_prefix(request.getfixturevalue("redis").url) if request.param == "redis" else "sqlite:///s.db"
    stores = [open_store(url, folder=tmp_path, clock=clock) for _ in range(2)]
    yield stores
    for each in stores:
        await each.aclose()


async def test_full_sliding_limit_is_free_one_window_after_the_clock_was_ahead(
    pair: list[Store], clock: FakeClock
) -> None:
    """What was taken while the clock was ahead expires one window after it is right, though all calls until then are refused.

    The other process writes meanwhile, so that nothing is remembered in memory alone.
    """
    clock.advance(5 * HOUR_SECONDS)
    for call in range(3):
        await reserve(pair[0], f"ahead {call}", rate(3))
    clock.advance(-5 * HOUR_SECONDS)
    refused = 0
    while (await reserve(pair[0], f"after {refused}", rate(3))).refused is not None and refused < 100:
        clock.advance(1)
        refused += 1
        await pair[1].heartbeat()
    assert refused in (60, 61)


@pytest.mark.parametrize(("days", "kept"), [(39, True), (41, False)])
async def test_closed_windows_are_kept_for_40_days(store: Store, clock: FakeClock, days: int, *, kept: bool) -> None:
    """The counter of a window that has closed is kept for 40 days, and removed soon after."""
    await reserve(store, "1", budget(100, 60))
    await store.settle("1", {budget(100).key: 60})
    day = clock.now
    clock.now = day + (days + 1) * DAY_SECONDS
    for call in range(3):
        await reserve(store, f"later {call}", budget(100, 1))
        clock.advance(2)
        await store.heartbeat()
    clock.now = day
    (found,) = await store.standings([budget(100, 0)])
    assert found.used == (60 if kept else 0)


async def test_minute_windows_are_kept_for_4_days(store: Store, clock: FakeClock) -> None:
    """The counters of minutes, of which there are many, are kept for 4 days."""
    claim, now = budget(100, 60, window="minute"), clock.now
    await reserve(store, "1", claim)
    await store.settle("1", {claim.key: 60})
    for days, used in ((3.9, 60), (4.1, 0)):
        clock.now = now + days * DAY_SECONDS
        for call in range(3):
            await reserve(store, f"{days} {call}", claim)
            clock.advance(2)
            await store.heartbeat()
        clock.now = now
        assert (await store.standings([claim]))[0].used == used


async def test_groups_have_room_again_after_the_clock_was_ahead(store: Store, clock: FakeClock) -> None:
    """Identities that were counted while the clock was ahead do not fill their group for the present window."""
    clock.advance(50 * HOUR_SECONDS)
    for name in "abcd":
        await reserve(store, f"ahead {name}", chosen_by_client(name, window=Calendar("day")))
    clock.advance(-50 * HOUR_SECONDS)
    for name in "efg":
        assert (await reserve(store, f"now {name}", chosen_by_client(name, window=Calendar("day")))).refused is None


async def test_sliding_window_may_hold_its_limit_once_more_after_a_clock_that_was_ahead(
    store: Store, clock: FakeClock
) -> None:
    """What was over by the wrong clock is forgotten, also by a refused call; the limit is taken once more, and no more."""
    await reserve(store, "before", rate(5, base=5))
    clock.advance(62)
    assert (await reserve(store, "ahead", rate(5), budget(1, 2))).refused == 1
    clock.advance(-61)
    assert (await reserve(store, "after", rate(5, base=5))).refused is None
    assert (await reserve(store, "more", rate(5))).refused == 0
