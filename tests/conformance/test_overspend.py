"""600 calls at once against a budget for 192 of them, through the real server, on every store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from process import program
from redis_server import RedisServer, with_own_prefix
from serving import settings_of, sidecar
from wire import HEAD, Client, Connection, eventually, sse, token, upstream

from policies.api.store import Store
from policies.stores.opening import open_store

pytestmark = pytest.mark.anyio

CALLS, ADMITTED, PROMPT_TOKENS, CEILING, CLAMPED = 600, 192, 5, 100, 40
LIMIT = ADMITTED * (PROMPT_TOKENS + CEILING) + PROMPT_TOKENS + CLAMPED
"""Tokens for 192 calls, and for one more with a lowered ceiling."""
CALL = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": CEILING}
CONFIG = f"""
[store]
url = "STORE"
[[policy]]
use = "rate"
requests = {CALLS}
window = 3600
[[policy]]
use = "budget"
tokens = {LIMIT}
floor = 10
window = "month"
"""


class StoreWatch:
    """Reads the counters repeatedly, and keeps the largest sum of spent and reserved."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.largest = self.reads = 0
        self._ended = False
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while not self._ended:
            for account in await self._store.accounts():
                self.largest = max(self.largest, account.spent + account.reserved)
            self.reads += 1
            await asyncio.sleep(0)

    async def end(self) -> tuple[int, int]:
        """Stop reading; return what is spent and reserved at the end."""
        self._ended = True
        await self._task
        (account,) = await self._store.accounts()
        return account.spent, account.reserved


async def call(port: int, body: dict[str, Any]) -> tuple[int, bytes]:
    client = await Client.to(port)
    try:
        await client.post("/v1/chat/completions", body)
        status, _, answer = await client.answer()
        return status, answer
    finally:
        client.close()


@asynccontextmanager
async def gate() -> AsyncIterator[tuple[Any, asyncio.Event]]:
    """Yield a script of an upstream that spends all it may, and the event that lets its calls end."""
    opened = asyncio.Event()

    async def spend(connection: Connection) -> None:
        await connection.send(HEAD)
        await connection.chunk(token("x"))
        await opened.wait()
        ceiling = connection.body["max_tokens"]
        await connection.chunk(sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}))
        await connection.chunk(
            sse({"choices": [], "usage": {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": ceiling}})
        )
        await connection.chunk(b"data: [DONE]\n\n")
        await connection.send(b"0\r\n\r\n")

    yield spend, opened


async def check_overspend(
    ports: Sequence[int], store: Store, asked: Sequence[Connection], opened: asyncio.Event
) -> None:
    """Make all calls at once; check who is admitted, and that the limit holds at each moment."""
    await store.accounts()  # connects, so that the reads below come during the calls
    watch = StoreWatch(store)
    calls = [asyncio.create_task(call(ports[at % len(ports)], CALL)) for at in range(CALLS)]
    await eventually(lambda: sum(task.done() for task in calls) + len(asked) >= CALLS)
    opened.set()
    answers = await asyncio.gather(*calls)
    spent, reserved = await watch.end()

    passed = [body for status, body in answers if status == 200]
    refused = [json.loads(body)["error"] for status, body in answers if status == 429]
    others = {(status, body) for status, body in answers if status not in (200, 429)}
    assert not others
    assert (len(passed), len(refused)) == (ADMITTED + 1, CALLS - ADMITTED - 1)
    assert all(body.endswith(b"data: [DONE]\n\n") for body in passed)
    assert {(error["code"], error["policy"]) for error in refused} == {("budget_exceeded", "budget")}
    assert sorted(request.body["max_tokens"] for request in asked) == [CLAMPED, *[CEILING] * ADMITTED]
    assert watch.largest <= LIMIT
    assert watch.reads > 3
    assert (spent, reserved) == (LIMIT, 0)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
async def test_one_process_keeps_the_limit(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """Exactly the calls that fit are admitted, the last one clamped; spent and reserved never exceed the limit."""
    url = {"memory": "memory://", "sqlite": "sqlite:///s.db"}.get(kind) or with_own_prefix(
        request.getfixturevalue("redis").url
    )
    async with gate() as (script, opened), upstream(script) as up:
        settings = settings_of(tmp_path, up.url, CONFIG.replace("STORE", url))
        async with sidecar(settings) as served:
            store = served.gateway.policy_services.store if kind == "memory" else open_store(url, folder=tmp_path)
            await check_overspend([served.port], store, up.requests, opened)
            await store.aclose()


async def test_four_workers_keep_the_limit(tmp_path: Path) -> None:
    """Four worker processes on one SQLite file keep the limit together."""
    (tmp_path / "s.toml").write_text(CONFIG.replace("STORE", "sqlite:///s.db"))
    async with gate() as (script, opened), upstream(script) as up:
        serve = ("serve", "--config", "s.toml", "--upstream", up.url, "--port", "0", "--workers", "4")
        with program(*serve, folder=tmp_path) as running:
            store = open_store("sqlite:///s.db", folder=tmp_path)
            await check_overspend([running.port], store, up.requests, opened)
            await store.aclose()


async def test_three_servers_keep_the_limit(redis: RedisServer, tmp_path: Path) -> None:
    """Three servers that share only a Redis keep the limit together."""
    url = with_own_prefix(redis.url)
    (tmp_path / "s.toml").write_text(CONFIG.replace("STORE", url))
    async with AsyncExitStack() as stack:
        script, opened = await stack.enter_async_context(gate())
        up = await stack.enter_async_context(upstream(script))
        serve = ("serve", "--config", "s.toml", "--upstream", up.url, "--port", "0")
        nodes = [stack.enter_context(program(*serve, folder=tmp_path)) for _ in range(3)]
        store = open_store(url, folder=tmp_path)
        await check_overspend([node.port for node in nodes], store, up.requests, opened)
        await store.aclose()
