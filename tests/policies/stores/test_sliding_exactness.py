"""Sliding windows compared with an exact log of what was admitted: the promises of docs/stores.md, for any traffic.

Never more than the limit in any span; room returns at most 1/60 of the window late; the reported time is that of the room.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from claims import budget
from msgspec.structs import replace
from redis_server import with_own_prefix

from policies.api.claim import Claim, Sliding
from policies.api.store import Store
from policies.stores.opening import open_store
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio

MICROSECONDS = 1_000_000
SECONDS, LIMITS = (0.5, 1.0, 7.0, 60.0, 61.5, 3_600.0, 86_400.0), (1, 2, 5, 60, 1_000)
LATENESS = 1 + 1 / 60
STEPS = 120
PAUSES = (0.0, 0.0, 0.0, 1e-6, 1 / 1_000, 1 / 64, 1 / 10, 1.0, 1.2)
"""Parts of the window for which traffic pauses at most."""


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[list[Store]]:
    """Give the connections of two processes to the same counters; of memory there is one."""
    url = {"memory": "memory://", "sqlite": "sqlite:///s.db"}.get(request.param)
    url = url or with_own_prefix(request.getfixturevalue("redis").url)
    opened = [open_store(url, folder=tmp_path, clock=clock) for _ in range(1 if request.param == "memory" else 2)]
    yield opened
    for store in opened:
        await store.aclose()


class Traffic:
    """Random requests of one counter at *stores*, and the exact log of those that were admitted."""

    def __init__(self, seed: int, stores: list[Store], clock: FakeClock) -> None:
        self._random, self._stores, self._clock = random.Random(seed), stores, clock
        self._seconds, self._limit = self._random.choice(SECONDS), self._random.choice(LIMITS)
        self._name, self._calls = f"{seed}", 0
        self._log: list[tuple[int, int]] = []

    def _claim(self, amount: int) -> Claim:
        window = Sliding(self._seconds)
        return replace(budget(self._limit, amount), identity=self._name, unit="requests", window=window)

    def _admitted_in(self, seconds: float) -> int:
        after = round(self._clock.now * MICROSECONDS) - round(seconds * MICROSECONDS)
        return sum(amount for at, amount in self._log if at > after)

    async def _reserve(self, amount: int) -> float | None:
        """Reserve; return None if it was admitted, otherwise when there is room."""
        self._calls += 1
        store = self._random.choice(self._stores)
        grant = await store.reserve(f"{self._name}-{self._calls}", [self._claim(amount)])
        if grant.refused is not None:
            return grant.standings[0].resets_at
        self._log.append((round(self._clock.now * MICROSECONDS), amount))
        assert self._admitted_in(self._seconds) <= self._limit, "never more in any span"
        return None

    async def step(self) -> None:
        self._clock.advance(self._random.choice(PAUSES) * self._random.random() * self._seconds)
        amount = self._random.choice((1, 1, 1, self._random.randint(1, self._limit)))
        room_at = await self._reserve(amount)
        if room_at is None:
            return
        assert self._admitted_in(self._seconds * LATENESS) + amount > self._limit, "at most 1/60 late"
        assert room_at > self._clock.now
        if self._random.random() < 0.5:
            now, self._clock.now = self._clock.now, max(self._clock.now, room_at - self._seconds / 10_000)
            (standing,) = await self._random.choice(self._stores).standings([self._claim(amount)])
            assert standing.used + amount > self._limit, "no room before"
            self._clock.now = now
            return
        self._clock.now = room_at
        assert await self._reserve(amount) is None, "room at that time"


@pytest.mark.parametrize("seed", range(12))
async def test_traffic_equals_the_exact_log(stores: list[Store], clock: FakeClock, seed: int) -> None:
    """Random bursts and pauses break none of the three promises."""
    traffic = Traffic(seed, stores, clock)
    for _ in range(STEPS):
        await traffic.step()
