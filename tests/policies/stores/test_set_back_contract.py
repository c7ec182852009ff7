"""What every store guarantees after its clock was ahead for hours and is right again: places in groups, and releases."""

from __future__ import annotations

import pytest
from claims import chosen_by_client, rate, reserve

from policies.api.claim import Claim
from policies.api.store import Store
from policies.api.window import Sliding
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio

HOUR_SECONDS = 3_600
WINDOW_SECONDS = 60.0
OTHER_COUNTERS = 300
"""More than a store removes at once."""
AHEAD = pytest.mark.parametrize("hours", [5, 50])


def user(name: str, limit: int = 10) -> Claim:
    """Return a claim of 10 by an identity of a group in which three have counters of their own."""
    return chosen_by_client(name, limit=limit, window=Sliding(WINDOW_SECONDS))


async def admitted(store: Store, names: str, prefix: str, limit: int = 10) -> str:
    """Reserve for each of *names*, and return those that were admitted."""
    grants = {name: await reserve(store, f"{prefix} {name}", user(name, limit)) for name in names}
    return "".join(name for name, grant in grants.items() if grant.refused is None)


@AHEAD
async def test_full_group_has_places_when_the_clock_is_right(store: Store, clock: FakeClock, hours: int) -> None:
    """Identities that were counted while the clock was ahead hold no places, and the group has as many as before."""
    clock.advance(hours * HOUR_SECONDS)
    assert await admitted(store, "abc", "ahead") == "abc"
    clock.advance(-hours * HOUR_SECONDS)
    (standing,) = await store.standings([user("d")])
    assert standing.used == 0
    assert await admitted(store, "defgh", "right") == "defg", "three counters, and one that all others share"
    assert await admitted(store, "abc", "again") == "", "what was taken meanwhile counts for one window more"


@AHEAD
async def test_places_are_free_one_window_after_the_clock_is_right(store: Store, clock: FakeClock, hours: int) -> None:
    """With a full group and its overflow counter from the future, identities have counters again after one window."""
    clock.advance(hours * HOUR_SECONDS)
    assert await admitted(store, "abcd", "ahead") == "abcd"
    clock.advance(-hours * HOUR_SECONDS)
    await admitted(store, "xyz", "right")
    clock.advance(WINDOW_SECONDS + 1)
    assert await admitted(store, "efghi", "later") == "efgh"


@AHEAD
async def test_counters_that_were_used_while_the_clock_was_ahead_hold_no_places(
    store: Store, clock: FakeClock, hours: int
) -> None:
    """Counters that are older than the wrong clock, and were used meanwhile, end one window after their last use."""
    assert await admitted(store, "abc", "before", limit=100) == "abc"
    clock.advance(hours * HOUR_SECONDS)
    assert await admitted(store, "abc", "ahead", limit=100) == "abc"
    clock.advance(-hours * HOUR_SECONDS)
    clock.advance(WINDOW_SECONDS + 2)
    await store.heartbeat()
    clock.advance(WINDOW_SECONDS + 2)
    await store.heartbeat()
    assert await admitted(store, "defgh", "after") == "defg"


async def remove_expired(store: Store, clock: FakeClock, name: str) -> None:
    """Make calls and send heartbeats until the store has examined each of the other counters that has expired."""
    for at in range(OTHER_COUNTERS):
        assert (await reserve(store, f"{name} {at}", rate(10**6, name="busy"))).refused is None
    for _ in range(5):
        await store.heartbeat()
        clock.advance(0.1)


@AHEAD
@pytest.mark.parametrize("examined", [True, False], ids=["examined meanwhile", "not examined"])
async def test_counters_that_all_were_used_while_the_clock_was_ahead_hold_no_places(
    store: Store, clock: FakeClock, hours: int, *, examined: bool
) -> None:
    """The same holds if none of a full group is removed while the clock is ahead, because others are removed before.

    Then the group has no new counter meanwhile. The store notices the wrong clock when it examines what has expired.
    """
    for first in range(0, OTHER_COUNTERS, 20):
        others = [rate(1, name=f"other {at}") for at in range(first, first + 20)]
        await reserve(store, f"others {first}", *others)
    clock.advance(1)
    assert await admitted(store, "abc", "before", limit=100) == "abc"
    clock.advance(hours * HOUR_SECONDS)
    assert await admitted(store, "abc", "ahead", limit=100) == "abc"
    if examined:
        await remove_expired(store, clock, "ahead")
    clock.advance(-hours * HOUR_SECONDS)
    for name in ("right", "later"):
        clock.advance(WINDOW_SECONDS + 2)
        await remove_expired(store, clock, name)
    assert await admitted(store, "defgh", "after") == "defg"


@AHEAD
async def test_active_identities_keep_their_counters(store: Store, clock: FakeClock, hours: int) -> None:
    """An identity that is active before, while and after the clock is ahead keeps its counter, and what it counts."""
    for moved in (0, hours, -hours):
        clock.advance(moved * HOUR_SECONDS)
        for name in "abc":
            assert (await reserve(store, f"{moved} {name}", user(name, 100))).refused is None
    await admitted(store, "defgh", "right")
    clock.advance(1)
    grants = [await reserve(store, f"after {name}", user(name, 100)) for name in "abc"]
    assert [grant.standings[0].used for grant in grants] == [30, 30, 30]


async def test_small_steps_back_change_no_group(store: Store, clock: FakeClock) -> None:
    """A clock that is set back by less than a second does not give a full group more places."""
    assert await admitted(store, "abc", "first") == "abc"
    clock.advance(-0.9)
    assert await admitted(store, "defg", "then") == "d"


@pytest.mark.parametrize("ahead", [5.0, 5 * 3_600.0, 50 * 3_600.0])
async def test_release_frees_no_other_call(store: Store, clock: FakeClock, ahead: float) -> None:
    """A call from before the clock was set back frees nothing that a later call has taken at the same time of the clock."""
    clock.advance(ahead)
    assert (await reserve(store, "early", rate(2))).refused is None
    clock.advance(-ahead)
    assert (await reserve(store, "look", rate(2, base=0))).refused is None
    clock.advance(ahead)
    grant = await reserve(store, "late", rate(2))
    assert grant.refused is None
    await store.release("early")
    (standing,) = await store.standings([rate(2)])
    assert standing.used == grant.standings[0].used
    await store.release("late")
    (standing,) = await store.standings([rate(2)])
    assert standing.used == grant.standings[0].used - 1


async def test_release_frees_nothing_of_a_later_counter(store: Store, clock: FakeClock) -> None:
    """A counter that was removed while the clock was ahead, and made again at the same time, keeps what others took."""
    assert (await reserve(store, "early", rate(1))).refused is None
    clock.advance(50 * HOUR_SECONDS)
    for call in range(3):
        await reserve(store, f"other {call}", rate(9, name="other"))
        await store.heartbeat()
        clock.advance(2)
    clock.advance(-50 * HOUR_SECONDS - 6)
    assert (await reserve(store, "late", rate(1))).refused is None
    await store.release("early")
    assert (await reserve(store, "more", rate(1))).refused == 0


async def test_calls_of_one_counter_are_released_together(store: Store, clock: FakeClock) -> None:
    """Two claims of a call on one new counter are both given back."""
    clock.advance(1)
    first, second = user("d", 100), user("e", 100)
    for name in "abc":
        await reserve(store, name, user(name, 100))
    grant = await reserve(store, "both", first, second)
    assert [each.used for each in grant.standings] == [20, 20]
    await store.release("both")
    assert [each.used for each in await store.standings([first, second])] == [0, 0]
