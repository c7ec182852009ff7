"""What an attempt tells its upstream's breaker, in front of real sockets: how it ended, however much it gave before."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from serving import settings_of, sidecar
from wire import HEAD, Connection, Script, sse, token, upstream

pytestmark = pytest.mark.anyio

HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 40}
ONCE = "[[policy]]\nuse = 'retry'\nattempts = 1\n"
LIST = b'{"data": [{"id": "m"}]}'


def table(url: str, breaker: str, *lines: str) -> str:
    return "\n".join(["[[upstream]]", f"base_url = '{url}'", f"breaker = {{ {breaker} }}", *lines, ONCE])


def finish(why: str) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {}, "finish_reason": why}]})


def says(*chunks: bytes, then: str = "close") -> Script:
    """Send *chunks*, each for itself, and then end badly."""

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
        await connection.answer(200, LIST)
    else:
        await connection.stream("fine")


async def down(connection: Connection) -> None:
    await connection.answer(503, b'{"error": {"message": "down"}}')


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(says(finish("error")), id="fails with its first word"),
        pytest.param(says(token("a"), then="close"), id="closes after output"),
        pytest.param(says(token("a"), then="reset"), id="resets after output"),
        pytest.param(says(token("a"), b'data: {"error": {"code": 502}}\n\n'), id="fails after output"),
        pytest.param(says(token("a"), then="hang"), id="falls silent after output"),
    ],
)
async def test_breaks_off(tmp_path: Path, script: Script) -> None:
    """An answer that breaks speaks against its upstream, before its first output and after it."""
    async with upstream(script) as up:
        text = table(up.url, "calls = 3, rate = 1", "idle = 0.05")
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            for _ in range(3):
                await served.post("/v1/chat/completions", HI)
            states = dict(served.gateway.upstream.states)

    assert states == {"upstream-1": "open"}


async def test_finish_alone(tmp_path: Path) -> None:
    """An answer that is finished and empty counts as one that is well, however its connection ends."""
    async with upstream(says(finish("stop"), then="reset"), down, down, down) as up:
        text = table(up.url, "calls = 4, rate = 0.75")
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            for _ in range(4):
                await served.post("/v1/chat/completions", HI)
            states = dict(served.gateway.upstream.states)

    assert states == {"upstream-1": "open"}, "three of four"


async def test_long_probe(tmp_path: Path) -> None:
    """A probe brings its upstream back with its first output, not with its last; an error in place of one does not."""
    first = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await connection.send(HEAD)
        await connection.chunk(token("a"))
        await first.wait()
        await connection.chunk(finish("stop") + b"data: [DONE]\n\n")
        await connection.send(b"0\r\n\r\n")

    async with upstream(down, says(finish("error")), slow) as up:
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


async def test_listing(tmp_path: Path) -> None:
    """Lists of models pass an open breaker and do not close it, and those that fail or succeed count for nothing."""
    lists = True

    async def only_lists(connection: Connection) -> None:
        await (good if lists and b"/models" in connection.head.split(b"\r\n")[0] else down)(connection)

    async with upstream(only_lists) as up:
        text = table(up.url, "calls = 4, rate = 1, probe = 60")
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            for well in (True, False):
                lists = well
                for _ in range(5):
                    await served.get("/v1/models")
            seen = [dict(served.gateway.upstream.states)["upstream-1"]]
            for _ in range(4):
                await served.post("/v1/chat/completions", HI)
            lists = True
            status, _, body = await served.get("/v1/models")
            seen.append(dict(served.gateway.upstream.states)["upstream-1"])

    assert (seen, status, json.loads(body)) == (["closed", "open"], 200, json.loads(LIST))
