"""Reference cycles of calls: none, because every thousandth call would wait for Python's garbage collector."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recording import SERVERS
from scripts import answers, closes, truncated
from serving import CHAT, Sidecar, settings_of, sidecar
from wire import HEAD, Client, Connection, Script, eventually, sse, token, upstream

pytestmark = pytest.mark.anyio

HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
ONE_ATTEMPT = "[[policy]]\nuse = 'retry'\nattempts = 1\n"
ERROR_OBJECT = sse({"error": {"message": "no", "code": "invalid_request_error"}})
OURS = ("sidecar", "policies", "uvicorn")


async def stream(client: Client) -> None:
    await client.post("/v1/chat/completions", HI)
    await client.answer()


async def plain(client: Client) -> None:
    await client.post("/v1/chat/completions", HI | {"stream": False})
    await client.answer()


async def chat_nest(client: Client) -> None:
    await client.post("/api/chat", CHAT)
    await client.answer()


async def refused(client: Client) -> None:
    await client.post("/v1/chat/completions", {})
    await client.answer()


async def models(client: Client) -> None:
    client.writer.write(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
    await client.answer()


async def cut_list(connection: Connection) -> None:
    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{")
    connection.close()


async def fails(connection: Connection) -> None:
    await connection.answer(500, b'{"error": {"message": "no"}}')


async def error_object(connection: Connection) -> None:
    await connection.send(HEAD)
    await connection.chunk(ERROR_OBJECT)
    await connection.send(b"0\r\n\r\n")


async def error_behind_output(connection: Connection) -> None:
    await connection.send(HEAD)
    await connection.chunk(token("a"))
    await connection.chunk(ERROR_OBJECT)
    await connection.send(b"0\r\n\r\n")


CASES = [(answers, asks) for asks in (stream, plain, chat_nest, refused)]
CASES += [(script, stream) for script in (fails, error_object, error_behind_output, truncated, closes)]
CASES += [(script, models) for script in (fails, closes, cut_list)]
CASES += [(cut_list, plain)]


@SERVERS
@pytest.mark.parametrize(("script", "asks"), CASES)
async def test_call_leaves_no_reference_cycles(
    tmp_path: Path, script: Script, asks: Callable[[Client], Any], protocol: type[asyncio.Protocol]
) -> None:
    """The objects of a finished call, also of a failed one, are freed at once, without the garbage collector."""
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, ONE_ATTEMPT), protocol=protocol) as served:
        client = await served.client()
        await asks(client)
        await _idle(served)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(5):
                await asks(client)
            await _idle(served)
            gc.collect()
            found = [each for each in gc.garbage if not isinstance(each, type)]  # classes are of other tests
            left = sorted(type(each).__qualname__ for each in found if type(each).__module__.startswith(OURS))
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    assert left == []


async def _idle(served: Sidecar) -> None:
    await eventually(lambda: len(served.gateway.active_calls) == 0)
