"""The script creates only the functions that a batch needs: each operation has all of its own, alone and beside each other one."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from claims import budget, chosen_by_client, rate
from redis_script import ScriptRunner
from redis_server import MISSING, SERVER

from policies.api.claim import Claim
from policies.api.window import Sliding
from policies.stores.redis.messages import ClaimLists, Operation, settlement
from policies.stores.redis.script import KEY_NAMES, keys_of, script_source

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(SERVER is None, reason=MISSING)]

NOW = 1_800_000_000.0
HOUR_SECONDS, GRACE = 3_600.0, 30_000_000
MINUTE = Sliding(60.0)
BUDGET, RATE, LATER, LONG_AGO = budget(1_000, 100), rate(9), rate(9, name="later"), rate(9, name="ago")


def reserving(call: str, *claims: Claim, part: int = 0, ceiling: int = 0, now: float = NOW) -> Operation:
    return ("reserve", call, part, ceiling, *ClaimLists().of(claims, now))


def user(name: str, group: str = "acme") -> Claim:
    return chosen_by_client(name, group=group, window=MINUTE)


OPERATIONS: Mapping[str, Operation] = {
    "new": reserving("new", budget(1_000, 10, name="new"), rate(5, name="new")),
    "known": reserving("known", BUDGET, RATE),
    "expired cells": reserving("expired cells", LONG_AGO),
    "set back": reserving("set back", LATER),
    "wide": reserving("wide", rate(2**50, base=2**40)),
    "new budget": reserving("new budget", budget(1_000, 10, name="new budget")),
    "ceiling": reserving("ceiling", budget(1_000, 10, per_token=1, floor=5), ceiling=10_000),
    "refused": reserving("refused", budget(100, 100)),
    "refused rate": reserving("refused rate", rate(1), LATER),
    "same counter": reserving("same counter", BUDGET, BUDGET, rate(9, name="same"), rate(9, name="same")),
    "again": reserving("held", BUDGET, RATE, user("a")),
    "next part": reserving("held", BUDGET, RATE, part=1),
    "lost part": reserving("never", BUDGET, part=1),
    "ended": reserving("ended", BUDGET),
    "closed window": reserving("closed window", BUDGET, now=NOW - 100 * HOUR_SECONDS),
    "member": reserving("member", user("a"), user("b", "other")),
    "overflow": reserving("overflow", user("z")),
    "settled": settlement("held", {BUDGET.key: 150}, refund=True),
    "settled in parts": settlement("parts", {BUDGET.key: 30}, refund=True),
    "settled late": settlement("charged", {BUDGET.key: 10}, refund=True),
    "settled unknown": settlement("nobody", {BUDGET.key: 10}, refund=True),
    "released": ("release", "held"),
    "released parts": ("release", "parts"),
    "released late": ("release", "charged"),
    "released from later": ("release", "from later"),
    "heartbeat": ("heartbeat", GRACE, True, -1),
    "ping": ("ping",),
    "standings": ("standings", *ClaimLists().of([BUDGET, RATE, LATER, user("a"), user("z"), rate(1)], NOW)),
    "accounts": ("accounts", 0, 0, 500),
    "granted": ("correct", "grant", 50, "granted", *ClaimLists().of([BUDGET, budget(9, name="fresh")], NOW)),
    "reset": ("correct", "reset", None, "reset", *ClaimLists().of([BUDGET], NOW)),
    "limits": ("limits", "1", "{}"),
    "remember": ("remember", 60_000_000, 100, 4, "key", "value"),
    "recall": ("recall", "kept", "missing"),
    "forget": ("forget", "kept"),
    "inspect": ("inspect",),
    "take over": ("take_over",),
    "convert": ("convert", "0"),
    "create": ("create", "another"),
}
OPERATIONS_BEFORE_READY = ("inspect", "take over", "convert", "create")
DIFFERENT_PAIRS = (
    ("new budget", "accounts"),
    ("new", "accounts"),  # a new counter is listed from the next batch on
    ("granted", "accounts"),
    ("standings", "released from later"),  # a look at a counter after the clock was set back is not written
)
TABLES = "counters|ring|fitting|holds|reserve|settle|groups|operations|script|keys"
SORTED_SETS = ("e", "ke")
TOTAL_OF_RING, OFFSET_OF_TOTAL = struct.Struct("<d"), 16


async def prepare(runner: ScriptRunner) -> None:
    """Make a store with something for each operation, at the time `NOW`."""
    for now, owner, operations in (
        (NOW, "runner", [("create", "generation")]),
        (NOW - 70, "dead", [reserving("charged", BUDGET), ("heartbeat", GRACE, True, -1)]),
        (NOW - 60, "runner", [reserving("ago", LONG_AGO)]),
        (NOW + HOUR_SECONDS, "runner", [reserving("from later", LATER)]),
        (NOW - 2, "runner", [("heartbeat", GRACE, True, -1)]),
        (NOW - 1, "runner", [reserving("held", BUDGET, RATE, user("a"))]),
        (NOW - 1, "runner", [reserving(f"of {name}", user(name)) for name in "bcd"]),
        (NOW - 1, "runner", [reserving("parts", BUDGET, RATE), reserving("parts", BUDGET, part=1)]),
        (NOW - 1, "runner", [reserving("ended", BUDGET), settlement("ended", {}, refund=True)]),
        (NOW - 1, "runner", [("remember", 60_000_000, 100, 4, "kept", "value"), ("limits", "0", "{}")]),
        (NOW - 1, "runner", [("correct", "first", None, "first", *ClaimLists().of([budget(9, name="gone")], NOW))]),
    ):
        runner.now, runner.owner = round(now * 1_000_000), owner
        assert not [each for each in await runner.execute(*operations) if isinstance(each, dict)]
    runner.now, runner.owner = round(NOW * 1_000_000), "runner"


async def saved(runner: ScriptRunner) -> Sequence[bytes]:
    """Return the keys of the store, as the server dumps them."""
    pipeline = runner.client.pipeline(transaction=False)
    for key in keys_of(runner.prefix):
        pipeline.dump(key)
    found: Sequence[bytes] = await pipeline.execute()
    return found


async def restore(runner: ScriptRunner, dumps: Sequence[bytes]) -> None:
    """Make the keys of the store what they were."""
    pipeline = runner.client.pipeline(transaction=False)
    for key, dump in zip(keys_of(runner.prefix), dumps, strict=True):
        pipeline.restore(key, 0, dump, replace=True)
    await pipeline.execute()


async def counted(runner: ScriptRunner) -> Mapping[str, Any]:
    """Return what the keys of the store hold; of sliding counters the total alone, because any operation may move their cells."""
    pipeline = runner.client.pipeline(transaction=False)
    for name in KEY_NAMES:
        key = runner.key(name)
        _ = pipeline.zrange(key, 0, -1, withscores=True) if name in SORTED_SETS else pipeline.hgetall(key)
    found = dict(zip(KEY_NAMES, await pipeline.execute(), strict=True))
    for field, value in found["c"].items():
        if field.startswith(b"s:"):
            found["c"][field] = TOTAL_OF_RING.unpack_from(value, OFFSET_OF_TOTAL)
    return found


async def test_operation_alone_needs_no_other(runner: ScriptRunner) -> None:
    """No operation fails in a batch of its own; on a store that is not ready, those that make it ready are executed."""
    await prepare(runner)
    ready = await saved(runner)
    for name, operation in OPERATIONS.items():
        await restore(runner, ready)
        (result,) = await runner.execute(operation)
        assert not isinstance(result, dict), (name, result)
        await runner.client.delete(*keys_of(runner.prefix))
        (result,) = await runner.execute(operation)
        assert (result is False) == (name not in OPERATIONS_BEFORE_READY), (name, result)
        assert not isinstance(result, dict), (name, result)


async def test_pairs_have_the_effect_of_both(runner: ScriptRunner) -> None:
    """A batch of two operations has the results, and leaves the counters, that two batches of one have."""
    await prepare(runner)
    ready = await saved(runner)
    for first, one in OPERATIONS.items():
        await restore(runner, ready)
        result = await runner.execute(one)
        then = await saved(runner)
        for second, other in OPERATIONS.items():
            if (first, second) in DIFFERENT_PAIRS:
                continue
            await restore(runner, ready)
            together, state = await runner.execute(one, other), await counted(runner)
            await restore(runner, then)
            assert together == [*result, *await runner.execute(other)], (first, second)
            assert state == await counted(runner), (first, second)


def test_each_member_of_a_table_is_defined() -> None:
    """The script uses no function and no constant of its tables that no file defines."""
    source = re.sub(r"--[^\n]*|'[^'\n]*'", "''", script_source())
    used = set(re.findall(rf"\b(?:{TABLES})\.\w+", source))
    defined = set(re.findall(rf"\bfunction ((?:{TABLES})\.\w+)", source))
    for assigned in re.findall(rf"^ *((?:{TABLES})\.\w+(?:, (?:{TABLES})\.\w+)*) = ", source, re.MULTILINE):
        defined |= set(assigned.split(", "))
    for table in ("script", "keys"):
        (members,) = re.findall(rf"local {table} = {{(.*?)}}", source, re.DOTALL)
        defined |= {f"{table}.{name}" for name in re.findall(r"(\w+) = ", members)}
    assert used - defined == set()
    assert len(used) > 50
