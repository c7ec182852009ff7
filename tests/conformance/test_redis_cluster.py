"""A Redis cluster changes under calls: owners die, are demoted, and slots move. Each call is counted once, and calls go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from uuid import uuid4

import pytest
from redis_cluster import RedisCluster, redis_cluster, slot_of
from redis_server import MISSING, SERVER
from serving import settings_of, sidecar
from store_callers import ATTEMPT_PAUSE_SECONDS, MAX_ATTEMPTS, Callers, calling, until_taken
from wire import HEAD, Connection, sse, token, upstream

from policies.api.store import Store
from policies.stores.opening import open_store
from policies.stores.redis.servers.url import MAX_WAIT_MS

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(SERVER is None, reason=MISSING)]

NOW = 1_800_000_000.0
SERVING_STEPS = ("importing", "migrating", "all moved", "target knows", "all know")
"""Steps of a migration at which one node has all keys. Between them some keys are at the one and some at the other node."""


@pytest.fixture(scope="module")
def running() -> Iterator[RedisCluster]:
    with redis_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(running: RedisCluster) -> RedisCluster:
    """Return the cluster of all tests, with all nodes in order."""
    running.restore()
    return running


@pytest.fixture
def prefix() -> str:
    return uuid4().hex


@pytest.fixture
async def store(cluster: RedisCluster, prefix: str) -> AsyncIterator[Store]:
    """Yield a store that is configured with three nodes of the cluster.

    It waits for replicas as long as it can: a busy replica that acknowledges too late makes a failover forget writes.
    """
    url = f"{cluster.url(*cluster.nodes[:3])}?prefix={prefix}&wait={MAX_WAIT_MS}"
    opened = open_store(url, folder=Path(), clock=lambda: NOW)
    yield opened
    await opened.aclose()


async def test_calls_continue_after_the_owner_is_killed(cluster: RedisCluster, store: Store, prefix: str) -> None:
    """When the node with the counters is killed, calls are admitted by its replica, and by the first node after the second died."""
    slot = slot_of(prefix)
    async with calling(store) as callers:
        for _ in range(2):
            owner = await asyncio.to_thread(cluster.owner, slot)
            await asyncio.to_thread(owner.until_waits)
            owner.kill()
            await asyncio.to_thread(cluster.promoted, slot, owner)
            await callers.more()
            owner.revive()
            await asyncio.to_thread(cluster.settled)


async def test_calls_continue_after_the_owner_is_suspended(cluster: RedisCluster, store: Store, prefix: str) -> None:
    """A node that keeps its connections and answers nothing is left for the promoted one, and not used when it wakes."""
    slot = slot_of(prefix)
    async with calling(store) as callers:
        owner = await asyncio.to_thread(cluster.owner, slot)
        await asyncio.to_thread(owner.until_waits)
        owner.suspend()
        await asyncio.to_thread(cluster.promoted, slot, owner)
        await callers.more()
        owner.resume()
        await asyncio.to_thread(cluster.settled)
        await callers.more()


async def test_calls_continue_after_a_demotion(cluster: RedisCluster, store: Store, prefix: str) -> None:
    """A demoted master that still answers is left for the new one."""
    async with calling(store) as callers:
        await asyncio.to_thread(cluster.demote, slot_of(prefix))
        await callers.more()


async def test_calls_continue_while_the_slot_moves(cluster: RedisCluster, store: Store, prefix: str) -> None:
    """Calls are admitted at each step of a migration at which one node has all keys, and counted once at all others."""
    slot = slot_of(prefix)
    async with calling(store) as callers:
        for _ in range(2):
            target = await asyncio.to_thread(cluster.other_master, slot)
            await asyncio.to_thread(cluster.migrate, slot, target, lambda step: calls_at(callers, step))
            await asyncio.to_thread(cluster.settled)
        await callers.more()


def calls_at(callers: Callers, step: str) -> None:
    if step in SERVING_STEPS:
        callers.wait_for_more()


async def test_any_configured_node_is_enough_at_start(cluster: RedisCluster, prefix: str) -> None:
    """A store whose first nodes do not answer finds the counters by any other node of its list."""
    slot = slot_of(prefix)
    owner = cluster.owner(slot)
    away = cluster.replica_of(cluster.other_master(slot))
    living = next(node for node in cluster.nodes if node not in (owner, away))
    away.kill()
    store = open_store(f"{cluster.url(away, living)}?prefix={prefix}", folder=Path(), clock=lambda: NOW)
    async with aclosing(store), calling(store):
        pass


async def test_stream_is_settled_after_a_failover(cluster: RedisCluster, prefix: str, tmp_path: Path) -> None:
    """A stream that runs while its counters move to another node is charged once, and nothing stays reserved."""
    slot, opened = slot_of(prefix), asyncio.Event()

    async def slow(connection: Connection) -> None:
        await connection.send(HEAD)
        await connection.chunk(token("x"))
        await opened.wait()
        await connection.chunk(sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        usage = {"prompt_tokens": 5, "completion_tokens": 1}
        await connection.chunk(sse({"choices": [], "usage": usage}))
        await connection.chunk(b"data: [DONE]\n\n")
        await connection.send(b"0\r\n\r\n")

    text = (
        f'[store]\nurl = "{cluster.url(*cluster.nodes[:3])}?prefix={prefix}"\n'
        '[[policy]]\nuse = "budget"\ntokens = 1000\nwindow = "month"\n'
    )
    async with upstream(slow) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 100}
        client = await served.client()
        await client.post("/v1/chat/completions", body)
        assert (await client.head())[0] == 200
        owner = await asyncio.to_thread(cluster.owner, slot)
        owner.kill()
        await asyncio.to_thread(cluster.promoted, slot, owner)
        opened.set()
        await client.until(b"[DONE]")
        for _ in range(MAX_ATTEMPTS):
            await served.gateway._ledger.catch_up()
            account = await until_taken(served.account)
            if not account.reserved:
                break
            await asyncio.sleep(ATTEMPT_PAUSE_SECONDS)
    assert (account.spent, account.reserved) == (6, 0)
