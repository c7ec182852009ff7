"""What an attempt reports to the circuit breaker of its upstream: failures and successes, before and after output."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from serving import settings_of, sidecar
from wire import HEAD, Connection, Script, eventually, sse, token, upstream

pytestmark = pytest.mark.anyio

HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 40}
ONCE = "[[policy]]\nuse = 'retry'\nattempts = 1\n"
MODEL_LIST = b'{"data": [{"id": "m"}]}'


def table(url: str, breaker: str, *lines: str) -> str:
    return "\n".join(["[[upstream]]", f"base_url = '{url}'", f"breaker = {{ {breaker} }}", *lines, ONCE])


def finish(why: str) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {}, "finish_reason": why}]})


def sends(*chunks: bytes, then: str = "close") -> Script:
    """Return a script that sends each of *chunks* separately, and then breaks the stream."""

    async def script(connection: Connection) -> None:
        await connection.send(HEAD)
        for chunk in chunks:
            await connection.chunk(chunk)
            await asyncio.sleep(0)
        if then == "hang":
            await connection.hang()
        elif then == "reset":
            connection.reset()
        else:
            connection.close()

    return script


async def good(connection: Connection) -> None:
    if b"/models" in connection.head.split(b"\r\n")[0]:
        await connection.answer(200, MODEL_LIST)
    else:
        await connection.stream("fine")


async def down(connection: Connection) -> None:
    await connection.answer(503, b'{"error": {"message": "down"}}')


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(sends(finish("error")), id="fails without output"),
        pytest.param(sends(token("a"), then="close"), id="closes after output"),
        pytest.param(sends(token("a"), then="reset"), id="resets after output"),
        pytest.param(sends(token("a"), b'data: {"error": {"code": 502}}\n\n'), id="fails after output"),
        pytest.param(sends(token("a"), then="hang"), id="falls silent after output"),
    ],
)
async def test_broken_answer_is_a_failure(tmp_path: Path, script: Script) -> None:
    """An answer that breaks counts as a failure of its upstream, before its first output and after it."""
    async with upstream(script) as up:
        text = table(up.url, "calls = 3, rate = 1", "idle = 0.05")
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            for _ in range(3):
                await served.post("/v1/chat/completions", HI)
            states = dict(served.gateway.upstream.states)

    assert states == {"upstream-1": "open"}


async def test_finished_empty_answer_is_no_failure(tmp_path: Path) -> None:
    """An answer that is finished and empty counts as a success, also if its connection is reset."""
    async with upstream(sends(finish("stop"), then="reset"), down, down, down) as up:
        text = table(up.url, "calls = 4, rate = 0.75")
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            for _ in range(4):
                await served.post("/v1/chat/completions", HI)
            states = dict(served.gateway.upstream.states)

    assert states == {"upstream-1": "open"}, "three failures of four"


async def test_probe_closes_the_breaker_at_its_first_output(tmp_path: Path) -> None:
    """The breaker closes at the first output of a probe, not at its end, and stays open if the probe fails."""
    first = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await connection.send(HEAD)
        await connection.chunk(token("a"))
        await first.wait()
        await connection.chunk(finish("stop") + b"data: [DONE]\n\n")
        await connection.send(b"0\r\n\r\n")

    async with upstream(down, sends(finish("error")), slow) as up:
        text = table(up.url, "calls = 1, rate = 1, probe = 1e-9")
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            seen = []
            for _ in range(2):
                await served.post("/v1/chat/completions", HI)
                seen.append(served.gateway.upstream.states["upstream-1"])
            client = await served.client()
            await client.post("/v1/chat/completions", HI)
            await client.until(b'"a"')
            seen.append(served.gateway.upstream.states["upstream-1"])
            first.set()
            await client.until(b"[DONE]")
            client.close()

    assert seen == ["open", "open", "closed"]


async def test_model_lists_do_not_count(tmp_path: Path) -> None:
    """Requests for the list of models pass an open breaker and do not close it; neither success nor failure counts."""
    lists = True

    async def only_lists(connection: Connection) -> None:
        await (good if lists and b"/models" in connection.head.split(b"\r\n")[0] else down)(connection)

    async with upstream(only_lists) as up:
        text = table(up.url, "calls = 4, rate = 1, probe = 60")
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            for lists_work in (True, False):
                lists = lists_work
                for _ in range(5):
                    await served.get("/v1/models")
            seen = [dict(served.gateway.upstream.states)["upstream-1"]]
            for _ in range(4):
                await served.post("/v1/chat/completions", HI)
            lists = True
            status, _, body = await served.get("/v1/models")
            seen.append(dict(served.gateway.upstream.states)["upstream-1"])

    assert (seen, status, json.loads(body)) == (["closed", "open"], 200, json.loads(MODEL_LIST))


async def test_head_of_a_probe_closes_the_circuit_of_the_upstream(tmp_path: Path) -> None:
    """An upstream that reset its connections is reached again with the head of an answer, before its first output."""
    told = asyncio.Event()

    async def reset(connection: Connection) -> None:
        connection.reset()

    async def slow(connection: Connection) -> None:
        await connection.send(HEAD)
        await told.wait()
        connection.close()

    async with upstream(reset, slow) as up:
        text = table(up.url, "calls = 1, rate = 1, probe = 1e-9")
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            await served.post("/v1/chat/completions", HI)
            states = [served.gateway.upstream.states["upstream-1"]]
            client = await served.client()
            await client.post("/v1/chat/completions", HI)
            await eventually(lambda: served.gateway.upstream.states["upstream-1"] == "closed")
            told.set()
            client.close()

    assert states == ["open"]
