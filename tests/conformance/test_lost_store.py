"""A store that loses its content under running calls: they go on, and are charged all the same."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from growing import Gate, GatedUpstream, budget
from redis.asyncio import Redis
from redis_server import MISSING, SERVER, redis_server

from policies.engine.chain import Chain
from policies.engine.ledger import Ledger
from policies.stores.opening import open_store
from policies.testing import CollectingSink, FakeClock, make_call, make_services

pytestmark = pytest.mark.anyio
NEEDS_REDIS = pytest.mark.skipif(SERVER is None, reason=MISSING)

CALLS, PROMPT_TOKENS, TOKENS_BEFORE = 20, 5, 3


async def delete_file(folder: Path, port: int) -> None:
    """Delete the files of a SQLite store."""
    for path in folder.glob("s.db*"):
        path.unlink()


async def flush_server(folder: Path, port: int) -> None:
    """Remove all keys of a Redis server."""
    client = Redis(port=port)
    await client.flushall()
    await client.aclose()


@pytest.mark.parametrize(
    ("tokens_after", "is_reserved_again"), [(2, False), (70, True)], ids=["ends at once", "grows before it ends"]
)
@pytest.mark.parametrize(
    ("kind", "lose"),
    [
        pytest.param("sqlite", delete_file, id="sqlite"),
        pytest.param("redis", flush_server, id="redis", marks=NEEDS_REDIS),
    ],
)
async def test_calls_are_charged_after_the_store_lost_everything(
    tmp_path: Path,
    kind: str,
    lose: Callable[[Path, int], Awaitable[None]],
    tokens_after: int,
    caplog: pytest.LogCaptureFixture,
    *,
    is_reserved_again: bool,
) -> None:
    """No stream is cut, each is charged in full, nothing stays reserved, and the log says so in a bounded number of lines."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(redis_server(tmp_path)) if kind == "redis" else None
        store = open_store("sqlite:///s.db" if server is None else server.url, folder=tmp_path)
        services = make_services(clock=FakeClock(), store=store)
        policy, ledger, gates = budget(100_000), Ledger(services), [Gate() for _ in range(CALLS)]
        async with anyio.create_task_group() as group:
            for gate in gates:
                upstream = GatedUpstream([*["x"] * TOKENS_BEFORE, gate, *["x"] * tokens_after])
                chain = Chain([policy], upstream, services, ledger=ledger)
                group.start_soon(chain.run, make_call("hi", services=services), CollectingSink([]))
            for gate in gates:
                await gate.reached.wait()
            await lose(tmp_path, 0 if server is None else server.port)
            await store.heartbeat()
            for gate in gates:
                gate.opened.set()
        await ledger.catch_up()
        ledger.stop()
        (account,) = await store.accounts()
        await store.aclose()

    assert (account.spent, account.reserved) == (CALLS * (PROMPT_TOKENS + TOKENS_BEFORE + tokens_after), 0)
    texts = [record.getMessage() for record in caplog.records if "had lost its reservation" in record.getMessage()]
    assert len(texts) == 11, "ten calls, and one line for the others"
    assert all(("reserved again" in text) == is_reserved_again for text in texts)
