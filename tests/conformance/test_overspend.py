"""A budget with room for 192 calls, and 600 of them at once: through the real server, on every store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from process import program
from redis_server import RedisServer, own
from serving import settings_of, sidecar
from wire import HEAD, Client, Connection, eventually, sse, token, upstream

from policies.api.store import Store
from policies.stores.opening import open_store

pytestmark = pytest.mark.anyio

CALLS, FIT, PROMPT, ANSWER, CLAMPED = 600, 192, 5, 100, 40
LIMIT = FIT * (PROMPT + ANSWER) + PROMPT + CLAMPED
"""Room for 192 calls and, with a lowered ceiling, for one more."""
CALL = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": ANSWER}
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


class Watch:
    """Reads the books again and again, and keeps the most that was ever spent and reserved."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.most = self.looks = 0
        self._ended = False
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while not self._ended:
            for account in await self._store.accounts():
                self.most = max(self.most, account.spent + account.reserved)
            self.looks += 1
            await asyncio.sleep(0)

    async def end(self) -> tuple[int, int]:
        """Stop; return what is spent and what is reserved."""
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
    """Give a script of upstream that spends all that it may, and the event before which no call ends."""
    opened = asyncio.Event()

    async def spend(connection: Connection) -> None:
        await connection.send(HEAD)
        await connection.chunk(token("x"))
        await opened.wait()
        ceiling = connection.body["max_tokens"]
        await connection.chunk(sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}))
        await connection.chunk(sse({"choices": [], "usage": {"prompt_tokens": PROMPT, "completion_tokens": ceiling}}))
        await connection.chunk(b"data: [DONE]\n\n")
        await connection.send(b"0\r\n\r\n")

    yield spend, opened


async def overspend(ports: Sequence[int], store: Store, asked: Sequence[Connection], opened: asyncio.Event) -> None:
    watch = Watch(store)
    calls = [asyncio.create_task(call(ports[at % len(ports)], CALL)) for at in range(CALLS)]
    await eventually(lambda: sum(task.done() for task in calls) + len(asked) >= CALLS)
    opened.set()
    answers = await asyncio.gather(*calls)
    spent, reserved = await watch.end()

    passed = [body for status, body in answers if status == 200]
    refused = [json.loads(body)["error"] for status, body in answers if status == 429]
    assert (len(passed), len(refused)) == (FIT + 1, CALLS - FIT - 1)
    assert all(body.endswith(b"data: [DONE]\n\n") for body in passed)
    assert {(error["code"], error["policy"]) for error in refused} == {("budget_exceeded", "budget")}
    assert sorted(request.body["max_tokens"] for request in asked) == [CLAMPED, *[ANSWER] * FIT]
    assert watch.most <= LIMIT
    assert watch.looks > 3
    assert (spent, reserved) == (LIMIT, 0)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
async def test_one_process(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """As many of 600 calls pass as fit, the last one clamped, and not one more; at no moment is more spent and reserved."""
    url = {"memory": "memory://", "sqlite": "sqlite:///s.db"}.get(kind) or own(request.getfixturevalue("redis").url)
    async with gate() as (script, opened), upstream(script) as up:
        settings = settings_of(tmp_path, up.url, CONFIG.replace("STORE", url))
        async with sidecar(settings) as served:
            store = served.gateway.policy_services.store if kind == "memory" else open_store(url, folder=tmp_path)
            await overspend([served.port], store, up.requests, opened)
            await store.aclose()


async def test_four_workers(tmp_path: Path) -> None:
    """The same with four processes on one SQLite file."""
    (tmp_path / "s.toml").write_text(CONFIG.replace("STORE", "sqlite:///s.db"))
    async with gate() as (script, opened), upstream(script) as up:
        serve = ("serve", "--config", "s.toml", "--upstream", up.url, "--port", "0", "--workers", "4")
        with program(*serve, folder=tmp_path) as running:
            store = open_store("sqlite:///s.db", folder=tmp_path)
            await overspend([running.port], store, up.requests, opened)
            await store.aclose()


async def test_three_nodes(redis: RedisServer, tmp_path: Path) -> None:
    """The same with three servers of their own, which share nothing but a Redis."""
    url = own(redis.url)
    (tmp_path / "s.toml").write_text(CONFIG.replace("STORE", url))
    async with AsyncExitStack() as stack:
        script, opened = await stack.enter_async_context(gate())
        up = await stack.enter_async_context(upstream(script))
        serve = ("serve", "--config", "s.toml", "--upstream", up.url, "--port", "0")
        nodes = [stack.enter_context(program(*serve, folder=tmp_path)) for _ in range(3)]
        store = open_store(url, folder=tmp_path)
        await overspend([node.port for node in nodes], store, up.requests, opened)
        await store.aclose()
