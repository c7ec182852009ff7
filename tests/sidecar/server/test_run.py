"""The server process: drain, signals, SIGKILL, and a port that is in use."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
from process import program, ran
from scripts import endless, silent
from serving import CHAT, events, settings_of, sidecar
from stored import counters_in_file
from wire import Client, Connection, eventually, token, until_unchanged, upstream

from sidecar.downstream.client_errors import draining

pytestmark = pytest.mark.anyio

SLOW = {"model": "mock-1000-20-0", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 900}


async def test_drain_refuses_new_calls_and_ends_running_ones(tmp_path: Path) -> None:
    """While the process drains new calls are 503; running calls get the drain time, then an error, and are settled."""
    async with upstream(endless) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        chat, openai, plain = [await served.client() for _ in range(3)]
        await chat.post("/api/chat", CHAT)
        await openai.post("/v1/chat/completions", SLOW)
        await chat.until(b'"a"')
        await openai.until(b'"a"')
        up.play(silent)
        await plain.post("/v1/chat/completions", SLOW | {"stream": False})
        await eventually(lambda: len(up.requests) == 3)
        over = asyncio.create_task(served.gateway.active_calls.drain(0.2, draining()))
        await eventually(lambda: served.gateway.active_calls.draining)
        status, headers, body = await served.post("/api/chat", CHAT)
        ready = await served.get("/readyz")
        alive = await served.get("/healthz")
        assert not over.done()
        chat_end = await chat.until(b"0\r\n\r\n")
        openai_end = await openai.until(b"0\r\n\r\n")
        plain_status, _, plain_body = await plain.answer()
        await over
        account = await served.account()

    assert (status, json.loads(body)["code"], headers["connection"]) == (503, "draining", "close")
    assert (ready[0], json.loads(ready[2])["status"], alive[0]) == (503, "draining", 200)
    assert b'event: error\ndata: {"message":"The service is restarting.' in chat_end
    assert b'"code":"draining"' in openai_end
    assert b"data: [DONE]\n\n" in openai_end
    assert (plain_status, json.loads(plain_body)["error"]["code"]) == (503, "draining")
    assert account.reserved == 0
    assert account.spent >= 900


async def test_drain_does_not_wait_for_a_client_that_never_reads(tmp_path: Path) -> None:
    """The drain does not wait for a client that never reads; its upstream was slowed down before."""
    sent = 0

    async def flood(connection: Connection) -> None:
        nonlocal sent
        await connection.stream("a", finish=None, done=False)
        while True:
            await connection.chunk(token("x" * 50_000))
            sent += 50_000

    async with upstream(flood) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.pause_reading()
        await client.post("/v1/chat/completions", SLOW)
        await until_unchanged(lambda: sent)
        await asyncio.wait_for(served.gateway.active_calls.drain(0, draining()), 10)
        account = await served.account()

    assert account.reserved == 0
    assert sent < 40_000_000


async def test_stream_that_ends_while_draining_is_complete(tmp_path: Path) -> None:
    """A stream that ends within the drain time is complete."""
    go_on = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.stream("a", finish=None, done=False)
        await go_on.wait()
        await connection.chunk(token("b") + b"data: [DONE]\n\n")
        await connection.send(b"0\r\n\r\n")

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        answer = asyncio.create_task(served.post("/api/chat", CHAT))
        await eventually(lambda: len(up.requests) == 1)
        over = asyncio.create_task(served.gateway.active_calls.drain(30, draining()))
        await eventually(lambda: served.gateway.active_calls.draining)
        go_on.set()
        _, _, body = await answer
        await over

    assert events(body)[-2:] == [("token", '"b"'), ("done", "")]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_sigterm_ends_streams_and_settles_them(tmp_path: Path, workers: str) -> None:
    """SIGTERM with open streams ends each with an error event, settles all calls, and exits with 0."""
    (tmp_path / "s.toml").write_text("[server]\ndrain = 0.3\n")
    with program("mock", "--port", "0", "--interval-ms", "20", "--tokens", "400", folder=tmp_path) as mock:
        serve = ("serve", "--config", "s.toml", "--upstream", mock.url, "--port", "0", "--workers", workers)
        with program(*serve, folder=tmp_path) as sidecar:
            assert sidecar.line == f"sidecar listening on http://127.0.0.1:{sidecar.port}"
            clients = [await Client.to(sidecar.port) for _ in range(6)]
            for at, client in enumerate(clients):
                await client.post("/v1/chat/completions" if at % 2 else "/api/chat", SLOW)
            for client in clients:
                await client.until(b"tok1")
            sidecar.popen.send_signal(signal.SIGTERM)
            ends = [await client.until(b"0\r\n\r\n") for client in clients]
            assert await asyncio.to_thread(sidecar.popen.wait, 30) == 0
            for at, end in enumerate(ends):
                assert (b"data: [DONE]\n\n" if at % 2 else b"event: error\n") in end
                assert b'"code":"draining"' in end
            for client in clients:
                client.close()
    (budget,) = [row for _, row in counters_in_file(tmp_path / "sidecar.db") if row.start >= 0]
    assert budget.held == 0
    assert 6 * 5 < budget.spent < 6 * 200


async def test_sigkill_loses_no_charge(tmp_path: Path) -> None:
    """After SIGKILL the reservations of running calls still count against the budget."""
    with program("mock", "--port", "0", folder=tmp_path) as mock:
        serve = ("serve", "--upstream", mock.url, "--port", "0")
        with program(*serve, folder=tmp_path) as sidecar:
            client = await Client.to(sidecar.port)
            await client.post("/v1/chat/completions", SLOW)
            await client.until(b"tok1")
            sidecar.popen.kill()
            sidecar.popen.wait()
            client.close()
        with program(*serve, folder=tmp_path) as sidecar:
            client = await Client.to(sidecar.port)
            await client.post("/v1/chat/completions", SLOW | {"model": "mock-1-0-0"})
            _, headers, _ = await client.answer()
            client.close()

    assert int(headers["x-ratelimit-remaining-tokens"]) == 500_000 - 2 * (5 + 900)


async def test_killed_worker_is_replaced(tmp_path: Path) -> None:
    """A worker that is killed is replaced, and calls are served meanwhile."""
    with program("mock", "--port", "0", folder=tmp_path) as mock:
        serve = ("serve", "--upstream", mock.url, "--port", "0", "--workers", "2")
        with program(*serve, folder=tmp_path) as sidecar:
            before = sidecar.workers
            os.kill(before[0], signal.SIGKILL)
            await eventually(lambda: len(sidecar.workers) == 2 and sidecar.workers != before)
            for _ in range(8):
                client = await Client.to(sidecar.port)
                await client.post("/api/chat", CHAT)
                assert (await client.answer())[0] == 200
                client.close()
            assert sidecar.stop() == 0


async def test_port_in_use_is_one_line(tmp_path: Path) -> None:
    """A port that is in use gives one line with the cure, and no traceback."""
    with program("mock", "--port", "0", folder=tmp_path) as mock:
        code, out, err = ran("serve", "--upstream", "http://h/v1", "--port", str(mock.port), folder=tmp_path)

    assert (code, out) == (1, "")
    assert err.startswith(f"sidecar: cannot listen on 127.0.0.1:{mock.port}: ")
    assert err.endswith("choose another --host or --port\n")
