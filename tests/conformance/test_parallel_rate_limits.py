"""Many calls meet one 429 each: they succeed through the sidecar as they do without it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import msgspec
import openai
import pytest
from recording import Keeps
from serving import settings_of, sidecar
from wire import Connection, upstream

from policies import Rate
from sidecar.config.settings import Settings

pytestmark = pytest.mark.anyio

CALLS = 40
REFUSAL = {"error": {"message": "Limit 3, Used 3.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}}
ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}


class OneRefusalEach:
    """Refuses the first request with each prompt with 429 and a wait of 50 ms, and answers all others."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    async def __call__(self, connection: Connection) -> None:
        prompt = connection.body["messages"][-1]["content"]
        self.asked[prompt] += 1
        if self.asked[prompt] == 1:
            await connection.answer(429, json.dumps(REFUSAL).encode(), "retry-after: 1", "retry-after-ms: 50")
        else:
            await connection.answer(200, json.dumps(ANSWER).encode())


async def successes(url: str) -> int:
    """Return how many of the parallel calls of one unmodified client succeed, with its default of two retries."""
    async with openai.AsyncOpenAI(base_url=url, api_key="sk-test") as client:

        async def one(number: int) -> str | None:
            prompt = f"call {number}"
            answer = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": prompt}], max_tokens=40
            )
            return answer.choices[0].message.content

        results = await asyncio.gather(*(one(number) for number in range(CALLS)), return_exceptions=True)
    return results.count("fine")


def as_needed(settings: Settings, observer: Keeps) -> Settings:
    """Return *settings* with an *observer*, and room in the rate for the client's own retries, which are calls like others."""
    policies = [
        msgspec.structs.replace(policy, requests=10 * CALLS) if isinstance(policy, Rate) else policy
        for policy in settings.base.policies
    ]
    assert policies != list(settings.base.policies)
    base = msgspec.structs.replace(settings.base, policies=tuple(policies))
    return msgspec.structs.replace(settings, base=base, observers=(observer,))


async def test_parallel_calls_with_one_429_each_succeed(tmp_path: Path) -> None:
    """All calls succeed, direct and with the shipped chain: what the retry budget declines, the client retries itself."""
    observer = Keeps()
    async with upstream(OneRefusalEach()) as up:
        direct, at_upstream = await successes(up.url), len(up.requests)
    async with (
        upstream(OneRefusalEach()) as second,
        sidecar(as_needed(settings_of(tmp_path, second.url), observer)) as served,
    ):
        through = await successes(f"{served.url}/v1")
    repeats = sum(record.attempts - 1 for record in observer.records)

    print(  # figures for the note
        f"{CALLS} calls that meet one 429 each: {direct} succeed direct, with {at_upstream} requests at the upstream; "
        f"{through} succeed through the sidecar, with {len(second.requests)}: {repeats} repeated by the sidecar, "
        f"{len(observer.records) - CALLS} by the client"
    )
    assert (direct, through) == (CALLS, CALLS)
    assert (at_upstream, len(second.requests)) == (2 * CALLS, 2 * CALLS)
    assert 0 < repeats < CALLS, "the retry budget does not suffice for all"
