"""What every store guarantees about sliding windows."""

from __future__ import annotations

import pytest
from claims import rate, reserve
from stored import Opened

from policies.api.store import Store
from policies.api.window import MAX_EXACT_LIMIT
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio

OBJECTS_PER_ENTRY = 4
"""Most objects that the memory store needs for an entry; a key, two numbers and a tuple."""


async def test_no_span_exceeds_the_limit(store: Store, clock: FakeClock) -> None:
    """No span of a window counts more than the limit; all may come at once; a request expires exactly one window later."""
    for call in range(3):
        assert (await reserve(store, f"a{call}", rate(3))).refused is None
    clock.advance(59.999)
    grant = await reserve(store, "b", rate(3))
    assert grant.refused == 0
    assert grant.standings[0].resets_at == pytest.approx(clock.now + 0.001)
    clock.advance(0.001)
    assert [(await reserve(store, f"c{call}", rate(3))).refused for call in range(4)] == [None, None, None, 0]


async def test_refused_calls_are_not_counted(store: Store, clock: FakeClock) -> None:
    """A refused call does not delay the time at which the next one fits."""
    await reserve(store, "a", rate(1))
    for call in range(50):
        clock.advance(1)
        assert (await reserve(store, f"b{call}", rate(1))).refused == 0
    clock.advance(10)
    assert (await reserve(store, "c", rate(1))).refused is None


async def test_clock_that_steps_back_admits_nothing_more(store: Store, clock: FakeClock) -> None:
    """A clock that is set back does not empty the window, and one that is set forward again does not either."""
    await reserve(store, "a", rate(1))
    clock.advance(-3600)
    assert (await reserve(store, "b", rate(1))).refused == 0
    clock.advance(3600 + 59)
    assert (await reserve(store, "c", rate(1))).refused == 0


async def test_large_limit_is_exact_within_a_thousandth(store: Store, clock: FakeClock) -> None:
    """A limit above MAX_EXACT_LIMIT is never exceeded in any span, and used to 99 % at least."""
    limit = 5 * MAX_EXACT_LIMIT
    moments: list[float] = []
    for call in range(3000):
        clock.advance(0.05)
        if (await reserve(store, f"{call}", rate(limit, 60, base=10))).refused is None:
            moments.append(clock.now)
    worst = max(sum(10 for x in moments if start <= x < start + 60) for start in moments[::20])
    assert limit * 0.99 < worst <= limit


async def test_log_of_a_large_limit_is_bounded(opened: Opened, clock: FakeClock) -> None:
    """A sliding window keeps at most MAX_EXACT_LIMIT entries and one, however many requests it counts."""
    store, limit = opened.store, 3 * MAX_EXACT_LIMIT
    await store.ping()  # creates the file
    before = await opened.kept()
    admitted = 0
    for call in range(limit + 100):
        clock.advance(0.015)
        admitted += (await reserve(store, f"{call}", rate(limit))).refused is None
        await store.settle(f"{call}", {})
    assert admitted == limit
    kept = await opened.kept() - before
    assert kept <= (MAX_EXACT_LIMIT + 1) * (OBJECTS_PER_ENTRY if opened.kind == "memory" else 1)


async def test_requests_that_share_an_entry_expire_with_the_newest(store: Store, clock: FakeClock) -> None:
    """Requests that share an entry expire with the newest of them, and each of them can be released."""
    coarse, look = rate(2 * MAX_EXACT_LIMIT), rate(2 * MAX_EXACT_LIMIT, base=0)
    for call in range(3):
        await reserve(store, f"{call}", coarse)
        clock.advance(0.01)
    for used in (3, 2):
        standing = (await reserve(store, f"look {used}", look)).standings[0]
        assert standing.used == used
        assert standing.resets_at == pytest.approx(clock.now + 60 - 0.01, abs=1e-5)
        await store.release("0")


async def test_log_of_any_length_counts_each_request(store: Store, clock: FakeClock) -> None:
    """A sliding counter counts each request for one window, also when others are released in between."""
    moments = {}
    for call in range(300):
        clock.advance(0.5)
        assert (await reserve(store, f"{call}", rate(200))).refused is None
        moments[call] = clock.now
        if call % 7 == 3:
            await store.release(f"{call - 3}")
            del moments[call - 3]
        moments = {call: at for call, at in moments.items() if at > clock.now - 60}
        standing = (await reserve(store, "full", rate(200, base=201))).standings[0]
        assert standing.used == len(moments)
    assert standing.resets_at == pytest.approx(clock.now + 60)
