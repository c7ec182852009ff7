"""Measure cancellation: milliseconds from a client's FIN or RST to the one that upstream gets, by phase of the call.

The sidecar runs in its own process with the shipped chain; client and upstream run in this one.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from process import program
from wire import HEAD, Client, Connection, Script, token, upstream

CALLS_PER_PHASE = int(os.environ.get("TIMES", "300"))
REQUEST_BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 40}
CONFIG = '[[policy]]\nuse = "budget"\ntokens = 1_000_000_000\n'
SETTLED_SECONDS = 0.01
"""Seconds after which a call has reached its phase."""


async def silent(connection: Connection) -> None:
    await connection.hang()


async def head_only(connection: Connection) -> None:
    await connection.send(HEAD)
    await connection.hang()


async def idle(connection: Connection) -> None:
    await connection.send(HEAD)
    await connection.chunk(token("a"))
    await connection.hang()


async def streaming(connection: Connection) -> None:
    await connection.send(HEAD)
    while not connection.gone.is_set():
        await connection.chunk(token("a"))
        await asyncio.sleep(0.001)


async def half_a_body(connection: Connection) -> None:
    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{")
    await connection.hang()


PHASES: dict[str, tuple[Script, bool]] = {
    "stream, before the head": (silent, True),
    "stream, before the first token": (head_only, True),
    "stream, between tokens": (idle, True),
    "stream, a token each ms": (streaming, True),
    "plain, before the head": (silent, False),
    "plain, in the body": (half_a_body, False),
}


async def phase(script: Script, *, stream: bool, folder: Path, store: str) -> list[float]:
    """Return the milliseconds of each cancellation, sorted."""
    chance, took = random.Random(5), []  # noqa: S311  # not for secrets
    async with upstream(script) as up:
        (folder / "s.toml").write_text(f'[store]\nurl = "{store}"\n{CONFIG}')
        with program(
            "serve", "--config", "s.toml", "--upstream", up.url, "--model", "m", "--port", "0", folder=folder
        ) as served:
            for _ in range(CALLS_PER_PHASE):
                up.arrived.clear()
                client = await Client.to(served.port)
                await client.post("/v1/chat/completions", REQUEST_BODY | {"stream": stream})
                await up.arrived.wait()
                await asyncio.sleep(SETTLED_SECONDS * (1 + chance.random()))
                began = time.perf_counter()
                chance.choice([client.close, client.reset])()
                await up.requests[-1].gone.wait()
                took.append((time.perf_counter() - began) * 1000)
    return sorted(took)


async def main() -> None:
    """Print one line per phase."""
    print(f"ms from the client's FIN or RST to upstream's, {CALLS_PER_PHASE} calls each, SQLite store")
    print(f"{'phase':34}{'p50':>8}{'p99':>8}{'worst':>8}")
    worst = 0.0
    for name, (script, stream) in PHASES.items():
        with tempfile.TemporaryDirectory() as folder:
            took = await phase(script, stream=stream, folder=Path(folder), store="sqlite:///s.db")
        p99 = statistics.quantiles(took, n=100)[98]
        worst = max(worst, p99)
        print(f"{name:34}{statistics.median(took):8.2f}{p99:8.2f}{took[-1]:8.2f}")
    print(f"the bound is 50 ms: {'held' if worst < 50 else 'BROKEN'} at p99")


asyncio.run(main())
