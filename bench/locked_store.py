"""Measure how long the event loop is blocked while another process holds the lock of the SQLite file, or its disk is full.

A step that waits for a lock uses no CPU, so these figures are the delay of a timer, in wall time. Other programs on the machine
can only add to it: the minimum of several runs counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from chaos_faults import LOCK, LOCKED_SECONDS
from probe import Probed, Sample, probed
from processes import PROXY
from wire import HEAD, Client, Connection, sse, token, upstream

CALLS, STREAMS = 100, 20
"""Calls that come while the store fails, and streams that are running then, some of which end meanwhile."""
POLL_SECONDS = 0.05
RECOVERY_SECONDS = 30.0
MODEL_PACE_SECONDS, MODEL_TOKENS = 0.05, 60
"""Each stream lasts three seconds, so that its settlement comes while the store fails."""
CONFIG = """
[log]
level = "error"
access = false
[store]
url = "sqlite:///s.db"
[[upstream]]
base_url = "{url}"
breaker = {{ calls = 0 }}
[[policy]]
use = "rate"
requests = 1_000_000
[[policy]]
use = "budget"
tokens = 900_000_000_000
"""
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": MODEL_TOKENS}


class Blocked(NamedTuple):
    """One case: its name, the status of a call that came meanwhile, and the best sample."""

    case: str
    status: int
    best: Sample


async def paced(connection: Connection) -> None:
    """Stream some seconds of tokens."""
    await connection.send(HEAD)
    for _ in range(MODEL_TOKENS):
        await connection.chunk(token("x"))
        await asyncio.sleep(MODEL_PACE_SECONDS)
    await connection.chunk(sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}))
    await connection.chunk(b"data: [DONE]\n\n")
    await connection.send(b"0\r\n\r\n")


@contextlib.contextmanager
def locked(store: Path, _: int) -> Iterator[None]:
    """Let another process hold the lock, for 5 seconds."""
    command = [sys.executable, "-c", LOCK, str(store), str(LOCKED_SECONDS)]
    with subprocess.Popen(command) as locking:
        yield
        locking.wait()


@contextlib.contextmanager
def full(_: Path, pid: int) -> Iterator[None]:
    """Let no file of the process *pid* grow, for as long."""
    known = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, known[1]))
    try:
        yield
        time.sleep(LOCKED_SECONDS)
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, known)


CASES: dict[str, Callable[[Path, int], contextlib.AbstractContextManager[None]]] = {
    "locked store": locked,
    "store that cannot grow": full,
}


async def call(port: int) -> int:
    """Make a call; return the status of its answer, which is read to its end."""
    client = await Client.to(port)
    try:
        await client.post("/v1/chat/completions", BODY, "connection: close")
        answer = await client.reader.read()
    finally:
        client.close()
    return int(answer[9:12] or 0)


async def healthy(port: int) -> None:
    """Check `/healthz`."""
    client = await Client.to(port)
    try:
        client.writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        await client.reader.read()
    finally:
        client.close()


async def measure(served: Probed, folder: Path, case: str) -> tuple[int, Sample]:
    """Run one case; return the status of the first call that comes meanwhile, and the sample."""
    streams = [asyncio.create_task(call(served.port)) for _ in range(STREAMS)]
    await asyncio.sleep(1)
    await asyncio.to_thread(served.sample)
    with contextlib.ExitStack() as stack:
        stack.enter_context(CASES[case](folder / "s.db", served.popen.pid))
        await asyncio.sleep(0.3)
        waiting = [asyncio.create_task(call(served.port)) for _ in range(CALLS)]
        await healthy(served.port)
        await asyncio.to_thread(stack.close)
    statuses = await asyncio.gather(*waiting)
    sample = await asyncio.to_thread(served.sample)
    await asyncio.gather(*streams)
    async with asyncio.timeout(RECOVERY_SECONDS):
        while await call(served.port) != 200:  # noqa: ASYNC110  # poll until it is available
            await asyncio.sleep(POLL_SECONDS)
    return statuses[0], sample


async def blocked(folder: Path, only: str, rounds: int) -> AsyncIterator[Blocked]:
    """Measure the cases whose names contain *only*."""
    names = [name for name in CASES if only in name]
    if not names:
        return
    async with upstream(paced) as up:
        (folder / "sidecar.toml").write_text(CONFIG.format(url=up.url))
        with probed("serve", "--config", "sidecar.toml", "--port", "0", folder=folder, core=PROXY) as served:
            for name in names:
                found = [await measure(served, folder, name) for _ in range(rounds)]
                status, best = min(found, key=lambda each: each[1].late_ms)
                yield Blocked(name, status, best)
