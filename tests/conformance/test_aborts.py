"""Clients that disconnect at random moments: what their calls are charged, and how far estimates miss the limit."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from scripts import head_only
from serving import settings_of, sidecar
from wire import HEAD, Client, Connection, eventually, sse, token, upstream

pytestmark = pytest.mark.anyio

PROMPT_TOKENS, ANSWER_TOKENS = 5, 400
CALL = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": ANSWER_TOKENS}
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 1_000_000\n'


class CountingUpstream:
    """An upstream that streams slowly and counts the tokens that it wrote."""

    def __init__(self) -> None:
        self.written = 0

    async def __call__(self, connection: Connection) -> None:
        await connection.send(HEAD)
        for _ in range(ANSWER_TOKENS):
            if connection.gone.is_set():
                break
            await connection.chunk(token("x"))
            self.written += 1
            await asyncio.sleep(0.0005)  # a pace, so that clients disconnect in mid-stream; no assertion depends on it
        await connection.hang()


@pytest.mark.parametrize("url", ["memory://", "sqlite:///s.db"])
async def test_aborted_stream_is_charged_what_was_read(tmp_path: Path, url: str) -> None:
    """An aborted stream is charged its prompt and output: at least what its client read, at most what upstream wrote."""
    chance, counting, seen, calls = random.Random(7), CountingUpstream(), 0, 40

    async def abort(port: int, after: int) -> int:
        client = await Client.to(port)
        await client.post("/v1/chat/completions", CALL)
        await client.head()
        for _ in range(after):
            await client.until(b'"x"')
        client.reset() if after % 2 else client.close()
        return after

    text = f'[store]\nurl = "{url}"\n' + BUDGET
    async with upstream(counting) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        aborts = [abort(served.port, chance.randint(1, 60)) for _ in range(calls)]
        seen = sum(await asyncio.gather(*aborts))
        account = await served.account()
        written = counting.written

    assert account.reserved == 0
    assert calls * PROMPT_TOKENS + seen <= account.spent <= calls * PROMPT_TOKENS + written
    assert account.spent < calls * (PROMPT_TOKENS + ANSWER_TOKENS) / 2, "never the whole reservation"


async def test_client_that_leaves_before_output_pays_its_prompt(tmp_path: Path) -> None:
    """A call whose client disconnects before the first output is charged its prompt, not its reservation."""
    async with upstream(head_only) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        clients = [await Client.to(served.port) for _ in range(10)]
        for client in clients:
            await client.post("/v1/chat/completions", CALL)
        await eventually(lambda: len(up.requests) == len(clients))
        for client in clients:
            client.reset()
        account = await served.account()

    assert (account.spent, account.reserved) == (10 * PROMPT_TOKENS, 0)


@pytest.mark.parametrize(("reserve", "within"), [("bound", True), ("estimate", False)])
async def test_bound_keeps_the_limit_and_estimate_may_miss_it(tmp_path: Path, reserve: str, *, within: bool) -> None:
    """With `bound` a budget never exceeds its limit; with `estimate` it does by at most the error, which stays charged."""
    text, limit = "\x01\x02" * 350, 4000  # each byte is a token to the tokenizer of this upstream
    body = CALL | {"messages": [{"role": "user", "content": text}], "max_tokens": 50}

    async def dense(connection: Connection) -> None:
        await connection.send(HEAD)
        await connection.chunk(token("x"))
        await asyncio.sleep(0.05)  # a pace, so that calls overlap; the assertions also hold if they do not
        await connection.chunk(sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}))
        usage = {"prompt_tokens": len(text) + 8, "completion_tokens": connection.body["max_tokens"]}
        await connection.chunk(sse({"choices": [], "usage": usage}))
        await connection.chunk(b"data: [DONE]\n\n")
        await connection.send(b"0\r\n\r\n")

    config = f'[[policy]]\nuse = "budget"\ntokens = {limit}\nreserve = "{reserve}"\n'
    async with upstream(dense) as up, sidecar(settings_of(tmp_path, up.url, config)) as served:
        answers = await asyncio.gather(*[served.post("/v1/chat/completions", body) for _ in range(40)])
        passed = [answer for answer in answers if answer[0] == 200]
        account = await served.account()
        later, _, _ = await served.post("/v1/chat/completions", body)

    error = len(text) + 8 - (len(text) / 3.5 + 4)
    print(f"\n{reserve}: {len(passed)} passed, spent {account.spent} of {limit}: {account.spent / limit:.2f}")
    assert (account.spent <= limit) is within
    assert account.spent <= limit + len(passed) * error
    assert later == 429, "the excess stays charged"
