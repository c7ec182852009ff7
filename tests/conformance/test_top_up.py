"""Attempts that failed after they used tokens: they are charged, and count beside the reservation of the next one."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving import Sidecar, settings_of, sidecar
from wire import HEAD, Connection, Script, sse, upstream

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
PROMPT_TOKENS, CEILING = 10, 1_000
USAGE = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": CEILING}
CALL = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": CEILING}
CHAIN = """
[[policy]]
use = "budget"
{limit}
reserve = "bound"
[[policy]]
use = "retry"
attempts = 3
"""
TOKENS = "tokens = {}"
DOLLARS = "usd = {}e-6\nprices = {{ m = {{ input = 1, output = 1 }} }}"


async def empty(connection: Connection) -> None:
    """Report that all tokens are used, without any text: such an answer is not asked for again."""
    await connection.send(HEAD)
    await connection.chunk(sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    await connection.chunk(sse({"choices": [], "usage": USAGE}))
    await connection.chunk(b"data: [DONE]\n\n")
    await connection.send(b"0\r\n\r\n")


async def cut(connection: Connection) -> None:
    """Report that all tokens are used, and break the stream before any text."""
    await connection.send(HEAD)
    choices = [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]
    await connection.chunk(sse({"choices": choices, "usage": USAGE}))
    connection.close()


async def fails(connection: Connection) -> None:
    """Report that all tokens are used, and an error before any text."""
    await connection.send(HEAD)
    await connection.chunk(sse({"choices": [], "usage": USAGE}))
    await connection.chunk(sse({"error": {"message": "boom", "code": 500}}))
    await connection.send(b"0\r\n\r\n")


@pytest.mark.parametrize("limit", [TOKENS, DOLLARS], ids=["tokens", "dollars"])
@pytest.mark.parametrize("broken", [empty, cut])
async def test_no_retry_without_budget_for_it(tmp_path: Path, broken: Script, limit: str) -> None:
    """A call is not retried if the budget does not cover a failed attempt and the next one together."""
    text = CHAIN.format(limit=limit.format(1_200))
    async with upstream(broken) as up, sidecar(settings_of(tmp_path, up.url, text, model="m")) as served:
        await served.post(V1, CALL)
        account = await served.account()

    assert len(up.requests) == 1
    assert (account.spent, account.reserved) == (PROMPT_TOKENS + CEILING, 0)


@pytest.mark.parametrize("limit", [TOKENS, DOLLARS], ids=["tokens", "dollars"])
@pytest.mark.parametrize("broken", [cut, fails])
async def test_failed_attempts_stay_reserved_beside_the_next(tmp_path: Path, broken: Script, limit: str) -> None:
    """While an attempt runs, the cost of failed ones is reserved beside all that it may cost itself."""
    held, running = list[int](), list[Sidecar]()

    async def last(connection: Connection) -> None:
        held.extend(account.reserved for account in await running[0].gateway.policy_services.store.accounts())
        await connection.stream("hi")

    text = CHAIN.format(limit=limit.format(10_000))
    async with upstream(broken, last) as up, sidecar(settings_of(tmp_path, up.url, text, model="m")) as served:
        running.append(served)
        status, _, _ = await served.post(V1, CALL)
        account = await served.account()

    assert (status, len(up.requests)) == (200, 2)
    assert held == [2 * (PROMPT_TOKENS + CEILING)]
    assert (account.spent, account.reserved) == (PROMPT_TOKENS + CEILING + PROMPT_TOKENS + 1, 0)
