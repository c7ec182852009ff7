"""Reference cycles of calls: none, because every thousandth call would wait for Python's garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripts import answers
from serving import CHAT, Sidecar, settings_of, sidecar
from wire import Client, eventually, upstream

pytestmark = pytest.mark.anyio

HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
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


@pytest.mark.parametrize("asks", [stream, plain, chat_nest, refused])
async def test_call_leaves_no_reference_cycles(tmp_path: Path, asks: Callable[[Client], Any]) -> None:
    """The objects of a finished call are freed at once, without the garbage collector."""
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
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
            left = sorted(type(each).__qualname__ for each in gc.garbage if type(each).__module__.startswith(OURS))
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    assert left == []


async def _idle(served: Sidecar) -> None:
    await eventually(lambda: len(served.gateway.active_calls) == 0)
