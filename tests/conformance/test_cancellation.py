"""A client disconnects in each phase of a call: its upstream connection closes, and the call is settled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from scripts import head_only, mid_stream, silent
from serving import CHAT, Sidecar, settings_of, sidecar, with_policies
from wire import HEAD, Client, Connection, Script, Upstream, eventually, token, upstream

from policies import Call, Lease, Policy
from policies.testing import make_call
from sidecar.upstream.attempt import Attempt
from sidecar.upstream.client import UpstreamClient
from sidecar.upstream.transport.http_transport import HttpTransport

pytestmark = pytest.mark.anyio

HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PROMPT_TOKENS = 5
LEAVE = pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["FIN", "RST"])


async def busy(connection: Connection) -> None:
    await connection.answer(503, b"{}", "retry-after: 15")


async def half_a_body(connection: Connection) -> None:
    await connection.send(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"cho')
    await connection.hang()


@LEAVE
@pytest.mark.parametrize(
    ("script", "stream", "spent"),
    [
        pytest.param(silent, True, PROMPT_TOKENS, id="before the head"),
        pytest.param(head_only, True, PROMPT_TOKENS, id="before the first token"),
        pytest.param(mid_stream, True, PROMPT_TOKENS + 1, id="mid-stream"),
        pytest.param(silent, False, PROMPT_TOKENS + 40, id="plain call, before the head"),
        pytest.param(half_a_body, False, PROMPT_TOKENS + 40, id="plain call, in the body"),
    ],
)
async def test_disconnect_closes_the_upstream_connection(
    tmp_path: Path, script: Script, leave: Callable[[Client], None], *, stream: bool, spent: int
) -> None:
    """A stream is charged its prompt and what was read; a plain call, whose usage is unknown, its reservation."""
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        await client.post("/v1/chat/completions", HI | {"stream": stream, "max_tokens": 40})
        await asyncio.wait_for(up.arrived.wait(), 5)
        if script is mid_stream:
            await client.until(b'"a"')
        leave(client)
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        account = await served.account()

    assert len(up.requests) == 1
    assert (account.spent, account.reserved) == (spent, 0)


@LEAVE
async def test_disconnect_ends_the_backoff(tmp_path: Path, leave: Callable[[Client], None]) -> None:
    """A client that disconnects while its call waits for a retry ends the wait; the call is charged nothing."""
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
    """Waits for ever in the hook *where*."""

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
    """Run a sidecar whose last policy waits for ever in the hook *where*."""
    async with sidecar(with_policies(settings_of(folder, up.url), Waits(where, name="waits"))) as served:
        yield served


@LEAVE
@pytest.mark.parametrize("where", ["admit", "enter"])
async def test_disconnect_before_upstream_costs_nothing(
    tmp_path: Path, where: str, leave: Callable[[Client], None]
) -> None:
    """A call that is cancelled while a policy or a queue delays it does not reach upstream, and is charged nothing."""
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
async def test_disconnect_ends_the_tls_handshake(tmp_path: Path, leave: Callable[[Client], None]) -> None:
    """A client that disconnects during the TLS handshake with upstream ends it; the call is charged nothing."""
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


async def test_incomplete_request_reaches_no_upstream(tmp_path: Path) -> None:
    """A client that disconnects before its body is complete makes no call."""
    async with upstream(silent) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        await client.post("/api/chat", b'{"mess', "content-length: 100")
        client.reset()
        status, _, _ = await served.get("/healthz")

    assert (status, len(up.requests)) == (200, 0)


async def test_cancellation_behind_the_last_event_closes_the_connection(tmp_path: Path) -> None:
    """A call that is cancelled while it reads the end of a complete response closes its upstream connection."""

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


async def test_no_resources_are_left_after_disconnects(tmp_path: Path) -> None:
    """After a hundred clients disconnected in mid-stream, no connection, task or reservation is left."""
    before = len(asyncio.all_tasks())
    async with upstream(mid_stream) as up, sidecar(settings_of(tmp_path, up.url, FREE)) as served:
        running = len(asyncio.all_tasks())
        for _ in range(4):
            clients = [await served.client() for _ in range(25)]
            for client in clients:
                await client.post("/v1/chat/completions", HI | {"stream": True, "max_tokens": 40})
            for client in clients:
                await client.until(b'"a"')
                client.reset()
        account = await served.account()
        await eventually(lambda: up.open == 0)
        await eventually(lambda: len(asyncio.all_tasks()) <= running)

    assert (account.spent, account.reserved) == (100 * (PROMPT_TOKENS + 1), 0)
    await eventually(lambda: len(asyncio.all_tasks()) <= before)


FREE = '[[policy]]\nuse = "budget"\ntokens = 1_000_000\n'
