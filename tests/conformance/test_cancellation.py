"""The client leaves, in every phase of a call: upstream is closed, nothing more is sent, everything is settled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from serving import CHAT, Sidecar, settings_of, sidecar
from wire import HEAD, Client, Connection, Script, Upstream, eventually, token, upstream

from policies import Call, Lease, Policy
from policies.testing import make_call
from sidecar.upstream.attempt import Attempt
from sidecar.upstream.client import UpstreamClient
from sidecar.upstream.transport.http_transport import HttpTransport

pytestmark = pytest.mark.anyio

HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PROMPT = 5
LEAVE = pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["FIN", "RST"])


async def silent(connection: Connection) -> None:
    await connection.hang()


async def head_only(connection: Connection) -> None:
    await connection.send(HEAD)
    await connection.hang()


async def mid_stream(connection: Connection) -> None:
    await connection.send(HEAD)
    await connection.chunk(token("a"))
    await connection.chunk(token("b"))
    await connection.hang()


async def busy(connection: Connection) -> None:
    await connection.answer(503, b"{}", "retry-after: 15")


async def half_a_body(connection: Connection) -> None:
    await connection.send(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"cho')
    await connection.hang()


@LEAVE
@pytest.mark.parametrize(
    ("script", "stream", "spent"),
    [
        pytest.param(silent, True, PROMPT, id="before the head"),
        pytest.param(head_only, True, PROMPT, id="before the first token"),
        pytest.param(mid_stream, True, PROMPT + 2, id="mid-stream"),
        pytest.param(silent, False, PROMPT + 40, id="plain call, before the head"),
        pytest.param(half_a_body, False, PROMPT + 40, id="plain call, in the body"),
    ],
)
async def test_at_upstream(
    tmp_path: Path, script: Script, leave: Callable[[Client], None], *, stream: bool, spent: int
) -> None:
    """The upstream connection closes, and the call pays its prompt and what was read; a plain one pays its hold."""
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        await client.post("/v1/chat/completions", HI | {"stream": stream, "max_tokens": 40})
        await asyncio.wait_for(up.arrived.wait(), 5)
        if script is mid_stream:
            await client.until(b'"b"')
        leave(client)
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        account = await served.account()

    assert len(up.requests) == 1
    assert (account.spent, account.reserved) == (spent, 0)


@LEAVE
async def test_in_backoff(tmp_path: Path, leave: Callable[[Client], None]) -> None:
    """A client that leaves while a retry is waited for ends the waiting; nothing was done, nothing is charged."""
    async with upstream(busy) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        await client.post("/api/chat", CHAT)
        await client.until(b"event: start\ndata: \n\n")
        await asyncio.wait_for(up.arrived.wait(), 5)
        leave(client)
        account = await served.account()

    assert len(up.requests) == 1
    assert (account.spent, account.reserved) == (0, 0)


class Waits(Policy, frozen=True):
    """Waits for ever, in the phase that it is told."""

    where: str

    async def admit(self, call: Call) -> Lease | None:
        if self.where == "admit":
            await asyncio.Event().wait()
        return None

    async def enter(self, call: Call) -> Lease | None:
        if self.where == "enter":
            await asyncio.Event().wait()
        return None


@asynccontextmanager
async def waiting(folder: Path, up: Upstream, where: str) -> AsyncIterator[Sidecar]:
    settings = settings_of(folder, up.url)
    waits = Waits(where, name="waits")
    base = msgspec.structs.replace(settings.base, policies=(*settings.base.policies, waits))
    async with sidecar(msgspec.structs.replace(settings, base=base)) as served:
        yield served


@LEAVE
@pytest.mark.parametrize("where", ["admit", "enter"])
async def test_before_upstream(tmp_path: Path, where: str, leave: Callable[[Client], None]) -> None:
    """A client that leaves while a policy or a queue lets it wait never reaches upstream, and pays nothing."""
    async with upstream(silent) as up, waiting(tmp_path, up, where) as served:
        client = await served.client()
        await client.post("/v1/chat/completions", HI)
        await eventually(lambda: len(served.gateway.active_calls) == 1)
        leave(client)
        await eventually(lambda: len(served.gateway.active_calls) == 0)
        accounts = await served.gateway.policy_services.store.accounts()

    assert not up.requests
    assert [(account.spent, account.reserved) for account in accounts] in ([], [(0, 0)])


@LEAVE
async def test_in_handshake(tmp_path: Path, leave: Callable[[Client], None]) -> None:
    """A client that leaves while upstream is still being connected to ends that; nothing was done, nothing is charged."""
    async with upstream(silent) as up:
        url = up.url.replace("http:", "https:")
        async with sidecar(settings_of(tmp_path, url)) as served:
            client = await served.client()
            await client.post("/v1/chat/completions", HI)
            await eventually(lambda: up.open == 1)
            leave(client)
            await eventually(lambda: up.open == 0)
            account = await served.account()

    assert (account.spent, account.reserved) == (0, 0)


async def test_half_a_request(tmp_path: Path) -> None:
    """A client that leaves before its body is whole has asked for nothing."""
    async with upstream(silent) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        await client.post("/api/chat", b'{"mess', "content-length: 100")
        client.reset()
        status, _, _ = await served.get("/healthz")

    assert (status, len(up.requests)) == (200, 0)


async def test_at_the_end(tmp_path: Path) -> None:
    """A call that is cancelled while its complete answer is read out closes its connection too."""

    async def no_last_chunk(connection: Connection) -> None:
        await connection.send(HEAD)
        await connection.chunk(token("a"))
        await connection.chunk(b"data: [DONE]\n\n")
        await connection.hang()

    async with upstream(no_last_chunk) as up:
        settings = settings_of(tmp_path, up.url)
        server = UpstreamClient(settings.upstreams[0], HttpTransport(), clock=time.time)
        call = make_call("hi")

        async def reads() -> None:
            async with Attempt(server, call) as stream:
                await stream.deliver(lambda _: True)
                asyncio.get_running_loop().call_soon(reading.cancel)

        reading = asyncio.create_task(reads())
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        await server.aclose()


async def test_nothing_left(tmp_path: Path) -> None:
    """After a hundred clients that left in mid-stream, no connection, task or hold is left."""
    before = len(asyncio.all_tasks())
    async with upstream(mid_stream) as up, sidecar(settings_of(tmp_path, up.url, FREE)) as served:
        running = len(asyncio.all_tasks())
        for _ in range(4):
            clients = [await served.client() for _ in range(25)]
            for client in clients:
                await client.post("/v1/chat/completions", HI | {"stream": True, "max_tokens": 40})
            for client in clients:
                await client.until(b'"b"')
                client.reset()
        account = await served.account()
        await eventually(lambda: up.open == 0)
        await eventually(lambda: len(asyncio.all_tasks()) <= running)

    assert (account.spent, account.reserved) == (100 * (PROMPT + 2), 0)
    await eventually(lambda: len(asyncio.all_tasks()) <= before)


FREE = '[[policy]]\nuse = "budget"\ntokens = 1_000_000\n'
