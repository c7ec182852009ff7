"""The script of the Redis store: its batches, its keys, and servers that cannot write."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from claims import PER_DAY, budget, chosen_by_client, rate, reserve, totals
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_script import ScriptRunner
from redis_server import MISSING, SERVER, RedisServer, free_port, redis_server

from policies.api.claim import Claim
from policies.api.store import Grant, StoreDown
from policies.api.window import Calendar, Sliding, Window
from policies.stores.redis.batches import MAX_PARTIAL_BATCHES_IN_FLIGHT, BatchLink
from policies.stores.redis.script import KEY_NAMES, keys_of, script_source
from policies.stores.redis.store import RedisStore
from policies.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(SERVER is None, reason=MISSING)]

OpenStore = Callable[[], RedisStore]
KEY = budget(1).key
DAYS = 86_400


class CountingLink:
    """Passes batches to another link, each *times* times, and counts them. Replies arrive while `is_answering` is set."""

    def __init__(self, inner: BatchLink, times: int = 1) -> None:
        self._inner, self._times = inner, times
        self.batches = 0
        self.is_answering = asyncio.Event()
        self.is_answering.set()

    def submit(self, payload: bytes) -> asyncio.Future[bytes]:
        self.batches += 1
        for _ in range(self._times - 1):
            self._inner.submit(payload).add_done_callback(lambda future: future.exception())
        return asyncio.get_running_loop().create_task(self._answer(self._inner.submit(payload)))

    async def _answer(self, reply: asyncio.Future[bytes]) -> bytes:
        await self.is_answering.wait()
        return await reply

    async def warnings(self) -> Sequence[str]:
        return await self._inner.warnings()

    async def aclose(self) -> None:
        await self._inner.aclose()


def count_batches(store: RedisStore, times: int = 1) -> CountingLink:
    """Return the link that is put between *store* and its own."""
    link = CountingLink(store._batches._link, times)
    store._batches._link = link
    return link


async def test_operations_of_concurrent_calls_share_a_batch(opened: OpenStore) -> None:
    """Operations of one iteration of the event loop are one call of the script, of at most 64 operations."""
    store = opened()
    await store.ping()
    link = count_batches(store)
    grants = await asyncio.gather(*[store.reserve(f"{at}", [budget(1000, 10)]) for at in range(120)])
    assert sum(grant.refused is None for grant in grants) == 100
    assert link.batches <= 3
    await asyncio.gather(*[store.settle(f"{at}", {KEY: 1}) for at in range(120)])
    assert await totals(store) == [(100, 0)]


async def test_batches_grow_while_the_server_is_slow(opened: OpenStore) -> None:
    """While many batches are in flight, further operations wait and share one; none is lost, and a release is not overtaken."""
    store = opened()
    await store.ping()
    link = count_batches(store)
    link.is_answering.clear()
    calls: list[asyncio.Task[Any]] = []
    for at in range(50):
        calls.append(asyncio.create_task(store.reserve(f"{at}", [budget(10**6, 10)])))
        for _ in range(5):
            await asyncio.sleep(0)  # some iterations of the event loop for each operation
    calls.append(asyncio.create_task(store.release("49")))
    await asyncio.sleep(0)
    assert link.batches == MAX_PARTIAL_BATCHES_IN_FLIGHT
    link.is_answering.set()
    await asyncio.gather(*calls)
    assert link.batches == MAX_PARTIAL_BATCHES_IN_FLIGHT + 1
    assert await totals(store) == [(0, 490)]


async def test_failing_operation_does_not_affect_its_batch(opened: OpenStore, runner: ScriptRunner) -> None:
    """An operation that fails has an error as its result; those before and after it are executed."""
    store = opened()
    await store.ping()
    settle = ("settle", "1", True, KEY, 5)
    await store.reserve("1", [budget(100, 40)])
    await store.reserve("2", [budget(100, 40)])
    broken, unknown, settled, released = await runner.execute(("reserve", "3"), ("nonsense",), settle, ("release", "2"))
    assert "error" in broken
    assert "error" in unknown
    assert (settled, released) == ("settled", "settled")
    assert await totals(store) == [(5, 0)]


async def test_every_operation_may_be_sent_twice(opened: OpenStore, caplog: pytest.LogCaptureFixture) -> None:
    """A batch that is executed twice has the effect of one, and returns the same."""
    store = opened()
    await store.ping()
    await store.heartbeat()
    count_batches(store, times=2)
    assert (await store.reserve("1", [budget(100, 40), rate(5)])).standings[1].used == 1
    assert (await store.reserve("2", [budget(100, 41), rate(5)])).standings[0].used == 81
    assert (await store.reserve("2", [budget(100, 9)], part=1)).standings[0].used == 90
    assert await store.settle("1", {KEY: 10}) is True
    await store.release("2")
    assert await store.settle("never reserved", {KEY: 10}) is False, "so the caller charges it in another way"
    assert await store.settle("never reserved", {KEY: 10}) is False
    assert await totals(store) == [(10, 0)]
    assert (await store.correct([budget(100, 0)], 30, "granted"))[0].spent == -20
    assert await store.register_limits({"a": "1"}) == {}
    assert await store.register_limits({"a": "2"}) == {"a": "1"}
    await store.heartbeat()
    assert [each.getMessage() for each in caplog.records].count("granted") == 1


async def test_all_keys_are_declared(opened: OpenStore, runner: ScriptRunner, clock: FakeClock) -> None:
    """The store has a fixed set of keys, all of which are arguments of the script, with one hash tag; none is ever missing."""
    store = opened()
    for at in range(20):
        claims = [budget(10**6), rate(5), chosen_by_client(f"{at}", window=Sliding(60.0))]
        await store.reserve(f"{at}", claims)
        if at % 2:
            await store.settle(f"{at}", {KEY: 1})
        clock.advance(7)
        await store.remember({f"{at}": b"1"}, 60)
        await store.heartbeat()
    await store.correct([budget(1)], None, "reset")
    await store.register_limits({"a": "b"})
    keys = [key.decode() async for key in runner.client.scan_iter(f"*{runner.prefix}*")]
    assert sorted(keys) == sorted(keys_of(runner.prefix))
    clock.advance(100 * DAYS)
    for _ in range(3):
        await store.heartbeat()
    assert await runner.client.exists(*keys) == len(KEY_NAMES), "also those that have nothing left to keep"


async def test_ended_calls_are_remembered_for_a_minute(
    opened: OpenStore, clock: FakeClock, runner: ScriptRunner
) -> None:
    """A settlement that is repeated within a minute is known; later it is not, and the memory of it is freed."""
    store = opened()
    for at in range(50):
        await store.reserve(f"{at}", [budget(10**6)])
        await store.settle(f"{at}", {})
    clock.advance(59)
    assert await store.settle("1", {}) is True
    clock.advance(120)
    for name in ("a", "b"):
        await store.reserve(name, [budget(10**6)])
        await store.settle(name, {})
        clock.advance(60)
    assert await store.settle("1", {}) is False
    assert await runner.client.hlen(runner.key("x")) + await runner.client.hlen(runner.key("y")) <= 3


async def test_accounts_are_read_in_pages(opened: OpenStore, clock: FakeClock) -> None:
    """All open counters are returned, of windows of any length, and no closed ones."""
    store = opened()

    def claim(at: int, period: str) -> Claim:
        window = Calendar(period)  # type: ignore[arg-type]  # one of the periods
        return Claim(policy="p", identity=f"{at}", unit="tokens", limit=9, window=window, base=1)

    async def fill(name: str) -> None:
        for period in ("minute", "day"):
            calls = [store.reserve(f"{name} {period} {at}", [claim(at, period)]) for at in range(700)]
            await asyncio.gather(*calls)

    await fill("before")
    clock.advance(2 * DAYS)
    await fill("now")
    found = [(each.identity, each.window) for each in await store.accounts()]
    assert len(found) == len(set(found)) == 1400


async def test_unused_sliding_counters_are_removed(opened: OpenStore, clock: FakeClock, runner: ScriptRunner) -> None:
    """Heartbeats remove counters whose window has passed, some at a time, and free their places in groups."""
    store = opened()
    for at in range(150):
        await store.reserve(
            f"{at}", [rate(5, name=f"{at}"), chosen_by_client(f"{at}", limit=10**6, window=Sliding(60.0))]
        )
        await store.settle(f"{at}", {})
    assert await runner.client.hlen(runner.key("c")) > 150
    clock.advance(62)
    for _ in range(2):
        await store.heartbeat()
    assert set(await runner.client.hkeys(runner.key("c"))) == {b"format", b"generation", b"period", b"marks"}
    assert await runner.client.zrange(runner.key("e"), 0, -1) == [b"format"]
    assert set(await runner.client.hkeys(runner.key("n"))) == {b"format", b"latest", b"setbacks"}


async def test_counter_in_use_stays_in_the_queue(opened: OpenStore, clock: FakeClock, runner: ScriptRunner) -> None:
    """A sliding counter that is in use when it is looked at is kept, and removed after its last window."""
    store = opened()
    for at in range(10):
        await store.reserve(f"{at}", [rate(50)])
        clock.advance(25)
        await store.heartbeat()
        assert await runner.client.hexists(runner.key("c"), f"s:{rate(1).key}")
    clock.advance(62)
    await store.heartbeat()
    assert not await runner.client.hexists(runner.key("c"), f"s:{rate(1).key}")


async def test_lost_content_is_logged_once(
    opened: OpenStore, runner: ScriptRunner, caplog: pytest.LogCaptureFixture
) -> None:
    """A store whose keys or whose counters alone are gone is used as a new one, and the log says so once in each process."""
    stores = [opened(), opened()]
    for lost in (runner.key("*"), runner.key("c")):
        for at, store in enumerate(stores):
            await store.reserve(f"{lost} {at}", [budget(100, 10)])
        await runner.client.delete(*[key async for key in runner.client.scan_iter(lost.replace("{", "[{]"))])
        caplog.clear()
        for store in stores * 2:
            assert (await store.standings([budget(100, 0)]))[0].used == 0
        said = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
        assert len(said) == 2
        assert all("limits start anew" in each for each in said)
        assert await stores[0].settle(f"{lost} 0", {KEY: 1}) is False


@pytest.mark.parametrize("name", ["h", "e"])
async def test_evicted_reservations_begin_a_new_store(
    opened: OpenStore, runner: ScriptRunner, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Without its reservations, or what expires, a store begins anew, and says so: no counter holds what can never be settled."""
    store = opened()
    await store.reserve("1", [budget(100, 60)])
    await runner.client.delete(runner.key(name))
    await store.reserve("2", [budget(100, 10)])
    await store.heartbeat()
    assert await store.settle("1", {KEY: 5}) is False
    await store.reserve("3", [budget(100, 10)])
    assert await totals(store) == [(0, 10)]
    assert [each.levelno for each in caplog.records if "limits start anew" in each.getMessage()] == [logging.ERROR]


@pytest.mark.parametrize("name", ["w", "n", "k", "ke", "m", "x", "y"])
async def test_other_evicted_keys_are_created_again(
    opened: OpenStore, runner: ScriptRunner, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A lost key without which the counters are right forgets no spending and no limits, and exists after a heartbeat."""
    store = opened()
    await store.reserve("1", [budget(100, 60)])
    await store.register_limits({"a": "1"})
    await runner.client.delete(runner.key(name))
    await store.heartbeat()
    assert await store.settle("1", {KEY: 5}) is True
    assert await runner.client.exists(*keys_of(runner.prefix)) == len(KEY_NAMES)
    assert await totals(store) == [(5, 0)]
    assert await store.register_limits({"a": "1"}) == {"a": "1"}
    assert caplog.records == []


async def test_evicted_sizes_of_groups_are_logged(
    opened: OpenStore, runner: ScriptRunner, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the sizes of groups no spending is forgotten; each process logs once that more identities get counters."""
    stores = [opened(), opened()]
    for store in stores:
        await store.heartbeat()
    windows: list[Window] = [PER_DAY, Sliding(60.0)]
    for name in "abcd":
        await stores[0].reserve(name, [chosen_by_client(name, window=window) for window in windows])
    await runner.client.delete(runner.key("n"))
    for store in stores * 2:
        await store.heartbeat()
    logged = [each.getMessage() for each in caplog.records]
    assert len(logged) == 2
    assert all(each.startswith("the numbers of identities were evicted or lost: ") for each in logged)
    found = await stores[0].standings([chosen_by_client("a", window=window) for window in windows])
    assert [each.used for each in found] == [10, 10], "a counter keeps what it counts"
    for window in windows:
        names = [
            await stores[0].reserve(f"{window} {name}", [chosen_by_client(name, window=window)]) for name in "efghi"
        ]
        assert [each.refused for each in names[-2:]] == [0, 0], "groups are bounded again"
    clock.advance(62)
    await stores[0].heartbeat()
    sizes = await runner.client.hgetall(runner.key("n"))
    assert [size for name, size in sizes.items() if b"sliding@" in name] == []


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[tuple[RedisStore, Any]]:
    """Give a store with running calls on a server, and a client that can fill it."""
    with redis_server(tmp_path, "--maxmemory-policy", "noeviction") as server:
        runner = ScriptRunner(server.url, "p", now=0)
        store = RedisStore(server.url)
        for call in ("settled", "released"):
            await store.reserve(call, [budget(1000, 40), rate(5)])
        yield store, runner.client
        await store.aclose()
        await runner.client.aclose()


async def test_full_server_refuses_calls_and_settles_others(full: tuple[RedisStore, Any]) -> None:
    """On a server without memory a reservation fails, with the remedy; settlements, releases and heartbeats are executed."""
    store, client = full
    await client.config_set("maxmemory", "1mb")
    await client.config_set("maxmemory", "1")
    for failing in (store.reserve("new", [budget(1000, 5)]), store.ping(), store.remember({"a": b"1"}, 60)):
        with pytest.raises(
            StoreDown, match="out of memory.*give it more memory, with maxmemory-policy noeviction"
        ) as down:
            await failing
        assert not down.value.taken
    await store.heartbeat()
    assert await store.settle("settled", {KEY: 7}) is True
    assert await store.settle("unknown", {KEY: 7}) is False
    await store.release("released")
    assert [(each.spent, each.reserved) for each in await store.accounts()] == [(7, 0)]
    assert (await store.standings([rate(5)]))[0].used == 1
    await client.config_set("maxmemory", "0")
    assert (await store.reserve("new", [budget(1000, 5)])).refused is None


async def test_full_server_settles_within_a_batch_of_refused_calls(full: tuple[RedisStore, Any]) -> None:
    """Reservations that fail for lack of memory do not fail the settlements that share their batch."""
    store, client = full
    await client.config_set("maxmemory", "1")
    new = [store.reserve(f"new {at}", [budget(1000, 5)]) for at in range(5)]
    results = await asyncio.gather(*new, store.settle("settled", {KEY: 7}), return_exceptions=True)
    assert all(isinstance(each, StoreDown) for each in results[:5])
    assert results[5] is True
    await client.config_set("maxmemory", "0")
    assert await totals(store) == [(7, 40)]


async def test_replica_refuses_the_whole_batch(tmp_path: Path) -> None:
    """On a server that is a replica the script fails as a whole with READONLY, so that the link leaves it."""
    with redis_server(tmp_path) as server:
        runner = ScriptRunner(server.url, "p", now=1_800_000_000_000_000)
        await runner.execute(("create", "generation"))
        await runner.client.replicaof("127.0.0.1", free_port())
        with pytest.raises(Exception, match="You can't write against a read only replica"):
            await runner.batch(("release", "1"))
        await runner.client.aclose()


async def test_script_fits_the_oldest_server(redis: RedisServer) -> None:
    """The script uses no command and no option that Redis 5 does not have."""
    source = script_source()
    for newer in ("KEEPTTL", "GETDEL", "GETEX", "LPOS", "ZRANGESTORE", "HGETDEL", "HEXPIRE", "BYSCORE", " XX", " GT"):
        assert newer not in source.replace("ZRANGEBYSCORE", "")
    assert "setresp" not in source


AMOUNTS = st.sampled_from([1, 3, 200, 60_000, 2**31, 2**40])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.3, 0.9, 2.0, 11.0, 35.0, 70.0]), AMOUNTS), min_size=1, max_size=60))
async def test_no_span_exceeds_the_limit(opened: OpenStore, clock: FakeClock, steps: list[tuple[float, int]]) -> None:
    """No span of the window has more than the limit, for amounts of any size; room returns within 65/64 of the window."""
    store, window = opened(), 60.0
    limit, admitted = 2**40 + 70_000, list[tuple[float, int]]()
    name = f"{id(steps)} {clock.now}"
    for call, (seconds, amount) in enumerate(steps):
        clock.advance(seconds)
        grant = await reserve(store, f"{name} {call}", rate(limit, window, base=amount, name=name))
        recent = sum(each for at, each in admitted if at > clock.now - window)
        late = sum(each for at, each in admitted if at > clock.now - window * 65 / 64 - 0.001)
        if grant.refused is None:
            admitted.append((clock.now, amount))
            assert recent + amount <= limit
        else:
            assert late + amount > limit
            assert clock.now < grant.standings[0].resets_at <= clock.now + window * 65 / 64 + 0.001


@pytest.mark.parametrize("broken", [budget(10**6, name="\ud800"), budget(10**6, 2**70)], ids=["text", "number"])
async def test_operation_that_cannot_be_sent_fails_alone(opened: OpenStore, broken: Claim) -> None:
    """A claim that MessagePack cannot express fails its own call; calls that wait for the same batch are executed."""
    store = opened()
    await store.ping()
    link = count_batches(store)
    link.is_answering.clear()
    calls: list[asyncio.Task[Any]] = []
    for at, claim in enumerate([budget(10**6, 10)] * 20 + [broken]):
        calls.append(asyncio.create_task(store.reserve(f"{at}", [claim])))
        for _ in range(5):
            await asyncio.sleep(0)  # some iterations of the event loop for each operation
    link.is_answering.set()
    *granted, failed = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
    assert all(isinstance(each, Grant) and each.refused is None for each in granted)
    assert isinstance(failed, UnicodeEncodeError | OverflowError)
