"""A store that fails under a running sidecar, and recovers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from redis_server import MISSING, SERVER, free_port, redis_server
from scripts import hello
from serving import settings_of, sidecar
from wire import HEAD, Client, Connection, eventually, sse, token, upstream

from policies.api.store import Account, Store, StoreDown

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(SERVER is None, reason=MISSING)]

V1 = "/v1/chat/completions"
HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 50}
BOTH = '[[policy]]\nuse = "rate"\nrequests = 1000\n[[policy]]\nuse = "budget"\ntokens = 100_000\n'
RATE = '[[policy]]\nuse = "rate"\nrequests = 1000\n'
STRICT = RATE + 'when_store_fails = "refuse"\n'
LENIENT = '[[policy]]\nuse = "budget"\ntokens = 1000\nwhen_store_fails = "admit"\n'


def with_redis(port: int, text: str) -> str:
    """Return the configuration *text* with a Redis store at *port*."""
    return f'[store]\nurl = "redis://127.0.0.1:{port}/0"\n{text}'


POLLS, POLL_SECONDS = 200, 0.05
"""Polls for the recovery of the store, which has no event; their number is bounded."""


@pytest.mark.parametrize(("text", "status"), [(BOTH, 503), (RATE, 200), (STRICT, 503), (LENIENT, 200)])
async def test_failed_store_refuses_budgets_and_admits_rates(tmp_path: Path, text: str, status: int) -> None:
    """While the store is down a budget refuses and a rate admits, by default; calls are served again when it is back."""
    port = free_port()
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, with_redis(port, text))) as served:
        got, headers, body = await served.post(V1, HI)
        ready, _, _ = await served.get("/readyz")
        chat, _, chat_body = await served.post("/api/chat", {"messages": HI["messages"]})
        tasks = len(asyncio.all_tasks())
        many = await asyncio.gather(*[served.post(V1, HI) for _ in range(100)])
        await eventually(lambda: len(served.gateway.active_calls) == 0)
        assert len(asyncio.all_tasks()) <= tasks + 200, "only the tasks of kept connections are left"
        with redis_server(tmp_path, port=port):
            for _ in range(POLLS):
                if (await served.get("/readyz"))[0] == 200:
                    break
                await asyncio.sleep(POLL_SECONDS)
            recovered, _, _ = await served.post(V1, HI)

    assert (got, chat, ready, recovered) == (status, status, 503, 200)
    assert {each[0] for each in many} == {status}
    if status == 503:
        assert json.loads(body)["error"]["code"] == json.loads(chat_body)["code"] == "store_unavailable"
        assert headers["retry-after"] == "1"


async def test_call_is_charged_after_an_outage(tmp_path: Path) -> None:
    """A call that ends while the store is down stays reserved, and is charged once when the store is back."""
    go = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await connection.send(HEAD)
        await connection.chunk(token("x"))
        await go.wait()
        await connection.chunk(sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        await connection.chunk(sse({"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 3}}))
        await connection.chunk(b"data: [DONE]\n\n")
        await connection.send(b"0\r\n\r\n")

    keeps = ("--appendonly", "yes", "--appendfsync", "always")
    with redis_server(tmp_path, *keeps) as server:
        async with (
            upstream(slow) as up,
            sidecar(settings_of(tmp_path, up.url, with_redis(server.port, BOTH))) as served,
        ):
            clients = [await Client.to(served.port) for _ in range(5)]
            for client in clients:
                await client.post(V1, HI)
            for client in clients:
                await client.until(b'"x"')
            server.stop()
            go.set()
            for client in clients:
                await client.until(b"[DONE]\n\n")
                client.close()
            server.start()
            for _ in range(POLLS):
                accounts = [x for x in await accounts_of(served.gateway.policy_services.store) if x.policy == "budget"]
                if accounts and accounts[0].reserved == 0:
                    break
                await asyncio.sleep(POLL_SECONDS)

    assert [(account.spent, account.reserved) for account in accounts] == [(5 * 23, 0)]


async def accounts_of(store: Store) -> Sequence[Account]:
    """Return the counters of *store*; none while it does not answer."""
    try:
        return await store.accounts()
    except StoreDown:
        return ()
