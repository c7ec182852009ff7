"""Streams without a ceiling, through the real server: reserved step by step, ended cleanly where a limit has no room."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from process import program
from redis_server import RedisServer, with_own_prefix
from serving import CHAT, events, settings_of, sidecar
from wire import HEAD, Client, Connection, eventually, sse, upstream

from policies.stores.opening import open_store

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
PACE_SECONDS = 0.002
"""Between two tokens of an upstream, so that other streams and the store get turns."""
PROMPT_TOKENS = 5
LIMIT, STEP = 12_000, 100
"""Tokens that 40 endless streams share, and by which each of them grows."""
CALL: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
CHAIN = """
[[policy]]
use = "budget"
{limit}
answer = {answer}
floor = 10
"""


async def endless(connection: Connection) -> None:
    """Send one token after another, in turn for each answer, until the other side closes."""
    many = connection.body.get("n", 1)
    await connection.send(HEAD)
    at = 0
    while True:
        delta = {"index": at % many, "delta": {"content": "x"}, "finish_reason": None}
        await connection.chunk(sse({"id": "c1", "created": 7, "model": "m-1", "choices": [delta]}))
        at += 1
        await asyncio.sleep(PACE_SECONDS)


def chunks_of(body: bytes) -> list[dict[str, Any]]:
    *lines, done, rest = body.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


@pytest.mark.parametrize("many", [1, 2])
@pytest.mark.parametrize("shows_usage", [True, False])
@pytest.mark.parametrize(
    "limit", ["tokens = 205", 'usd = 205e-6\nprices = { "*" = { input = 1, output = 1 } }'], ids=["tokens", "dollars"]
)
async def test_stream_ends_cleanly_at_the_limit(tmp_path: Path, limit: str, many: int, *, shows_usage: bool) -> None:
    """Each open choice gets the finish `length`, then come usage if it was asked for and `[DONE]`; upstream is closed."""
    body = CALL | {"n": many} | ({"stream_options": {"include_usage": True}} if shows_usage else {})
    text = CHAIN.format(limit=limit, answer=40)
    async with upstream(endless) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, answer = await served.post(V1, body)
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        account = await served.account()
        sent = up.requests[0].body

    chunks = chunks_of(answer)
    usage = chunks.pop() if shows_usage else {}
    ends = [chunk["choices"][0] for chunk in chunks[-many:]]
    read = len(chunks) - many
    assert status == 200
    assert "max_tokens" not in sent
    assert ends == [{"index": at, "delta": {}, "finish_reason": "length"} for at in range(many)]
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks} == {("c1", 7, "m-1")}
    assert 200 <= read <= 260
    assert (account.spent, account.reserved) == (PROMPT_TOKENS + read, 0)
    if shows_usage:
        counts = {"prompt_tokens": 5, "completion_tokens": read, "total_tokens": 5 + read}
        assert (usage["choices"], usage["usage"]) == ([], counts)


@pytest.mark.parametrize("burst", [150, 300])
async def test_burst_larger_than_a_step_grows(tmp_path: Path, burst: int) -> None:
    """A burst of several steps takes the room that is left: the store answers, so it is not `store_unavailable`."""

    async def bursts(connection: Connection) -> None:
        await connection.send(HEAD)
        chunk = {"id": "c1", "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]}
        while True:
            await connection.chunk(sse(chunk) * burst)
            await asyncio.sleep(10 * PACE_SECONDS)  # so that few bursts arrive in one read

    text = CHAIN.format(limit="tokens = 1_005", answer=STEP)
    async with upstream(bursts) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, answer = await served.post(V1, CALL)
        account = await served.account()
    *tokens, end = chunks_of(answer)
    assert (status, end["choices"][0]["finish_reason"]) == (200, "length")
    assert 1_000 <= len(tokens) <= 1_000 + STEP + 2 * burst  # two bursts may arrive in one read
    assert (account.spent, account.reserved) == (PROMPT_TOKENS + len(tokens), 0)


async def test_answer_that_finishes_at_the_limit_is_complete(tmp_path: Path) -> None:
    """Where upstream finishes as the limit is used up, its own finish and usage count; Chat Nest's events end with `done`."""

    async def script(connection: Connection) -> None:
        await connection.send(HEAD)
        for _ in range(200):
            delta = {"index": 0, "delta": {"content": "x"}, "finish_reason": None}
            await connection.chunk(sse({"id": "c1", "choices": [delta]}))
            await asyncio.sleep(PACE_SECONDS)
        await connection.chunk(sse({"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        await asyncio.sleep(10 * PACE_SECONDS)  # so that the finish arrives in a read of its own
        usage = {"prompt_tokens": 9, "completion_tokens": 277, "total_tokens": 286}
        await connection.chunk(sse({"id": "c1", "choices": [], "usage": usage}) + b"data: [DONE]\n\n")

    for schema in ("openai", "chat-nest"):
        (folder := tmp_path / schema).mkdir()
        text = CHAIN.format(limit="tokens = 205", answer=40)
        headers = ["x-event-schema: chat-nest"] if schema == "chat-nest" else []
        async with upstream(script) as up, sidecar(settings_of(folder, up.url, text)) as served:
            _, _, answer = await served.post(V1, CALL | {"stream_options": {"include_usage": True}}, *headers)
            account = await served.account()
        assert (account.spent, account.reserved) == (286, 0)
        if headers:
            assert events(answer)[-1][0] == "done"
        else:
            assert [chunk.get("usage", {}).get("completion_tokens") for chunk in chunks_of(answer)[-2:]] == [None, 277]


@pytest.mark.parametrize(("path", "headers"), [("/api/chat", []), (V1, ["x-event-schema: chat-nest"])])
async def test_chat_nest_gets_an_error_at_the_limit(tmp_path: Path, path: str, headers: list[str]) -> None:
    """Chat Nest's events end with `error`, code `budget_exceeded`, which is not retryable."""
    text = CHAIN.format(limit="tokens = 205", answer=40)
    async with upstream(endless) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        _, _, answer = await served.post(path, CHAT if path == "/api/chat" else CALL, *headers)

    *tokens, (name, data) = events(answer)
    assert (name, json.loads(data)["code"], json.loads(data)["retryable"]) == ("error", "budget_exceeded", False)
    assert [name for name, _ in tokens[:2]] == ["start", "token"]
    assert "done" not in dict(tokens)


async def test_fifty_calls_without_a_ceiling_run_at_once(tmp_path: Path) -> None:
    """With the shipped limits and a fresh store, 50 parallel calls that set no ceiling all run."""
    opened = asyncio.Event()

    async def script(connection: Connection) -> None:
        await opened.wait()
        if connection.body["stream"]:
            await connection.stream("hi")
        else:
            answer = {
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]
            }
            await connection.answer(200, json.dumps(answer).encode())

    for stream in (True, False):
        opened.clear()
        async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url)) as served:
            calls = [asyncio.create_task(served.post(V1, CALL | {"stream": stream})) for _ in range(50)]
            await eventually(lambda: len(up.requests) == 50)
            opened.set()
            answers = await asyncio.gather(*calls)
        assert [status for status, _, _ in answers] == [200] * 50
        assert all("max_tokens" not in request.body for request in up.requests)


async def test_client_that_leaves_is_charged_what_was_read(tmp_path: Path) -> None:
    """A client that leaves a growing stream pays the prompt and what was read; nothing stays reserved."""
    text = CHAIN.format(limit="tokens = 100_000", answer=20)
    async with upstream(endless) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        client = await served.client()
        await client.post(V1, CALL)
        await client.until(b"x" * 0 + b'"x"')
        for _ in range(60):
            await client.until(b"data: ")
        client.close()
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        account = await served.account()
    assert account.reserved == 0
    assert 60 + PROMPT_TOKENS <= account.spent < 20_000


async def check_processes(ports: list[int], url: str, folder: Path) -> None:
    """Run 40 endless streams; each ends cleanly, and what was sent equals what was charged."""

    async def stream(port: int) -> tuple[int, int]:
        client = await Client.to(port)
        await client.post(V1, CALL)
        status, _, body = await client.answer()
        client.close()
        if status == 200:
            chunks = chunks_of(body)
            assert chunks[-1]["choices"][0]["finish_reason"] == "length"
            return status, len(chunks) - 1
        assert json.loads(body)["error"]["code"] == "budget_exceeded"
        return status, 0

    store = open_store(url, folder=folder)
    largest, ended = 0, False

    async def watch() -> None:
        nonlocal largest
        while not ended:
            for account in await store.accounts():
                largest = max(largest, account.reserved)
            await asyncio.sleep(PACE_SECONDS)

    watching = asyncio.create_task(watch())
    answers = await asyncio.gather(*(stream(ports[at % len(ports)]) for at in range(40)))
    ended = True
    await watching
    (account,) = await store.accounts()
    await store.aclose()

    streams = sum(status == 200 for status, _ in answers)
    sent = sum(count + PROMPT_TOKENS for status, count in answers if status == 200)
    assert streams >= 5
    assert (account.spent, account.reserved) == (sent, 0)
    assert largest <= LIMIT
    # Each stream exceeds its reservation by what arrived while its last question was answered.
    assert LIMIT - 40 * 10 <= sent <= LIMIT + streams * STEP


async def test_four_workers_share_the_limit(tmp_path: Path) -> None:
    """Endless streams of four workers on one SQLite file end when the limit that they share is used up."""
    text = '[store]\nurl = "sqlite:///s.db"\n' + CHAIN.format(limit=f"tokens = {LIMIT}", answer=STEP)
    (tmp_path / "s.toml").write_text(text)
    async with upstream(endless) as up:
        serve = ("serve", "--config", "s.toml", "--upstream", up.url, "--port", "0", "--workers", "4")
        with program(*serve, folder=tmp_path) as running:
            await check_processes([running.port], "sqlite:///s.db", tmp_path)


async def test_two_nodes_share_the_limit(redis: RedisServer, tmp_path: Path) -> None:
    """Endless streams of two servers that share only a Redis end when the limit that they share is used up."""
    url = with_own_prefix(redis.url)
    (tmp_path / "s.toml").write_text(f'[store]\nurl = "{url}"\n' + CHAIN.format(limit=f"tokens = {LIMIT}", answer=STEP))
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(upstream(endless))
        serve = ("serve", "--config", "s.toml", "--upstream", up.url, "--port", "0")
        nodes = [stack.enter_context(program(*serve, folder=tmp_path)) for _ in range(2)]
        await check_processes([node.port for node in nodes], url, tmp_path)
