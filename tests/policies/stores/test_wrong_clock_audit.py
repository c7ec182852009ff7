"""Calls under a clock that jumps at random: afterwards today's spending is right, and no limit is locked for longer than its window."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path

import msgspec
import pytest
from claims import budget, chosen_by_client, rate
from redis_server import RedisServer, with_own_prefix

from policies.api.claim import Calendar, Claim, Sliding
from policies.api.store import Store
from policies.stores.opening import open_store
from policies.stores.redis.window_cache import WindowCache
from policies.testing import FakeClock

HOUR_SECONDS, LIMIT = 3_600.0, 10**6
BERLIN = Calendar("day", "Europe/Berlin")
BUDGETS = (
    budget(LIMIT, name="d"),
    budget(LIMIT, name="h", window="hour"),
    msgspec.structs.replace(budget(LIMIT, name="b"), window=BERLIN),
)
PER_MINUTE, PER_HOUR = rate(6), rate(20, HOUR_SECONDS, name="hourly")
MOST_HOURS_AHEAD = 50
"""Hours by which the clock is wrong at most. In odd examples 11, so that no reservation is charged for more than a day."""


def user(name: str, limit: int = 30) -> Claim:
    return chosen_by_client(name, limit=limit, window=Sliding(60.0))


class Audit:
    """Operations on *stores*, which share counters, and what their calls have spent by window."""

    def __init__(self, stores: list[Store], clock: FakeClock, seed: int) -> None:
        self._stores, self._clock, self._random = stores, clock, random.Random(seed)
        self._hours = 11 if seed % 2 else MOST_HOURS_AHEAD
        self._windows, self._offset, self._calls = WindowCache(), 0.0, 0
        self._running: dict[str, tuple[Store, list[tuple[Claim, int]]]] = {}
        self._spent: dict[tuple[str, int], int] = {}
        self._unsure: set[tuple[str, int]] = set()
        """Windows of calls that were charged for more than a day: they may have been charged in full."""

    def _start(self, claim: Claim) -> int:
        assert isinstance(claim.window, Calendar)
        return self._windows.at(claim.window, round(self._clock.now * 1e6))[0]

    def _jump(self, offset: float) -> None:
        self._clock.advance(offset - self._offset)
        self._offset = offset

    async def step(self) -> None:
        """Execute a random operation."""
        chosen = self._random.random()
        if chosen < 0.35:
            await self._reserve()
        elif chosen < 0.6 and self._running:
            await self._end(self._random.choice(sorted(self._running)), releases=self._random.random() < 0.3)
        elif chosen < 0.75:
            self._clock.advance(self._random.choice([0.1, 1, 2, 5, 30, 61, 600, 3_600]))
        elif chosen < 0.85:
            hours = self._random.choice([0, 0, self._random.uniform(-1, 1) * self._hours, self._hours])
            self._jump(self._random.choice([hours * HOUR_SECONDS, -1.0, 10.0, -70.0]))
        else:
            await self._random.choice(self._stores).heartbeat()

    async def _reserve(self) -> None:
        draw = self._random
        claims = [msgspec.structs.replace(each, base=draw.randrange(1, 50)) for each in BUDGETS if draw.random() < 0.6]
        claims += [each for each in (PER_MINUTE, PER_HOUR, user(draw.choice("abcdefgh"))) if draw.random() < 0.4]
        self._calls, store = self._calls + 1, draw.choice(self._stores)
        grant = await store.reserve(f"{self._calls}", claims)
        for claim, standing in zip(claims, grant.standings, strict=True):
            assert standing.used <= claim.limit
            if isinstance(claim.window, Sliding):
                assert standing.resets_at <= self._clock.now + claim.window.seconds * 66 / 64
        if grant.refused is None:
            calendar = [(each, self._start(each)) for each in claims if isinstance(each.window, Calendar)]
            self._running[f"{self._calls}"] = store, calendar

    async def _end(self, call: str, *, releases: bool = False) -> None:
        store, claims = self._running.pop(call)
        charges = {claim.key: 0 if releases else self._random.randrange(claim.base + 1) for claim, _ in claims}
        is_known: bool | None = self._hours != MOST_HOURS_AHEAD
        if releases:
            await store.release(call)
        else:
            is_known = await store.settle(call, charges)
            assert is_known or self._hours == MOST_HOURS_AHEAD
        for claim, start in claims:
            self._spent[claim.key, start] = self._spent.get((claim.key, start), 0) + charges[claim.key]
            if not is_known:
                self._unsure.add((claim.key, start))

    async def check(self) -> None:
        """Make the clock right, end all calls, and check spending and limits."""
        self._jump(0.0)
        for call in sorted(self._running):
            await self._end(call)
        store = self._stores[-1]
        for claim in BUDGETS:
            (standing,) = await store.standings([claim])
            window = claim.key, self._start(claim)
            assert standing.held == 0
            assert standing.used == self._spent.get(window, 0) or window in self._unsure
        await store.reserve("touch", [PER_MINUTE, PER_HOUR, user("another")])
        self._clock.advance(62)
        assert (await store.reserve("minute", [rate(6, base=6)])).refused is None
        # After a step back of less than a window an identity keeps its place for that much longer.
        self._clock.advance(62)
        for each in self._stores:
            await each.heartbeat()  # charges running calls of the other; their counters are removed a second later
        self._clock.advance(2)
        refused = [(await store.reserve(f"{at} new", [user(f"{at} new", 10)])).refused for at in range(5)]
        assert refused == [None, None, None, None, 0], "three counters, and one that all others share"
        self._clock.advance(HOUR_SECONDS)
        assert (await store.reserve("hour", [rate(20, HOUR_SECONDS, name="hourly", base=20)])).refused is None


async def _audit(url: str, folder: Path, seed: int) -> None:
    clock = FakeClock(1_800_000_000.0 + seed * 250_000)
    stores = [open_store(url, folder=folder, clock=clock) for _ in range(1 if url == "memory://" else 2)]
    try:
        audit = Audit(stores, clock, seed)
        for _ in range(20 + seed * 37 % 100):
            await audit.step()
        await audit.check()
    finally:
        for store in stores:
            await store.aclose()


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
def test_clock_that_jumps_neither_locks_nor_forgets(request: pytest.FixtureRequest, kind: str) -> None:
    """When the clock is right, today's spending is what was charged today, and each limit and group has room after a window."""
    url = {"memory": "memory://", "sqlite": "sqlite:///s.db"}.get(kind)
    if url is None:
        server: RedisServer = request.getfixturevalue("redis")
        url = server.url
    for seed in range(60):
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(_audit(with_own_prefix(url) if kind == "redis" else url, Path(folder), seed))
