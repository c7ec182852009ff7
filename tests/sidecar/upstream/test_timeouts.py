"""Timeouts: each phase has its own limit, failure kind and message; only output counts as progress."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest
from msgspec.structs import replace
from scripts import silent
from serving import CHAT, events, settings_of, sidecar
from wire import HEAD, Connection, Script, sse, token, upstream

from sidecar.config.upstream import ResolvedUpstream, UpstreamSettings
from sidecar.upstream.progress_timeout import ProgressTimeout, ProgressTimers

pytestmark = pytest.mark.anyio

HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 40}
ONCE = '[[policy]]\nuse = "budget"\ntokens = 100_000\n[server]\n'
EMPTY = sse({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
STOP = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
NOISE = (b": ping\n\n", EMPTY, sse({"choices": []}), b"event: ping\ndata: {}\n\n")


def noise_after(*chunks: bytes) -> Script:
    """Send *chunks*, then pings and empty pieces forever."""

    async def script(connection: Connection) -> None:
        await connection.send(HEAD)
        for chunk in chunks:
            await connection.chunk(chunk)
        while True:
            for each in NOISE:
                await connection.chunk(each)
                await asyncio.sleep(0.005)  # a pace of noise; the timeouts of the sidecar run on the loop's clock

    return script


async def half_a_body(connection: Connection) -> None:
    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{")
    await connection.hang()


async def served(folder: Path, script: Script, limits: dict[str, float], *, stream: bool, rest: str = ONCE) -> tuple[list[tuple[str, str]], tuple[int, bytes], int]:  # fmt: skip
    """Return what a Chat Nest client and an OpenAI client get, and the tokens charged for both."""
    async with upstream(script) as up:
        settings = settings_of(folder, up.url, rest)
        choice = ResolvedUpstream(base_url=up.url, name="upstream-1", model="m", **limits)  # type: ignore[arg-type]  # numbers
        settings = replace(settings, upstreams=(choice,))
        async with sidecar(settings) as running:
            _, _, chat = await running.post("/api/chat", CHAT)
            status, _, body = await running.post("/v1/chat/completions", HI | {"stream": stream})
            account = await running.account()
            assert account.reserved == 0
            if chat[-26:].find(b"done") < 0:
                for request in up.requests:
                    async with asyncio.timeout(5):
                        await request.gone.wait()
    return [each for each in events(chat) if each[0] != "ping"], (status, body), account.spent


@pytest.mark.parametrize(
    ("script", "limits", "stream", "words"),
    [
        pytest.param(silent, {"head": 0.1}, True, "did not start to answer in time", id="no head"),
        pytest.param(silent, {"head": 0.1, "whole": 0.1}, False, "did not start to answer in time", id="no whole answer"),
        pytest.param(half_a_body, {"first_token": 0.1, "whole": 0.1}, False, "sent no first token in time", id="half of one"),
        pytest.param(noise_after(), {"first_token": 0.1}, True, "sent no first token in time", id="no first token"),
        pytest.param(noise_after(EMPTY), {"first_token": 0.1, "idle": 9}, True, "sent no first token in time", id="a role is no token"),
    ],
)  # fmt: skip
async def test_timeout_before_output_names_its_phase(
    tmp_path: Path,
    script: Script,
    limits: dict[str, float],
    stream: bool,  # noqa: FBT001  # a column of the table
    words: str,
) -> None:
    """Exceeding a limit before the first output is a 504 that names the phase, and closes the upstream connection."""
    chat, (status, body), spent = await served(tmp_path, script, limits, stream=stream)

    assert ([name for name, _ in chat], json.loads(chat[-1][1])["code"]) == (["start", "error"], "upstream_timeout")
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (504, "upstream_timeout")
    assert words in error["message"]
    assert spent > 0


async def test_noise_between_outputs_is_no_progress(tmp_path: Path) -> None:
    """Pings and empty pieces after output are not progress: the output is delivered, then an error."""
    chat, (status, body), _ = await served(tmp_path, noise_after(token("a"), token("b")), {"idle": 0.1}, stream=True)

    assert [name for name, _ in chat] == ["start", "token", "token", "error"]
    assert "stopped sending" in chat[-1][1]
    assert (status, body.count(b'"content": "a"'), body.count(b"stream_interrupted")) == (200, 1, 1)


async def test_steady_output_never_times_out(tmp_path: Path) -> None:
    """Steady output never times out, however long the whole answer takes."""

    async def steady(connection: Connection) -> None:
        await connection.send(HEAD)
        for _ in range(20):
            await connection.chunk(token("x"))
            await asyncio.sleep(0.06)  # a pace well below the timeouts
        await connection.chunk(STOP + b"data: [DONE]\n\n")
        await connection.send(b"0\r\n\r\n")

    chat, (status, body), _ = await served(tmp_path, steady, {"first_token": 1.0, "idle": 1.0}, stream=True)

    assert ([name for name, _ in chat].count("token"), chat[-1][0]) == (20, "done")
    assert (status, b"error" in body) == (200, False)


async def test_connect_timeout_costs_nothing(tmp_path: Path) -> None:
    """A connect timeout is a failure kind of its own and costs nothing."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        settings = settings_of(tmp_path, url, ONCE)
        choice = ResolvedUpstream(base_url=url, name="upstream-1", model="m", connect=0.1)
        settings = replace(settings, upstreams=(choice,))
        async with sidecar(settings) as running:
            status, _, body = await running.post("/v1/chat/completions", HI)
            account = await running.account()

    assert (status, account.spent, account.reserved) == (504, 0, 0)
    assert "did not accept a connection in time" in json.loads(body)["error"]["message"]


async def test_deadline_covers_all_attempts(tmp_path: Path) -> None:
    """A whole call has a deadline on both paths, over all its attempts and waits."""
    rest = ONCE + "deadline = 0.2\nchat_deadline = 0.2\n"
    chat, (status, body), _ = await served(tmp_path, noise_after(token("a")), {}, stream=True, rest=rest)

    assert ([name for name, _ in chat], status) == (["start", "token", "error"], 200)
    assert b"took longer than 0.2 seconds" in body
    assert "took longer than 0.2 seconds" in chat[-1][1]


@pytest.mark.parametrize("script", [silent, half_a_body])
async def test_plain_call_at_its_deadline_costs_its_prompt(tmp_path: Path, script: Script) -> None:
    """A call without `stream` that its deadline ends costs its prompt; only a client that leaves pays the reservation."""
    async with upstream(script) as up:
        choice = ResolvedUpstream(base_url=up.url, name="upstream-1", model="m", whole=9.0, head=9.0)
        limited = replace(settings_of(tmp_path, up.url, ONCE + "deadline = 0.2\n"), upstreams=(choice,))
        async with sidecar(limited) as running:
            status, _, body = await running.post("/v1/chat/completions", HI | {"max_tokens": 500})
            account = await running.account()

    assert (status, json.loads(body)["error"]["code"]) == (504, "upstream_timeout")
    assert (0 < account.spent < 500, account.reserved) == (True, 0)


async def test_progress_timeout_excludes_slow_clients() -> None:
    """Time between two reads, while a slow client is served, does not count."""
    timeout = ProgressTimeout(0.05)
    for _ in range(4):
        with timeout:
            await asyncio.sleep(0.005)  # less than the timeout, which runs on the loop's clock
        await asyncio.sleep(0.06)  # more than the timeout, between two reads
    with pytest.raises(TimeoutError), timeout:
        await asyncio.sleep(5)
    timeout.stop()


async def test_progress_timeout_keeps_cancellations() -> None:
    """A cancellation in the same event-loop iteration as the timeout stays a cancellation."""

    async def wait() -> None:
        timeout = ProgressTimeout(0.01)
        try:
            with timeout:
                await asyncio.sleep(5)
        finally:
            timeout.stop()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    for at in (0.005, 0.0099, 0.01):
        asyncio.get_running_loop().call_later(at, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_answers_with_the_same_first_limit_share_a_timer() -> None:
    """An answer leaves the shared timer when it ends, or when a later limit is shorter: the timer keeps no object of it."""
    timers = ProgressTimers()
    first, second, third = (ProgressTimeout(60.0, timers) for _ in range(3))
    other = ProgressTimeout(30.0, timers)
    assert (len(timers.of(60.0)), len(timers.of(30.0))) == (3, 1)
    first.stop()
    second.reset(30.0)
    third.reset(90.0)
    assert (len(timers.of(60.0)), len(timers.of(30.0))) == (1, 1)
    for each in (second, third, other):
        each.stop()
    assert (len(timers.of(60.0)), len(timers.of(30.0))) == (0, 0)


def test_every_limit_is_settable() -> None:
    """Each time limit of an upstream has an option of its own."""
    assert {"connect", "head", "first_token", "idle", "whole"} <= set(UpstreamSettings.__struct_fields__)
