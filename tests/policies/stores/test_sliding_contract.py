"""What every store guarantees about sliding windows."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from claims import rate, reserve
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_server import RedisServer, with_own_prefix
from ring_model import RingModel
from stored import Opened

from policies.api.store import Store
from policies.stores.opening import open_store
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio
CELL_SECONDS = 60 / 64
OBJECTS_OF_A_RING = 80
"""Most objects that the memory store adds for a counter, its key and its calls."""
BYTES_OF_A_TOTAL = 8
"""A larger total takes some more bytes in the file."""


async def test_no_span_exceeds_the_limit(store: Store, clock: FakeClock) -> None:
    """No span of a window counts more than the limit; all may come at once; a request expires at most window/60 late."""
    for call in range(3):
        assert (await reserve(store, f"a{call}", rate(3))).refused is None
    clock.advance(60)
    grant = await reserve(store, "b", rate(3))
    assert grant.refused == 0
    assert clock.now <= grant.standings[0].resets_at <= clock.now + 1
    clock.now = grant.standings[0].resets_at
    assert [(await reserve(store, f"c{call}", rate(3))).refused for call in range(4)] == [None, None, None, 0]


async def test_refused_calls_are_not_counted(store: Store, clock: FakeClock) -> None:
    """A refused call does not delay the time at which the next one fits."""
    await reserve(store, "a", rate(1))
    for call in range(50):
        clock.advance(1)
        assert (await reserve(store, f"b{call}", rate(1))).refused == 0
    clock.advance(11)
    assert (await reserve(store, "c", rate(1))).refused is None


async def test_release_of_an_expired_request_frees_nothing(store: Store, clock: FakeClock) -> None:
    """A call that is released after its window frees nothing of a later call, which took from the same slot of the ring."""
    for call in ("early", "middle", "late"):
        assert (await reserve(store, call, rate(3))).refused is None
        clock.advance(65 * CELL_SECONDS / 2)
    clock.advance(-65 * CELL_SECONDS / 2)
    await store.release("early")
    (standing,) = await store.standings([rate(3)])
    assert standing.used == 2


@pytest.mark.parametrize("hours", [5, 50])
async def test_clock_that_was_ahead_locks_no_limit(store: Store, clock: FakeClock, hours: int) -> None:
    """What was taken while the clock was ahead expires one window after the clock is right again, and counts until then."""
    clock.advance(3600 * hours)
    await reserve(store, "a", rate(1))
    clock.advance(-3600 * hours)
    grant = await reserve(store, "b", rate(1))
    assert grant.refused == 0
    assert clock.now + 59 < grant.standings[0].resets_at <= clock.now + 61
    clock.now = grant.standings[0].resets_at
    assert (await reserve(store, "c", rate(1))).refused is None


async def test_clock_that_steps_back_admits_nothing_more(store: Store, clock: FakeClock) -> None:
    """A clock that is set back does not empty the window, in which older requests keep their time."""
    await reserve(store, "a", rate(2))
    clock.advance(40)
    await reserve(store, "b", rate(2))
    clock.advance(-20)
    assert (await reserve(store, "c", rate(2))).refused == 0
    clock.advance(41)  # the first is 61 seconds old, the second one at most as old as the step back
    assert [(await reserve(store, f"d{call}", rate(2))).refused for call in range(2)] == [None, 0]


async def test_large_limit_is_used_to_a_sixtieth(store: Store, clock: FakeClock) -> None:
    """Under a constant load that is too high, no span exceeds the limit, and at least 59/60 of it are admitted."""
    limit = 6_000
    moments: list[float] = []
    for call in range(4000):
        clock.advance(0.05)
        if (await reserve(store, f"{call}", rate(limit, 60, base=10))).refused is None:
            moments.append(clock.now)
        await store.settle(f"{call}", {})
    worst = max(sum(10 for x in moments if start <= x < start + 60) for start in moments[::20])
    assert worst <= limit
    assert len(moments) * 10 >= limit * (200 / 60) * 59 / 60 - limit / 60


async def test_counter_has_a_constant_size(opened: Opened, clock: FakeClock) -> None:
    """A sliding counter takes as much room for thousands of requests as for one in each cell of its window."""
    store = opened.store
    for call in range(70):
        clock.advance(CELL_SECONDS)
        await reserve(store, f"first {call}", rate(100_000))
        await store.settle(f"first {call}", {})
    await store.heartbeat()
    before = await opened.kept()
    assert before
    for call in range(3000):
        clock.advance(0.02)
        assert (await reserve(store, f"{call}", rate(100_000))).refused is None
        await store.settle(f"{call}", {})
    assert await opened.kept() - before <= {"memory": OBJECTS_OF_A_RING, "sqlite": BYTES_OF_A_TOTAL}.get(opened.kind, 0)


async def test_amounts_beyond_32_bits_are_counted(store: Store, clock: FakeClock) -> None:
    """A cell counts amounts of any size up to 2^53."""
    limit = 2**53 - 1
    for call, amount in enumerate((2**31, 2**32, 2**40, 2**32)):
        clock.advance(CELL_SECONDS)
        assert (await reserve(store, f"{call}", rate(limit, base=amount))).refused is None
    await store.release("1")
    standing = (await reserve(store, "look", rate(limit, base=0))).standings[0]
    assert standing.used == 2**31 + 2**40 + 2**32


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [0.0, 0.1, CELL_SECONDS, 1.0, 7.0, 29.0, 60.0, 61.0, 500.0, -0.5, -5.0, -70.0, -18_000.0, 18_000.0]
        ),
        st.integers(0, 4),
        st.one_of(st.none(), st.integers(0, 50)),
    ),
    max_size=40,
)
"""Seconds by which the clock moves, the amount to reserve, and which of the earlier calls to release."""
JUMPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 5.0, -5.0, 18_000.0, -18_000.0]),
        st.integers(0, 2),
        st.one_of(st.none(), st.integers(0, 5)),
    ),
    max_size=12,
)
"""The same, for clocks that jump to and fro between few times, so that calls take from the same cells."""


@pytest.mark.parametrize(("kind", "examples"), [("memory", 300), ("sqlite", 60), ("redis", 60)])
def test_window_equals_its_model(request: pytest.FixtureRequest, kind: str, examples: int) -> None:
    """Any sequence of requests, releases and changes of the clock gives what the model gives."""
    url = {"memory": "memory://", "sqlite": "sqlite:///s.db"}.get(kind)
    if url is None:
        server: RedisServer = request.getfixturevalue("redis")
        url = server.url

    @settings(max_examples=examples, deadline=None)
    @given(st.one_of(STEPS, JUMPS))
    def check(steps: list[tuple[float, int, int | None]]) -> None:
        with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
            runner.run(_compare(url if kind != "redis" else with_own_prefix(url), Path(folder), steps))

    check()


async def _compare(url: str, folder: Path, steps: list[tuple[float, int, int | None]]) -> None:
    clock, model, limit = FakeClock(1_800_000_000.0), RingModel(60), 6
    store = open_store(url, folder=folder, clock=clock)
    try:
        for call, (seconds, amount, released) in enumerate(steps):
            clock.advance(seconds)
            if released is not None and call:
                await store.release(f"{released % call}")
                model.remove(f"{released % call}")
            used = model.used(clock.now)
            grant = await reserve(store, f"{call}", rate(limit, base=amount))
            assert (grant.refused is None) == (used + amount <= limit)
            if grant.refused is None:
                model.add(f"{call}", clock.now, amount)
                expected = model.first_expiry(clock.now) if model.used(clock.now) else clock.now
            else:
                expected = model.fits_at(clock.now, limit - amount)
            assert grant.standings[0].used == model.used(clock.now)
            assert grant.standings[0].resets_at == pytest.approx(max(expected, clock.now), abs=1e-5)
    finally:
        await store.aclose()
