"""Thousands of failures and aborts of every kind: nothing of them is left.  `make soak` runs ten thousand of them."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from pathlib import Path

import aiohttp
import pytest
from hostile import CASES, Case
from serving import CHAT, Sidecar, settings_of, sidecar
from test_hostile import plays
from wire import Client, Connection, eventually, upstream

from sidecar.exchange import Direct

pytestmark = pytest.mark.anyio

CALLS = int(os.environ.get("SOAK", "400"))
AT_ONCE = 20
POLICIES = """
[[policy]]
use = "budget"
tokens = 9_000_000_000_000
[[policy]]
use = "retry"
base = 0.001
cap = 0.002
"""
LARGE = 100_000
SMALL = [case for case in CASES if sum(map(len, case.pieces)) < LARGE]


def files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class Mixed:
    """An upstream that does anything: a case of the table, silence in any phase, or a stream that goes on and on."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def __call__(self, connection: Connection) -> None:
        case: Case = self._chance.choice(SMALL)
        kind = self._chance.random()
        if kind < 0.1:
            await connection.hang()
        elif kind < 0.3:
            await connection.send(case.pieces[0])
            await connection.hang()
        elif kind < 0.5:
            await connection.stream(*"abc", done=False)
            await connection.hang()
        else:
            await plays(case)(connection)
            connection.close()


async def one(served: Sidecar, chance: random.Random) -> None:
    """Make one call in any form, and leave it at any moment, in any way."""
    client = await Client.to(served.port)
    path, body = chance.choice(
        [
            ("/api/chat", CHAT),
            ("/v1/chat/completions", {"model": "m", "stream": True, "max_tokens": 40, **CHAT}),
            ("/v1/chat/completions", {"model": "m", "max_tokens": 40, **CHAT}),
        ]
    )
    await client.post(path, body)
    patience = chance.choice([0.0, 0.001, 0.01, 0.05, 0.2])
    try:
        async with asyncio.timeout(patience):
            await client.answer()
    except (TimeoutError, OSError, asyncio.IncompleteReadError):
        pass
    chance.choice([client.close, client.reset])()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc to count open files in")
async def test_nothing_leaks(tmp_path: Path) -> None:
    """After mixed failures and aborts no pool slot, task, file descriptor or hold is left, in order or out of it."""
    chance = random.Random(11)
    async with upstream(plays(CASES[0]), Mixed(random.Random(12))) as up:
        text = f"[[upstream]]\nbase_url = '{up.url}'\nmodel = 'm'\nbreaker = {{ calls = 0 }}\nidle = 5\n" + POLICIES
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            await one(served, chance)
            await eventually(lambda: len(served.gateway.live) == 0)
            tasks, opened = len(asyncio.all_tasks()), files()
            gate = asyncio.Semaphore(AT_ONCE)

            async def guarded() -> None:
                async with gate:
                    await one(served, chance)

            await asyncio.gather(*(guarded() for _ in range(CALLS)))
            await eventually(lambda: len(served.gateway.live) == 0)
            account = await served.account()
            connector = pool(served)
            await eventually(lambda: not connector._acquired)
            await connector.close()
            await eventually(lambda: up.open == 0)
            await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
            gc.collect()
            await eventually(lambda: files() <= opened)

    assert (account.reserved, account.spent > 0) == (0, True)
    assert len(up.requests) >= CALLS / 2


def pool(served: Sidecar) -> aiohttp.TCPConnector:
    first = next(iter(served.gateway.upstream._by_name.values()))
    assert isinstance(first.exchange, Direct)
    return first.exchange.connector
