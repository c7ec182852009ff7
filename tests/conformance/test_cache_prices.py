"""Tokens that are written to a prompt cache, which vendors price above other input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from operation_samples import SAMPLES
from serving import settings_of, sidecar
from wire import Connection, upstream

pytestmark = pytest.mark.anyio

PRICES = """
[prices."*"]
input = 1000
cached_input = 100
cache_write = 2000
output = 5000
[[policy]]
use = "budget"
usd = 100.0
"""
ANTHROPIC = {
    "input_tokens": 4,
    "cache_read_input_tokens": 10,
    "cache_creation_input_tokens": 20,
    "output_tokens": 3,
}
OPENAI = {
    "prompt_tokens": 34,
    "completion_tokens": 3,
    "total_tokens": 37,
    "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 20},
}
RESPONSES = {
    "input_tokens": 34,
    "output_tokens": 3,
    "total_tokens": 37,
    "input_tokens_details": {"cached_tokens": 10, "cache_creation_tokens": 20},
}
COST = 4 * 1_000 + 10 * 100 + 20 * 2_000 + 3 * 5_000
"""In micro-dollars."""


@pytest.mark.parametrize(
    ("name", "path", "usage"),
    [
        ("messages", "/v1/messages", ANTHROPIC),
        ("chat", "/v1/chat/completions", OPENAI),
        ("responses", "/v1/responses", RESPONSES),
    ],
)
async def test_cache_writes_cost_their_own_price(tmp_path: Path, name: str, path: str, usage: dict[str, Any]) -> None:
    """Reads, writes and other input are charged by three prices, in each API's form of usage."""
    sample = SAMPLES[name]

    async def script(connection: Connection) -> None:
        await connection.answer(200, json.dumps({**sample.whole, "usage": usage}).encode())

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, PRICES)) as served:
        status, _, _ = await served.post(path, sample.body | {sample.ceiling: 50})
        account = await served.account()
    assert (status, account.spent, account.reserved) == (200, COST, 0)


async def test_prompt_is_reserved_at_the_price_of_writes(tmp_path: Path) -> None:
    """The reservation covers a prompt that is written to a cache as a whole."""
    sample, held = SAMPLES["messages"], list[int]()

    async def script(connection: Connection) -> None:
        held.extend(each.reserved for each in await served.gateway.policy_services.store.accounts())
        await connection.answer(200, json.dumps(sample.whole).encode())

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, PRICES)) as served:
        await served.post("/v1/messages", {**sample.body, "max_tokens": 1})
    prompt_tokens = (held[0] - 5_000) / 2_000
    assert prompt_tokens == int(prompt_tokens)
    assert 5 <= prompt_tokens <= 20
