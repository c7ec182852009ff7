"""SIGKILL at random moments under load: no charge is lost, no budget is passed, no hold stays."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest
from process import Program, program
from redis_server import own
from wire import HEAD, Client, Connection, sse, token, upstream

from policies.api.store import Account
from policies.stores.opening import open_store
from policies.stores.redis.store import RedisStore
from policies.stores.sqlite.store import SQLiteStore

pytestmark = pytest.mark.anyio

ROUNDS = int(os.environ.get("ROUNDS", "4"))
CLIENTS, PROMPT, GRACE = 12, 5, 30.0
LIMIT_EACH = 1_500
"""Tokens a round: some rounds are refused towards their end, most are not."""


class Mill:
    """An upstream that counts what it really produced: the prompt of every request, and each token that it wrote."""

    def __init__(self) -> None:
        self.produced = 0

    async def __call__(self, connection: Connection) -> None:
        self.produced += PROMPT
        await connection.send(HEAD)
        made = 0
        for _ in range(connection.body["max_tokens"]):
            await connection.chunk(token("x"))
            self.produced, made = self.produced + 1, made + 1
            await asyncio.sleep(0.001)  # a pace: the kill is to fall among running streams
        await connection.chunk(sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}))
        await connection.chunk(sse({"choices": [], "usage": {"prompt_tokens": PROMPT, "completion_tokens": made}}))
        await connection.chunk(b"data: [DONE]\n\n")
        await connection.send(b"0\r\n\r\n")


async def calls(port: int, chance: random.Random, killed: asyncio.Event) -> int:
    """Call again and again until the server is gone; return how many calls ended well."""
    ended = 0
    while not killed.is_set():
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        client = None
        try:
            client = await Client.to(port)
            await client.post("/v1/chat/completions", body | {"max_tokens": chance.randint(1, 40)})
            status, _, _ = await client.answer()
            ended += status == 200
            if status == 429:
                await asyncio.sleep(0.01)  # refused: not to ask again in a tight loop
        except (OSError, asyncio.IncompleteReadError, ValueError):
            return ended
        finally:
            if client is not None:
                client.close()
    return ended


async def killed_under_load(running: Program, chance: random.Random) -> int:
    killed = asyncio.Event()
    loads = [asyncio.create_task(calls(running.port, chance, killed)) for _ in range(CLIENTS)]
    await asyncio.sleep(chance.uniform(0.0, 0.4))
    running.popen.kill()
    running.popen.wait()
    killed.set()
    return sum(await asyncio.gather(*loads))


async def books_after_the_grace(url: str, folder: Path) -> Account:
    """Return the one counter as a store finds it that comes when the grace of the dead is over."""
    late = time.time() + GRACE + 5
    store = open_store(url, folder=folder, clock=lambda: late)
    assert isinstance(store, SQLiteStore | RedisStore)
    for _ in range(3 + ROUNDS):
        await store.heartbeat()
    (account,) = await store.accounts()
    await store.aclose()
    return account


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_kill(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """Spent after all deaths is at least what upstream produced, at most the limit, and nothing is held any more."""
    url = own(request.getfixturevalue("redis").url) if kind == "redis" else "sqlite:///s.db"
    limit = LIMIT_EACH * ROUNDS
    (tmp_path / "s.toml").write_text(
        f'[store]\nurl = "{url}"\n[[policy]]\nuse = "budget"\ntokens = {limit}\nwindow = "month"\n'
        'floor = 1\nreserve = "bound"\n'
    )
    chance, mill, ended = random.Random(ROUNDS), Mill(), 0
    async with upstream(mill) as up:
        for _ in range(ROUNDS):
            serve = ("serve", "--config", "s.toml", "--upstream", up.url, "--port", "0")
            with program(*serve, folder=tmp_path) as running:
                ended += await killed_under_load(running, chance)
    account = await books_after_the_grace(url, tmp_path)

    print(
        f"\n{kind}: {ROUNDS} kills, {ended} calls ended, produced {mill.produced} <= spent {account.spent} <= {limit}"
    )
    assert account.reserved == 0
    assert 0 < mill.produced <= account.spent <= limit


@pytest.mark.skipif(ROUNDS < 50, reason="it waits for a real grace of 30 seconds; `make test-kill` runs it")
async def test_survivors_clean_up(tmp_path: Path) -> None:
    """A sidecar that is started after a death charges what the dead one held, by itself, when its grace is over."""
    (tmp_path / "s.toml").write_text('[[policy]]\nuse = "budget"\ntokens = 1000\nwindow = "month"\n')

    async def silent(connection: Connection) -> None:
        await connection.send(HEAD)
        await connection.hang()

    async with upstream(silent) as up:
        serve = ("serve", "--config", "s.toml", "--upstream", up.url, "--port", "0")
        with program(*serve, folder=tmp_path) as running:
            client = await Client.to(running.port)
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 100}
            await client.post("/v1/chat/completions", body)
            await up.arrived.wait()
            running.popen.kill()
            running.popen.wait()
            client.close()
        with program(*serve, folder=tmp_path):
            await asyncio.sleep(GRACE + 5)
            store = open_store("sqlite:///sidecar.db", folder=tmp_path)
            (account,) = await store.accounts()
            await store.aclose()
    assert (account.spent, account.reserved) == (105, 0)
