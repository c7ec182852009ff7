"""What the Redis store guarantees beyond the contract: the server's clock, outages, clusters, and operations that arrive late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from claims import totals
from redis.asyncio import Redis
from redis_server import MISSING, SERVER, RedisServer, free_port, redis_server, with_own_prefix
from script_links import command
from store_callers import MAX_ATTEMPTS

from policies.api.claim import Claim
from policies.api.store import ReservationGone, StoreDown
from policies.api.window import Calendar, Sliding
from policies.stores.batching.outage import RETRY_SECONDS
from policies.stores.redis.store import RedisStore
from policies.testing import FakeClock

WINDOW_SECONDS = 0.2
POLLS, POLL_SECONDS = 200, 0.05
"""Polls for the server's clock, which has no event; their number is bounded."""
pytestmark = [pytest.mark.anyio, pytest.mark.skipif(SERVER is None, reason=MISSING)]


def budget(limit: int, base: int, period: str = "day") -> Claim:
    return Claim(policy="b", identity="t", unit="tokens", limit=limit, window=Calendar(period), base=base)  # type: ignore[arg-type]  # a unit as a plain string


def rate(limit: int, seconds: float) -> Claim:
    return Claim(policy="r", identity="t", unit="requests", limit=limit, window=Sliding(seconds), base=1)


@pytest.fixture
async def store(redis: RedisServer) -> AsyncIterator[RedisStore]:
    prefix = with_own_prefix("").removeprefix("?prefix=")
    opened = RedisStore(redis.url, prefix=prefix)
    yield opened
    await opened.aclose()


async def test_server_clock_decides_about_windows(redis: RedisServer) -> None:
    """The server's clock decides about windows, also where the clock of the sidecar jumps."""
    jump = [0.0]
    store = RedisStore(redis.url, prefix=with_own_prefix("")[8:], monotonic=lambda: time.monotonic() + jump[0])
    jump[0] = -10 * 86_400.0
    grant = await store.reserve("1", [budget(100, 60, "minute"), rate(1, 60.0)])
    assert abs(grant.now - time.time()) < 5
    assert grant.standings[0].resets_at > grant.now
    jump[0] = 10 * 86_400.0
    assert (await store.reserve("2", [rate(1, 60.0)])).refused == 0
    await store.aclose()


async def test_sliding_window_by_the_clock_of_the_server(redis: RedisServer) -> None:
    """A request expires when its window has passed by the server's clock, and its counter is removed."""
    prefix = with_own_prefix("")[8:]
    store = RedisStore(redis.url, prefix=prefix)
    first = await store.reserve("1", [rate(1, WINDOW_SECONDS)])
    for _ in range(POLLS):
        second = await store.reserve("2", [rate(1, WINDOW_SECONDS)])
        if second.refused is None:
            break
        await asyncio.sleep(POLL_SECONDS)
    assert second.refused is None
    assert second.now - first.now >= WINDOW_SECONDS
    await store.settle("1", {})
    await store.settle("2", {})
    client: Any = Redis.from_url(redis.url, decode_responses=True)
    for _ in range(POLLS):
        await store.heartbeat()
        counters = set(await client.hkeys(f"{{{prefix}}}:c"))
        if counters == {"format", "generation", "period", "marks"}:
            break
        await asyncio.sleep(POLL_SECONDS)
    assert counters == {"format", "generation", "period", "marks"}
    assert await client.zrange(f"{{{prefix}}}:e", 0, -1) == await client.hkeys(f"{{{prefix}}}:h") == ["format"]
    await client.aclose()
    await store.aclose()


async def test_reservation_after_its_release_is_refused(store: RedisStore) -> None:
    """A reservation that arrives after its own release reserves nothing: it would never be settled."""
    await store.release("1")
    with pytest.raises(ReservationGone):
        await store.reserve("1", [budget(100, 60)])
    assert await totals(store) == []


async def test_cancelled_operation_is_completed(store: RedisStore) -> None:
    """A cancelled operation is completed, not left half done: what it reserved can be released."""
    for at in range(30):
        with anyio.move_on_after(at / 20_000):
            await store.reserve(f"{at}", [budget(10**6, 10)])
        await store.release(f"{at}")
    assert await totals(store) in ([], [(0, 0)])
    assert (await store.reserve("x", [budget(10**6, 10)])).refused is None


async def test_operation_of_a_cancelled_task_is_completed(store: RedisStore) -> None:
    """After a cancellation of the task itself nothing stays reserved either, and the connections remain usable."""
    for at in range(60):
        task = asyncio.create_task(store.reserve(f"{at}", [budget(10**6, 10)]))
        await asyncio.sleep(at / 40_000)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.release(f"{at}")
    assert await totals(store) in ([], [(0, 0)])


async def test_outage_fails_fast_and_ends_by_itself(tmp_path: Path) -> None:
    """An unreachable server is StoreDown with address and remedy, without the password; it is used again once it is back.

    For half a second it is not asked again, also if it is back before; then the next operation is executed.
    """
    port, monotonic = free_port(), FakeClock()
    store = RedisStore(f"redis://:secret@127.0.0.1:{port}/0", timeout=0.5, monotonic=monotonic)
    with pytest.raises(StoreDown, match=f"127.0.0.1:{port}/0: .*; see that it runs and can be reached") as down:
        await store.reserve("1", [budget(100, 10)])
    assert "secret" not in str(down.value)
    assert not down.value.taken
    with redis_server(tmp_path, "--requirepass", "secret", port=port):
        for at in range(100):
            with pytest.raises(StoreDown, match="connection refused|Connect call failed"):
                await store.reserve(f"{at}", [budget(100, 10)])
        monotonic.advance(RETRY_SECONDS)
        assert (await store.reserve("2", [budget(100, 10)])).refused is None
    await store.aclose()


async def test_server_that_does_not_answer() -> None:
    """A server that accepts and never answers costs one call its timeout, the others nothing, and leaves no tasks."""
    hanging, connections = asyncio.Event(), list[asyncio.StreamWriter]()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await hanging.wait()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = RedisStore(f"redis://127.0.0.1:{port}/0", timeout=0.2, monotonic=lambda: 0.0)
    results = await asyncio.gather(
        *[store.reserve(f"{at}", [budget(100, 10)]) for at in range(50)], return_exceptions=True
    )
    assert all(isinstance(each, StoreDown) for each in results)
    tasks, before = len(asyncio.all_tasks()), len(connections)
    for at in range(100):
        with pytest.raises(StoreDown):
            await store.reserve(f"b{at}", [budget(100, 10)])
    assert len(connections) == before
    assert len(asyncio.all_tasks()) <= tasks
    hanging.set()
    await store.aclose()
    server.close()
    await server.wait_closed()


async def test_restarted_server_is_used_at_once(tmp_path: Path) -> None:
    """A server that lost its scripts and connections serves the next call without an error."""
    with redis_server(tmp_path) as server:
        store = RedisStore(server.url)
        await store.reserve("1", [budget(100, 10)])
        server.stop()
        server.start()
        assert (await store.reserve("2", [budget(100, 10)])).refused is None
        assert await totals(store) == [(0, 10)], "without persistence a server that dies forgets what it counted"
        await store.aclose()


async def test_more_calls_than_connections(store: RedisStore) -> None:
    """Calls beyond the number of connections wait for one; as many are admitted as fit."""
    grants = await asyncio.gather(*[store.reserve(f"{at}", [budget(1000, 5)]) for at in range(600)])
    assert sum(grant.refused is None for grant in grants) == 200
    await asyncio.gather(*[store.settle(f"{at}", {budget(0, 0).key: 3}) for at in range(600)])
    assert await totals(store) == [(600, 0)]


async def test_many_reservations_of_a_dead_process(redis: RedisServer) -> None:
    """All reservations of a dead process are charged, over several heartbeats, so that none takes long."""
    prefix = with_own_prefix("")[8:]
    now = [1_800_000_000.0]
    dead = RedisStore(redis.url, prefix=prefix, clock=lambda: now[0])
    for at in range(450):
        await dead.reserve(f"{at}", [budget(10**6, 2)])
    await dead.aclose()
    now[0] += 31
    living = RedisStore(redis.url, prefix=prefix, clock=lambda: now[0])
    await living.heartbeat()
    ((spent, held),) = await totals(living)  # this takes a step too
    assert 0 < spent < 900
    assert spent + held == 900
    for _ in range(2):
        await living.heartbeat()
    assert await totals(living) == [(900, 0)]
    await living.aclose()


async def test_cluster_redirects_are_followed(tmp_path: Path) -> None:
    """On a cluster all keys of a deployment are on one node; a store that asks another node follows its redirect."""
    options = ("--cluster-enabled", "yes")
    with (
        redis_server(tmp_path, *options, "--cluster-config-file", "1.conf") as first,
        redis_server(tmp_path, *options, "--cluster-config-file", "2.conf") as second,
    ):
        await meet(first, second)
        for server in (first, second):
            store = RedisStore(f"redis://127.0.0.1:{server.port}/0", prefix="c", timeout=2.0)
            grant = await store.reserve(f"{server.port}", [budget(100, 10), rate(10, 60.0)])
            assert grant.refused is None
            await store.settle(f"{server.port}", {budget(0, 0).key: 7})
            total = await totals(store)
            await store.aclose()
        assert total == [(14, 0)]


async def meet(first: RedisServer, second: RedisServer) -> None:
    """Make a cluster of two nodes, and wait until both serve it."""
    await command(first.port, "CLUSTER", "ADDSLOTSRANGE", 0, 8191)
    await command(second.port, "CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
    await command(first.port, "CLUSTER", "MEET", "127.0.0.1", second.port)
    for _ in range(MAX_ATTEMPTS):
        states = [str(await command(server.port, "CLUSTER", "INFO")) for server in (first, second)]
        if all("cluster_state:ok" in state and "cluster_known_nodes:2" in state for state in states):
            return
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError(f"the nodes do not meet: {states}")


async def test_entries_expire_on_the_server(redis: RedisServer) -> None:
    """New entries remove expired ones, and so do heartbeats."""
    prefix, now = with_own_prefix("")[8:], [1_800_000_000.0]
    store = RedisStore(redis.url, prefix=prefix, clock=lambda: now[0])
    await store.remember({str(at): b"1" for at in range(9)}, 60)
    now[0] += 61
    await store.remember({"new": b"2"}, 60)
    client: Any = Redis.from_url(redis.url, decode_responses=True)
    assert await client.hkeys(f"{{{prefix}}}:k") == ["format", "new"]
    assert await client.zrange(f"{{{prefix}}}:ke", 0, -1) == ["new", "format"]
    now[0] += 61
    await store.heartbeat()
    assert await client.hkeys(f"{{{prefix}}}:k") == await client.zrange(f"{{{prefix}}}:ke", 0, -1) == ["format"]
    await client.aclose()
    await store.aclose()


async def test_entries_raise_while_the_server_is_down(tmp_path: Path) -> None:
    """Each operation raises `StoreDown` while the server is down."""
    store = RedisStore(f"redis://127.0.0.1:{free_port()}/0")
    for operation in (store.remember({"a": b"1"}, 60), store.recall(["a"]), store.forget(["a"])):
        with pytest.raises(StoreDown):
            await operation
    await store.aclose()
