"""The first connection to a Redis store: its format, the conversion of format 1, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from claims import budget, chosen_by_client, rate
from redis_script import FormatOne, ScriptRunner
from redis_server import MISSING, SERVER, RedisServer

from policies.api.claim import Claim
from policies.api.store import StoreDown
from policies.api.window import Sliding
from policies.stores.redis.batches import INCOMPATIBLE_SECONDS
from policies.stores.redis.preparation import HEARTBEAT_SECONDS, ExecuteOperations, IncompatibleStore, prepare
from policies.stores.redis.script import KEY_NAMES
from policies.stores.redis.store import RedisStore
from policies.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(SERVER is None, reason=MISSING)]

SECOND = 1_000_000
DAY = 86_400 * SECOND
OpenStore = Callable[[], RedisStore]


async def keys_of_server(runner: ScriptRunner) -> set[str]:
    found = [key async for key in runner.client.scan_iter(runner.key("*").replace("{", "[{]"))]
    return {key.decode().removeprefix(runner.key("")) for key in found}


async def no_sleep(seconds: float) -> None:
    """Return at once."""


def old_day(runner: ScriptRunner) -> int:
    return runner.now // DAY * DAY


async def test_counters_of_format_1_are_converted(opened: OpenStore, runner: ScriptRunner) -> None:
    """Calendar counters keep what was spent and reserved, as spent; sliding ones what is in their window; entries their value."""
    old = FormatOne(runner, last_heartbeat=runner.now - 120 * SECOND)
    day, now = old_day(runner), runner.now
    await old.process("a" * 32, ["call"])
    await old.calendar(budget(1).key, day, day + DAY, spent=30, held=25)
    await old.sliding(rate(1).key, [(now - 61 * SECOND, 4), (now - 30 * SECOND, 2), (now - SECOND, 1)])
    await old.entry("kept", now + 60 * SECOND, bytes(range(256)))
    await old.entry("over", now - SECOND, b"1")
    store = opened()
    assert [(each.spent, each.reserved) for each in await store.accounts()] == [(55, 0)]
    assert [each.used for each in await store.standings([budget(100, 0), rate(9)])] == [55, 3]
    assert await store.recall(["kept", "over"]) == [bytes(range(256)), None]
    assert (await store.reserve("1", [budget(100, 45), rate(4)])).refused is None
    assert (await store.reserve("2", [rate(4)])).refused == 0
    assert await keys_of_server(runner) <= set(KEY_NAMES)
    assert await store.settle("call", {}) is False


@pytest.mark.parametrize("window", [None, Sliding(60.0)])
async def test_groups_of_format_1_are_converted(
    opened: OpenStore, runner: ScriptRunner, window: Sliding | None
) -> None:
    """The counters of a group keep their places in it, in a group of any size."""
    old, day, now = FormatOne(runner, last_heartbeat=0), old_day(runner), runner.now
    await old.process("a" * 32)

    def claim(name: str, most: int) -> Claim:
        made = chosen_by_client(name, limit=100) if window is None else chosen_by_client(name, limit=100, window=window)
        return msgspec.structs.replace(made, max_identities=most)

    number = 250
    for at in range(number):
        if window is None:
            await old.calendar(claim(f"{at}", 1).key, day, day + DAY, spent=1, held=0)
        else:
            await old.sliding(claim(f"{at}", 1).key, [(now, 1)])
    group = claim("", 1).group_key + (f":{day}" if window is None else "")
    await old.group(group, {claim(f"{at}", 1).key: day + DAY for at in range(number)})
    store = opened()
    for name, used in (("7", 1), ("new", 0)):
        (standing,) = await store.standings([claim(name, number)])
        assert standing.used == used
    assert (await store.reserve("1", [claim("new", number)])).standings[0].used == 10
    assert (await store.reserve("2", [claim("other", number)])).standings[0].used == 20, (
        "both share the overflow counter"
    )
    if window is None:
        assert (await store.reserve("3", [claim("third", number + 2)])).standings[0].used == 10, (
            "there is one place more"
        )


async def test_living_process_of_format_1_is_named(runner: ScriptRunner) -> None:
    """While a process of the older version sends heartbeats, nothing is converted, and the error says what to do."""
    old = FormatOne(runner, last_heartbeat=runner.now)
    await old.process("abcdef0123456789" * 2)
    await old.calendar(budget(1).key, 0, DAY, spent=30, held=0)
    before = await keys_of_server(runner)

    async def beat(seconds: float) -> None:
        runner.now += round(seconds * SECOND)
        if runner.now % (2 * SECOND) == 0:
            await runner.client.zadd(runner.key("w"), {"abcdef0123456789" * 2: runner.now})

    with pytest.raises(
        IncompatibleStore, match=r"ADDRESS: processes of an older version .*\(1 found: abcdef01\).*stop them"
    ) as refused:
        await prepare(runner.execute, "ADDRESS", sleep=beat)
    assert isinstance(refused.value, StoreDown)
    assert isinstance(refused.value, ValueError), "the sidecar ends at its start"
    assert await keys_of_server(runner) == before


async def test_processes_of_format_1_that_have_just_ended_are_converted(runner: ScriptRunner) -> None:
    """A process whose heartbeat is recent, but does not advance, has ended: its counters are converted after some seconds."""
    old, waited = FormatOne(runner, last_heartbeat=runner.now - SECOND), list[float]()
    await old.process("a" * 32)

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    await prepare(runner.execute, "ADDRESS", sleep=sleep)
    assert sum(waited) == HEARTBEAT_SECONDS
    assert len((await runner.batch())[0]) == len(["time", "generation"]), "the store is ready"


@pytest.mark.parametrize("has_processes", [True, False], ids=["killed", "stopped"])
async def test_command_does_not_convert(runner: ScriptRunner, *, has_processes: bool) -> None:
    """A command that opens a store of format 1 beside the sidecars leaves it as it is, and says at once what converts it."""
    old = FormatOne(runner, last_heartbeat=runner.now - SECOND)
    await old.calendar(budget(1).key, 0, DAY, spent=30, held=0)
    if has_processes:
        await old.process("a" * 32)
    before = await keys_of_server(runner)
    with pytest.raises(
        IncompatibleStore, match="ADDRESS: it has the format of an earlier version; start this version of"
    ):
        await prepare(runner.execute, "ADDRESS", converts=False, sleep=no_sleep)
    assert await keys_of_server(runner) == before


async def test_command_makes_an_empty_store_ready(runner: ScriptRunner) -> None:
    """A store without content has no earlier version: a command uses it."""
    await prepare(runner.execute, "ADDRESS", converts=False, sleep=no_sleep)
    assert len((await runner.batch())[0]) == len(["time", "generation"])


async def test_older_version_fails_on_a_converted_store(opened: OpenStore, runner: ScriptRunner) -> None:
    """A process of the older version that is started later cannot record its heartbeat, so it does not count apart."""
    await opened().ping()
    with pytest.raises(Exception, match="WRONGTYPE"):
        await runner.client.zadd(runner.key("w"), {"a" * 32: 1})


@pytest.mark.parametrize(
    ("found", "text"), [("3", "format 3 of a newer version"), ("x", "format x of another version")]
)
async def test_other_formats_are_refused(opened: OpenStore, runner: ScriptRunner, found: str, text: str) -> None:
    """A store of another format is not used and not changed; the error names both formats."""
    await runner.client.hset(runner.key("m"), "format", found)
    store = opened()
    for operation in (store.ping(), store.reserve("1", [budget(100)]), store.heartbeat()):
        with pytest.raises(IncompatibleStore, match=f"{text}, and this version knows format 2"):
            await operation
    assert await keys_of_server(runner) == {"m"}


async def test_incompatible_store_is_not_examined_by_each_call(
    redis: RedisServer, prefix: str, runner: ScriptRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of another format is examined again after five seconds; until then calls fail without that."""
    examined: list[str] = []

    async def counted(execute: ExecuteOperations, address: str, *, converts: bool = True) -> None:
        examined.append(address)
        await prepare(execute, address, converts=converts)

    monkeypatch.setattr("policies.stores.redis.batches.prepare", counted)
    await runner.client.hset(runner.key("m"), "format", "9")
    store = RedisStore(redis.url, prefix=prefix, monotonic=(monotonic := FakeClock()))
    for seconds, count in ((0.0, 1), (INCOMPATIBLE_SECONDS - 0.1, 1), (0.1, 2)):
        monotonic.advance(seconds)
        for call in range(3):
            with pytest.raises(StoreDown, match="storage format 9 of a newer version"):
                await store.reserve(f"{call}", [budget(1)])
        assert len(examined) == count
    await store.aclose()


async def test_foreign_keys_are_refused(opened: OpenStore, runner: ScriptRunner) -> None:
    """Keys of another program are not used; the error tells to choose a prefix."""
    await runner.client.set(runner.key("c"), "theirs")
    with pytest.raises(StoreDown, match="WRONGTYPE.*prefix"):
        await opened().ping()


async def test_store_is_prepared_once(runner: ScriptRunner) -> None:
    """Preparing a store again keeps its generation, so no process takes it for lost."""
    await prepare(runner.execute, "ADDRESS", sleep=no_sleep)
    first = (await runner.batch())[0]
    await prepare(runner.execute, "ADDRESS", sleep=no_sleep)
    assert (await runner.batch())[0] == first
