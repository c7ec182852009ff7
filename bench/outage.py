"""Simulate an outage: 1,000 calls to a failing upstream, then its recovery. Prints the attempts and the recovery times.

The sidecar runs in its own process with the shipped retries: three attempts per call, limited by the retry budget.
A second table has two tenants: the calls of one fail, and those of the other one should be served.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from api_keys import key
from process import program
from wire import Client, Connection, upstream

CALL_COUNT = int(os.environ.get("CALLS", "1000"))
MAX_CONCURRENT = 50
REQUEST_BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 40, "stream": True}
CONFIG = '[store]\nurl = "memory://"\n[[policy]]\nuse = "retry"\n'
BUDGET_START, BUDGET_SHARE, BUDGET_PER_SECOND = 10, 0.1, 0.2
"""The retry budget: retries at the start, retries per call, and retries refilled per second."""


class FailingUpstream:
    """An upstream that answers 503 or resets its connections, until `failing` is False."""

    def __init__(self, failure: str) -> None:
        self.failure, self.seen, self.failing = failure, 0, True

    async def __call__(self, connection: Connection) -> None:
        self.seen += 1
        if not self.failing:
            await connection.stream("fine")
        elif self.failure == "503":
            await connection.answer(503, b'{"error": {"message": "down"}}')
        else:
            connection.reset()


async def fail_some(connection: Connection) -> None:
    """Answer 500 for the model `bad` and for the prompt `poison`, reset the connection for the prompt `huge`."""
    prompt = connection.body["messages"][0]["content"]
    if prompt == "huge":
        connection.reset()
    elif connection.body["model"] == "bad" or prompt == "poison":
        await connection.answer(500, b'{"error": {"message": "failed"}}')
    else:
        await connection.stream("fine")


async def ask(port: int, body: dict[str, Any] = REQUEST_BODY, *headers: str) -> int:
    client = await Client.to(port)
    try:
        await client.post("/v1/chat/completions", body, *headers)
        return (await client.answer())[0]
    finally:
        client.close()


async def ready(port: int) -> str:
    client = await Client.to(port)
    client.writer.write(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    states = json.loads((await client.answer())[2])["upstreams"]
    client.close()
    return str(states["upstream-1"])


async def drill(failure: str, breaker: str) -> None:
    """Run one outage and print one line."""
    failing = FailingUpstream(failure)
    gate = asyncio.Semaphore(MAX_CONCURRENT)
    async with upstream(failing) as up:
        with tempfile.TemporaryDirectory() as folder:
            text = f"[[upstream]]\nbase_url = '{up.url}'\nbreaker = {{ {breaker} }}\n{CONFIG}"
            (Path(folder) / "s.toml").write_text(text)
            with program("serve", "--config", "s.toml", "--port", "0", folder=Path(folder)) as served:

                async def one() -> int:
                    async with gate:
                        return await ask(served.port)

                began = time.monotonic()
                statuses = Counter(await asyncio.gather(*(one() for _ in range(CALL_COUNT))))
                took = time.monotonic() - began
                seen, state = failing.seen, await ready(served.port)
                failing.failing = False
                back = time.monotonic()
                while await ask(served.port) != 200:  # noqa: ASYNC110  # poll until it is available
                    await asyncio.sleep(0.02)
                back = time.monotonic() - back
                closed = await ready(served.port)
    bound = CALL_COUNT + BUDGET_START + BUDGET_SHARE * CALL_COUNT + BUDGET_PER_SECOND * took
    answers = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    print(
        f"{failure:6} {breaker or 'as shipped':12} {seen:9} {bound:9.0f} {took:7.1f} {state:>8} {back:8.2f} {closed:>8}   {answers}"
    )
    assert seen <= bound


async def isolation(attack: str, model: str, prompt: str) -> None:
    """Let the calls of one tenant fail, then those of two tenants run at once; print one line."""
    gate = asyncio.Semaphore(MAX_CONCURRENT)
    async with upstream(fail_some) as up:
        with tempfile.TemporaryDirectory() as folder:
            text = f"[[upstream]]\nbase_url = '{up.url}'\n{CONFIG}" + key("a", "attacker") + key("b", "beside")
            (Path(folder) / "s.toml").write_text(text)
            with program("serve", "--config", "s.toml", "--port", "0", folder=Path(folder)) as served:

                async def calls(token: str, model: str, prompt: str) -> Counter[int]:
                    body = {**REQUEST_BODY, "model": model, "messages": [{"role": "user", "content": prompt}]}

                    async def one() -> int:
                        async with gate:
                            return await ask(served.port, body, f"Authorization: Bearer {token}")

                    return Counter(await asyncio.gather(*(one() for _ in range(CALL_COUNT // 4))))

                await calls("a", model, prompt)
                attacked, beside = await asyncio.gather(calls("a", model, prompt), calls("b", "good", "hi"))
                state = await ready(served.port)
    texts = (", ".join(f"{count} x {status}" for status, count in sorted(each.items())) for each in (attacked, beside))
    print(f"{attack:24} {state:>8}   {next(texts):24} {next(texts)}")


async def main() -> None:
    """Print one line per kind of outage, with the circuit breaker and without."""
    print(
        f"{CALL_COUNT} calls, {MAX_CONCURRENT} at once; attempts at upstream and their maximum by the retry budget, seconds,"
    )
    print(
        "the breaker after the calls, seconds from recovery to the first answer, the breaker then, the answers to clients"
    )
    print(
        f"{'outage':6} {'breaker':12} {'attempts':>9} {'at most':>9} {'s':>7} {'breaker':>8} {'back in':>8} {'then':>8}"
    )
    for failure in ("503", "reset"):
        for breaker in ("", "calls = 0"):
            await drill(failure, breaker)
    print(
        f"\n{'one tenant fails by':24} {'breaker':>8}   {'its answers':24} answers to the other tenant, with another model or prompt"
    )
    await isolation("a failing model", "bad", "hi")
    await isolation("prompts that give 500", "good", "poison")
    await isolation("requests that are reset", "good", "huge")


asyncio.run(main())
