"""A second SIGTERM while a process drains: it ends at once, and its log has no traceback of what was cancelled by that."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from process import EXIT_TIMEOUT_SECONDS, program
from scripts import endless, silent
from wire import Client, Script, eventually, upstream

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
STREAM = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 900}
CALLS = 3


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("script", "first"), [(endless, b'"a"'), (silent, b"")], ids=["streams that run", "calls without an answer"]
)
async def test_second_signal_ends_without_a_traceback(
    tmp_path: Path, script: Script, first: bytes, workers: str
) -> None:
    """Running calls get the error of a drain and one record each; nothing else is logged than the two signals."""
    log = tmp_path / "log"
    async with upstream(script) as up:
        serve = ("serve", "--upstream", up.url, "--port", "0", "--workers", workers)
        with program(*serve, folder=tmp_path, log=log) as running:
            clients = [await Client.to(running.port) for _ in range(CALLS)]
            for client in clients:
                await client.post(V1, STREAM)
                if first:
                    await client.until(first)
            await eventually(lambda: len(up.requests) == CALLS)
            running.popen.terminate()
            await eventually(lambda: log.read_text().count("state=draining") == int(workers))
            running.popen.terminate()
            assert await asyncio.to_thread(running.popen.wait, EXIT_TIMEOUT_SECONDS) == 1
            ends = [await client.reader.read() for client in clients]
            for client in clients:
                client.close()

    lines = log.read_text().splitlines()
    assert all(b'"code":"draining"' in end for end in ends)
    assert sum(" request id=" in line for line in lines) == CALLS
    assert sum("ending at once" in line for line in lines) == int(workers)
    others = [line for line in lines if not any(each in line for each in (" request id=", "draining", "warning:"))]
    assert others == []
