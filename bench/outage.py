"""An outage, drilled: a thousand calls at a dead upstream, then its recovery.  Prints what upstream got and when it was back.

The sidecar runs as its own process with the shipped retries: three attempts a call, a tenth of the calls in all.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from process import program
from wire import Client, Connection, upstream

CALLS = int(os.environ.get("CALLS", "1000"))
AT_ONCE = 50
HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 40, "stream": True}
POLICIES = '[store]\nurl = "memory://"\n[[policy]]\nuse = "retry"\n'
START, SHARE, PER_SECOND = 10, 0.1, 0.2
"""The retry budget, as DESIGN 1.5 has it."""


class Patient:
    """An upstream that answers 503, resets, or is well, as it is told."""

    def __init__(self, ill: str) -> None:
        self.ill, self.seen, self.dead = ill, 0, True

    async def __call__(self, connection: Connection) -> None:
        self.seen += 1
        if not self.dead:
            await connection.stream("fine")
        elif self.ill == "503":
            await connection.answer(503, b'{"error": {"message": "down"}}')
        else:
            connection.reset()


async def ask(port: int) -> int:
    client = await Client.to(port)
    try:
        await client.post("/v1/chat/completions", HI)
        return (await client.answer())[0]
    finally:
        client.close()


async def ready(port: int) -> str:
    client = await Client.to(port)
    client.writer.write(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
    states = json.loads((await client.answer())[2])["upstreams"]
    client.close()
    return str(states["upstream-1"])


async def drill(ill: str, breaker: str) -> None:
    """Run one outage and print its line."""
    patient = Patient(ill)
    gate = asyncio.Semaphore(AT_ONCE)
    async with upstream(patient) as up:
        with tempfile.TemporaryDirectory() as folder:
            text = f"[[upstream]]\nbase_url = '{up.url}'\nbreaker = {{ {breaker} }}\n{POLICIES}"
            (Path(folder) / "s.toml").write_text(text)
            with program("serve", "--config", "s.toml", "--port", "0", folder=Path(folder)) as served:

                async def one() -> int:
                    async with gate:
                        return await ask(served.port)

                began = time.monotonic()
                statuses = Counter(await asyncio.gather(*(one() for _ in range(CALLS))))
                took = time.monotonic() - began
                seen, state = patient.seen, await ready(served.port)
                patient.dead = False
                back = time.monotonic()
                while await ask(served.port) != 200:  # noqa: ASYNC110  # until it is OK
                    await asyncio.sleep(0.02)
                back = time.monotonic() - back
                closed = await ready(served.port)
    bound = CALLS + START + SHARE * CALLS + PER_SECOND * took
    said = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    print(
        f"{ill:6} {breaker or 'as shipped':12} {seen:9} {bound:9.0f} {took:7.1f} {state:>8} {back:8.2f} {closed:>8}   {said}"
    )
    assert seen <= bound


async def main() -> None:
    """Print a line for each kind of outage, with the breaker and without."""
    print(f"{CALLS} calls, {AT_ONCE} at once; attempts at upstream, the most that its retry budget bears, seconds,")
    print(
        "the breaker after it, seconds from upstream's recovery to the first answer, the breaker then, what clients got"
    )
    print(
        f"{'outage':6} {'breaker':12} {'attempts':>9} {'at most':>9} {'s':>7} {'breaker':>8} {'back in':>8} {'then':>8}"
    )
    for ill in ("503", "reset"):
        for breaker in ("", "calls = 0"):
            await drill(ill, breaker)


asyncio.run(main())
