"""Sentinels replace a Redis primary under calls: each call is counted once, and calls go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from redis_sentinel import RedisSentinels, redis_sentinels
from redis_server import MISSING, SERVER
from store_callers import calling

from policies.api.store import Store
from policies.stores.opening import open_store
from policies.stores.redis.servers.url import MAX_WAIT_MS

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(SERVER is None, reason=MISSING)]

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def running() -> Iterator[RedisSentinels]:
    with redis_sentinels() as sentinels:
        yield sentinels


@pytest.fixture
def sentinels(running: RedisSentinels) -> RedisSentinels:
    """Return the servers of all tests, in order."""
    running.restore()
    return running


@pytest.fixture
async def store(sentinels: RedisSentinels) -> AsyncIterator[Store]:
    """Yield a store that waits for replicas as long as it can: a failover forgets what a busy one acknowledges too late."""
    opened = open_store(f"{sentinels.url}?prefix={uuid4().hex}&wait={MAX_WAIT_MS}", folder=Path(), clock=lambda: NOW)
    yield opened
    await opened.aclose()


async def test_calls_continue_after_the_primary_is_killed(sentinels: RedisSentinels, store: Store) -> None:
    """When the primary is killed, calls are admitted by its replica, and by the first one after the second died."""
    async with calling(store) as callers:
        for _ in range(2):
            primary = await asyncio.to_thread(lambda: sentinels.primary)
            await asyncio.to_thread(primary.until_waits)
            primary.kill()
            await asyncio.to_thread(sentinels.promoted, primary)
            await callers.more()
            primary.revive()
            await asyncio.to_thread(sentinels.settled)


async def test_calls_continue_after_the_primary_is_suspended(sentinels: RedisSentinels, store: Store) -> None:
    """A primary that keeps its connections and answers nothing is left for the promoted one, and not used when it wakes."""
    async with calling(store) as callers:
        primary = await asyncio.to_thread(lambda: sentinels.primary)
        await asyncio.to_thread(primary.until_waits)
        primary.suspend()
        await asyncio.to_thread(sentinels.promoted, primary)
        await callers.more()
        primary.resume()
        await asyncio.to_thread(sentinels.settled)
        await callers.more()


async def test_calls_continue_after_a_demotion(sentinels: RedisSentinels, store: Store) -> None:
    """A primary that has become a replica refuses writes; it is left for the new one."""
    async with calling(store) as callers:
        await asyncio.to_thread(sentinels.demote)
        await callers.more()


async def test_any_sentinel_is_enough_at_start(sentinels: RedisSentinels, store: Store) -> None:
    """Sentinels that do not answer are skipped."""
    for each in sentinels.sentinels[:2]:
        each.kill()
    async with calling(store):
        pass
