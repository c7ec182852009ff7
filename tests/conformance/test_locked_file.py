"""Another program holds the lock of the SQLite file: streams, health checks and cancellations do not wait for it.

The tests compare the order of events. A call that needs the file is sent first; what must not wait for the lock has to end before
that call is answered. Nothing is released by a timer: the test holds the lock until it has seen what it waits for.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from process import program
from scripts import mid_stream
from wire import Client, Connection, Upstream, eventually, sse, token, upstream

from policies.stores.opening import open_store

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 50}
PROMPT_TOKENS, ANSWERS, MOST_ROUNDS = 5, 20, 3
"""ANSWERS is what has to arrive while one call waits for the lock; on a slow machine one of MOST_ROUNDS must do."""
FAILING_CALLS, FAILING_SECONDS = 40, 30.0
"""Calls during an outage, one after the other, and the time limit of all: without a memory each waits for 2 seconds."""
WAITING_CALLS = 100
POLLS, POLL_SECONDS = 200, 0.05
CONFIG = '[[policy]]\nuse = "budget"\ntokens = 1_000_000\nwindow = "month"\n'


Answer: TypeAlias = tuple[int, dict[str, str], bytes]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the file at *path* for writing while the block lasts."""
    other = sqlite3.connect(path, timeout=10, isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        other.close()


class Served:
    """A sidecar in a process of its own, its upstream, and streams that the test feeds."""

    def __init__(self, port: int, up: Upstream, folder: Path) -> None:
        self.port, self.up, self.file, self._folder = port, up, folder / "sidecar.db", folder
        self.health: Client
        self._clients: list[Client] = []
        self._calls: list[asyncio.Task[Answer]] = []

    async def connect(self) -> Client:
        """Return a client that is closed at the end."""
        self._clients.append(await Client.to(self.port))
        return self._clients[-1]

    async def close(self) -> None:
        """Disconnect all clients, so that the program has nothing to drain."""
        for client in self._clients:
            client.close()
        for each in self._calls:
            each.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def stream(self) -> tuple[Client, Connection]:
        """Start a stream; return its client, which has read one token, and its connection at upstream."""
        before = len(self.up.requests)
        client = await self.connect()
        await client.post(V1, HI)
        await client.until(b'"a"')
        return client, self.up.requests[before]

    async def accepted(self) -> Client:
        """Return a client whose connection the program has accepted: it reads a request of it before any later one."""
        client = await self.connect()
        await healthy(client)
        return client

    async def calling(self, client: Client) -> asyncio.Task[Answer]:
        """Send a call; return the task that reads its answer."""
        await client.post(V1, HI)
        self._calls.append(asyncio.create_task(client.answer()))
        return self._calls[-1]

    async def status(self) -> int:
        """Make a call; return the status of its answer."""
        return (await (await self.calling(await self.accepted())))[0]

    async def charged(self, amount: int) -> tuple[int, int]:
        """Wait until *amount* is spent and nothing reserved; return what is spent and reserved."""
        store, found = open_store("sqlite:///sidecar.db", folder=self._folder), (0, 0)
        for _ in range(POLLS):
            (account,) = await store.accounts()
            found = account.spent, account.reserved
            if found == (amount, 0):
                break
            await asyncio.sleep(POLL_SECONDS)
        await store.aclose()
        return found


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Served]:
    """Run the program with a SQLite file and a budget."""
    (folder / "s.toml").write_text(CONFIG)
    async with upstream(mid_stream) as up:
        serve = ("serve", "--config", "s.toml", "--upstream", up.url, "--port", "0")
        with program(*serve, folder=folder) as running:
            served = Served(running.port, up, folder)
            served.health = await served.connect()
            await healthy(served.health)
            try:
                yield served
            finally:
                await served.close()


async def healthy(client: Client) -> None:
    """Check that `/healthz` answers *client*."""
    client.writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert (await client.answer())[0] == 200


async def finish(connection: Connection, tokens: int) -> None:
    """End the stream at *connection*, with the report of its usage."""
    await connection.chunk(sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens}
    await connection.chunk(sse({"choices": [], "usage": usage}))
    await connection.chunk(b"data: [DONE]\n\n")
    await connection.send(b"0\r\n\r\n")


async def test_streams_and_health_checks_do_not_wait_for_the_lock(tmp_path: Path) -> None:
    """While one call waits for the lock, `/healthz` answers, tokens arrive, and a cancellation reaches upstream.

    The waiting call then gets 503 `store_unavailable`, also while the lock is held. A stream that ends meanwhile ends normally,
    and is charged once the lock is released.
    """
    ends = []
    async with serving(tmp_path) as served:
        spent = 0
        for _ in range(MOST_ROUNDS):
            (client, connection), (leaving, left) = await served.stream(), await served.stream()
            caller = await served.accepted()
            with locked(served.file):
                waiting = await served.calling(caller)
                for _ in range(ANSWERS):
                    await healthy(served.health)
                    await connection.chunk(token("t"))
                    await client.until(b'"t"')
                leaving.close()
                await asyncio.wait_for(left.gone.wait(), 10)
                is_first = not waiting.done()
                status, headers, body = await waiting
                await finish(connection, 1 + ANSWERS)
                await client.until(b"[DONE]\n\n")
                await healthy(served.health)
            ends.append((status, json.loads(body)["error"]["code"], headers.get("retry-after")))
            spent += PROMPT_TOKENS + 1 + ANSWERS + PROMPT_TOKENS + 1
            assert await served.charged(spent) == (spent, 0)
            if is_first:
                break

    assert is_first, "the waiting call was answered before all others: the lock held the event loop"
    assert set(ends) == {(503, "store_unavailable", "1")}


async def test_call_waits_for_a_lock_that_is_released_soon(tmp_path: Path) -> None:
    """A call that meets a locked file is answered normally if the lock is released within its patience."""
    statuses = []
    async with serving(tmp_path) as served:
        served.up.play(answers)
        for _ in range(MOST_ROUNDS):
            caller = await served.accepted()
            with locked(served.file):
                waiting = await served.calling(caller)
                for _ in range(ANSWERS):
                    await healthy(served.health)
                is_waiting = not waiting.done()
            statuses.append((await waiting)[0])
            if is_waiting:
                break

    assert is_waiting, "the call was answered while the file was locked"
    assert statuses[-1] == 200


async def answers(connection: Connection) -> None:
    """Stream two tokens."""
    await connection.stream("a", "b")


async def test_calls_fail_at_once_while_the_store_is_known_to_be_down(tmp_path: Path) -> None:
    """After one call has waited for the lock in vain, most others get 503 without waiting; all work after its release."""
    async with serving(tmp_path) as served:
        served.up.play(answers)
        with locked(served.file):
            first = await served.status()
            async with asyncio.timeout(FAILING_SECONDS):
                statuses = {await served.status() for _ in range(FAILING_CALLS)}
        assert (first, statuses) == (503, {503})
        assert not served.up.requests
        for _ in range(POLLS):
            recovered = await served.status()
            if recovered == 200:
                break
            await asyncio.sleep(POLL_SECONDS)
        served.health.writer.write(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        ready, _, _ = await served.health.answer()

    assert (recovered, ready) == (200, 200)


async def test_many_calls_that_wait_for_the_lock_are_all_answered(tmp_path: Path) -> None:
    """Calls that wait for the lock together are all served after its release, and each is charged once."""
    async with serving(tmp_path) as served:
        served.up.play(counted)
        admitted = 0
        for _ in range(MOST_ROUNDS):
            clients = [await served.accepted() for _ in range(WAITING_CALLS)]
            with locked(served.file):
                waiting = [await served.calling(client) for client in clients]
                await healthy(served.health)
                still = sum(not each.done() for each in waiting)
            statuses = [status for status, _, _ in await asyncio.gather(*waiting)]
            admitted += statuses.count(200)
            await eventually(lambda: len(served.up.requests) == admitted)  # noqa: B023  # awaited in the same round
            spent = admitted * (PROMPT_TOKENS + 1)
            assert await served.charged(spent) == (spent, 0)
            if still == WAITING_CALLS:
                break

    assert still == WAITING_CALLS, "calls were answered while the file was locked"
    assert set(statuses) == {200}


async def counted(connection: Connection) -> None:
    """Stream one token, and report it."""
    await connection.stream("a", finish=None, done=False)
    await finish(connection, 1)
