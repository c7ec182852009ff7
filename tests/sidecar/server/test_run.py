"""The process: how it starts, stops, and what a kill cannot take away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from pathlib import Path

import pytest
from process import program, ran
from serving import CHAT, events, settings_of, sidecar
from wire import Client, Connection, eventually, token, upstream

from sidecar.downstream.client_errors import draining

pytestmark = pytest.mark.anyio

SLOW = {"model": "mock-1000-20-0", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 900}


async def forever(connection: Connection) -> None:
    await connection.stream("a", finish=None, done=False)
    await connection.hang()


async def waits(connection: Connection) -> None:
    await connection.hang()


async def test_drain(tmp_path: Path) -> None:
    """When it drains, new calls are 503, running streams get their time, then their end, and everything is settled."""
    async with upstream(forever) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        chat, openai, plain = [await served.client() for _ in range(3)]
        await chat.post("/api/chat", CHAT)
        await openai.post("/v1/chat/completions", SLOW)
        await chat.until(b'"a"')
        await openai.until(b'"a"')
        up._scripts[:] = [waits]
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


async def test_client_that_never_reads(tmp_path: Path) -> None:
    """A client that never reads cannot hold up the end: it is told, and not waited for; upstream was slowed meanwhile."""
    sent = 0

    async def flood(connection: Connection) -> None:
        nonlocal sent
        await connection.stream("a", finish=None, done=False)
        while True:
            await connection.chunk(token("x" * 50_000))
            sent += 50_000

    async with upstream(flood) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.post("/v1/chat/completions", SLOW)
        await eventually(lambda: len(up.requests) == 1)
        seen = turns = 0
        while turns < 5000:
            seen, turns = sent, turns + 1 if seen == sent else 0
            await asyncio.sleep(0)
        await asyncio.wait_for(served.gateway.active_calls.drain(0, draining()), 10)
        account = await served.account()

    assert account.reserved == 0
    assert sent < 40_000_000


async def test_streams_that_end_in_time(tmp_path: Path) -> None:
    """A stream that ends while the process drains ends as it would have."""
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


async def test_deadline(tmp_path: Path) -> None:
    """A Chat Nest answer ends by its deadline with an error, before its client would hang for ever; OpenAI's has none."""
    text = "[server]\nchat_deadline = 0.2\n"
    async with upstream(forever) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        _, _, body = await served.post("/api/chat", CHAT)
        client = await served.client()
        await client.post("/v1/chat/completions", SLOW)
        await client.until(b'"a"')
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        _, _, chat_on_v1 = await served.post("/v1/chat/completions", SLOW, "x-event-schema: chat-nest")
        assert not up.requests[1].gone.is_set()
        client.close()

    for told in (events(body), events(chat_on_v1)):
        assert told[1] == ("token", '"a"')
        assert json.loads(told[-1][1])["code"] == "upstream_timeout"


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_signal(tmp_path: Path, workers: str) -> None:
    """SIGTERM under open streams: terminal events, everything settled, exit 0."""
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
    file = sqlite3.connect(tmp_path / "sidecar.db")
    ((spent, held),) = file.execute("SELECT spent, held FROM counter WHERE start >= 0")
    file.close()
    assert held == 0
    assert 6 * 5 < spent < 6 * 200


async def test_killed(tmp_path: Path) -> None:
    """SIGKILL loses no charge: what was held is still held, and later charged; what was spent is spent."""
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


async def test_worker_dies(tmp_path: Path) -> None:
    """A worker that is killed is replaced; the others serve on."""
    with program("mock", "--port", "0", folder=tmp_path) as mock:
        serve = ("serve", "--upstream", mock.url, "--port", "0", "--workers", "2")
        with program(*serve, folder=tmp_path) as sidecar:

            def children() -> list[int]:
                path = Path(f"/proc/{sidecar.popen.pid}/task/{sidecar.popen.pid}/children")
                return [int(pid) for pid in path.read_text().split()]

            before = children()
            os.kill(before[0], signal.SIGKILL)
            await eventually(lambda: len(children()) == 2 and children() != before)
            for _ in range(8):
                client = await Client.to(sidecar.port)
                await client.post("/api/chat", CHAT)
                assert (await client.answer())[0] == 200
                client.close()
            assert sidecar.stop() == 0


async def test_port_in_use(tmp_path: Path) -> None:
    """A port that is taken is one line with the cure, and no traceback."""
    with program("mock", "--port", "0", folder=tmp_path) as mock:
        code, out, err = ran("serve", "--upstream", "http://h/v1", "--port", str(mock.port), folder=tmp_path)

    assert (code, out) == (1, "")
    assert err.startswith(f"sidecar: cannot listen on 127.0.0.1:{mock.port}: ")
    assert err.endswith("choose another --host or --port\n")


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        (["serve"], {}, "defaults: upstream: no upstream is configured; give --upstream URL, set SIDECAR_UPSTREAM or OPENAI_API_KEY, or add an [[upstream]]"),
        (["serve", "--config", "none.toml"], {}, "none.toml: file: not found; create one with `sidecar config > sidecar.toml`"),
        (["serve", "--upstream", "nonsense"], {}, "defaults: --upstream: 'nonsense' is not an http:// or https:// URL; write it like 'http://127.0.0.1:11434/v1'"),
        (["serve", "--port", "x"], {}, "sidecar serve: argument --port: invalid value 'x': expected a whole number from 0 to 65535; see `sidecar serve --help`"),
        (["serve", "--port", "70000"], {}, "sidecar serve: argument --port: invalid value '70000': expected a whole number from 0 to 65535; see `sidecar serve --help`"),
        (["serve", "--workers", "0"], {}, "sidecar serve: argument --workers: invalid value '0': expected a whole number >= 1; see `sidecar serve --help`"),
        (["serve", "--nope"], {}, "sidecar: unrecognized arguments: --nope; see `sidecar --help`"),
        (["check", "--config", "bad.toml"], {}, "bad.toml: server.port: invalid value 'x': expected a whole number; omit port for the default 8787\nbad.toml: policy[0].max_messages: invalid value 0: expected a whole number >= 1; see `sidecar config` for an example"),
        (["check"], {"SIDECAR_PORT": "x"}, "defaults: SIDECAR_PORT: invalid value 'x': expected a whole number from 0 to 65535; correct or unset the variable"),
        (["serve", "--upstream", "http://h/v1"], {"SIDECAR_STORE": "sqlite:///none/x.db"}, "sidecar: store.url: {folder}/none/x.db: unable to open database file; make the folder {folder}/none first"),
        ([], {}, "sidecar: the following arguments are required: COMMAND; see `sidecar --help`"),
        (["explain"], {}, "sidecar: argument COMMAND: invalid choice: 'explain' (choose from 'serve', 'demo', 'mock', 'config', 'usage', 'key', 'check'); see `sidecar --help`"),
    ],
)  # fmt: skip
async def test_wrong(tmp_path: Path, arguments: list[str], environ: dict[str, str], said: str) -> None:
    """Wrong flags and files get clear lines and exit 2, no traceback."""
    (tmp_path / "bad.toml").write_text("[server]\nport = 'x'\n[[policy]]\nuse = 'trim'\nmax_messages = 0\n")
    code, out, err = ran(*arguments, folder=tmp_path, environ=environ)

    assert (code, out, err.strip()) == (2, "", said.format(folder=tmp_path))


async def test_good(tmp_path: Path) -> None:
    """What is right says so: the shipped configuration, printed, checked."""
    code, text, _ = ran("config", folder=tmp_path)
    (tmp_path / "s.toml").write_text(text)
    assert (code, ran("check", "--config", "s.toml", folder=tmp_path)[:2]) == (
        0,
        (0, "ok: rate → trim → max_tokens → budget → fallback → retry; profiles: balanced, constrained, expanded\n"),
    )
    assert ran("check", folder=tmp_path)[0] == 0
    assert ran("--version", folder=tmp_path)[1].startswith("sidecar 0.1.0")
    assert ran("check", folder=tmp_path, environ={"SIDECAR_CONFIG": "s.toml"})[0] == 0


async def test_demo(tmp_path: Path) -> None:
    """The demo serves with nothing configured, for pages of any origin, and takes its mock with it."""
    with program("demo", "--port", "0", folder=tmp_path) as demo:
        assert demo.line.startswith("sidecar listening on http://127.0.0.1:")
        client = await Client.to(demo.port)
        await client.post("/api/chat", CHAT, "origin: http://localhost:5173")
        _, headers, body = await client.answer()
        client.close()
        children = Path(f"/proc/{demo.popen.pid}/task/{demo.popen.pid}/children").read_text().split()
        assert demo.stop() == 0

    assert (events(body)[0], events(body)[-1]) == (("start", ""), ("done", ""))
    assert headers["access-control-allow-origin"] in ("*", "http://localhost:5173")
    assert len(children) == 1
    assert not Path(f"/proc/{children[0]}").exists()
    assert not list(tmp_path.iterdir())
