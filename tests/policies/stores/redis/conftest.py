"""Stores on one server, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from redis_script import ScriptRunner
from redis_server import RedisServer, with_own_prefix

from policies.stores.redis.store import RedisStore
from policies.testing import FakeClock


@pytest.fixture
def prefix() -> str:
    """Give a prefix that no other test uses."""
    return with_own_prefix("").removeprefix("?prefix=")


@pytest.fixture
def clock() -> FakeClock:
    """Give the clock of the stores."""
    return FakeClock(1_800_000_000.0)


@pytest.fixture
async def opened(redis: RedisServer, prefix: str, clock: FakeClock) -> AsyncIterator[Callable[[], RedisStore]]:
    """Give a function that opens a store of another process on the same counters."""
    stores: list[RedisStore] = []

    def new() -> RedisStore:
        stores.append(RedisStore(redis.url, prefix=prefix, clock=clock))
        return stores[-1]

    yield new
    for store in stores:
        await store.aclose()


@pytest.fixture
async def runner(redis: RedisServer, prefix: str, clock: FakeClock) -> AsyncIterator[ScriptRunner]:
    """Give the script itself, at the time of the clock when the test begins."""
    found = ScriptRunner(redis.url, prefix, now=round(clock.now * 1_000_000))
    yield found
    await found.client.aclose()
