"""Unmodified clients of `sidecar serve` in front of `sidecar mock`, each server a process of its own."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import openai
import pytest
from places import NODE
from process import Program, program
from wire import eventually

HI: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("clients")
    with program("mock", "--port", "0", folder=folder) as mock:
        arguments = ("serve", "--upstream", mock.url, "--port", "0")
        with program(*arguments, folder=folder) as sidecar:
            yield sidecar


@pytest.fixture
def client(served: Program) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="sk-test", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(served: Program) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="sk-test", max_retries=0) as client:
        yield client


def test_openai_client_streams(client: openai.OpenAI) -> None:
    """OpenAI's Python client streams; it receives usage only where it asked for it."""
    with client.chat.completions.create(model="mock-5-1-0", messages=HI, stream=True) as stream:
        plain = list(stream)
    with client.chat.completions.create(
        model="mock-5-1-0", messages=HI, stream=True, stream_options={"include_usage": True}
    ) as stream:
        counted = list(stream)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in plain) == " tok0 tok1 tok2 tok3 tok4"
    assert plain[-1].choices[0].finish_reason == "stop"
    assert counted[-1].usage is not None
    assert counted[-1].usage.completion_tokens == 5


def test_openai_client_asks_without_streaming(client: openai.OpenAI) -> None:
    """A call without `stream` gets one JSON object; `max_tokens`, `n` and the list of models reach upstream."""
    answer = client.chat.completions.create(model="mock-5-0-0", messages=HI, max_tokens=2, n=2)

    assert [choice.message.content for choice in answer.choices] == [" tok0 tok1"] * 2
    assert answer.choices[0].finish_reason == "length"
    assert [model.id for model in client.models.list()] == ["mock"]
    assert [client.models.retrieve(name).id for name in ("mock", "org/mock:8b")] == ["mock", "org/mock:8b"]


def test_openai_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    """A refusal raises the class that the SDK defines for its status, with the code of the sidecar."""
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="mock", messages=[])
    with pytest.raises(openai.NotFoundError) as unknown:
        client.moderations.create(input="x")

    assert (bad.value.code, bad.value.param) == ("invalid_request", "messages")
    assert unknown.value.code == "not_found"


@pytest.mark.anyio
async def test_async_openai_client_streams_and_asks_plainly(async_client: openai.AsyncOpenAI) -> None:
    """The asynchronous client makes many streaming calls at once, and plain ones."""

    async def one(tokens: int) -> int:
        stream = await async_client.chat.completions.create(model=f"mock-{tokens}-1-1", messages=HI, stream=True)
        return sum([1 async for chunk in stream if chunk.choices[0].delta.content])

    assert await asyncio.gather(*(one(tokens) for tokens in range(1, 9))) == list(range(1, 9))
    whole = await async_client.chat.completions.create(model="mock-3-0-0", messages=HI)
    assert whole.choices[0].message.content == " tok0 tok1 tok2"


def test_limits_raise_rate_limit_error(tmp_path: Path) -> None:
    """A used-up rate and a used-up budget raise RateLimitError; the client does not retry where that cannot help."""
    (tmp_path / "s.toml").write_text(
        "[[policy]]\nuse = 'rate'\nrequests = 2\nwindow = 3600\n[[policy]]\nuse = 'budget'\ntokens = 48\nfloor = 10\n"
    )
    with program("mock", "--port", "0", folder=tmp_path) as mock:
        arguments = ("serve", "--config", "s.toml", "--upstream", mock.url, "--port", "0")
        with (
            program(*arguments, folder=tmp_path) as sidecar,
            openai.OpenAI(base_url=f"{sidecar.url}/v1", api_key="x") as client,
        ):
            client.chat.completions.create(model="mock-30-0-0", messages=HI)
            with pytest.raises(openai.RateLimitError) as budget:
                client.chat.completions.create(model="mock-30-0-0", messages=HI)
            client.chat.completions.create(model="mock-1-0-0", messages=HI, max_tokens=1)
            with pytest.raises(openai.RateLimitError) as rate:
                client.chat.completions.create(model="mock-1-0-0", messages=HI, max_tokens=1)

    assert (budget.value.code, budget.value.type) == ("budget_exceeded", "insufficient_quota")
    assert (rate.value.code, rate.value.response.headers["x-should-retry"]) == ("rate_limit_exceeded", "false")


def test_node_client_works(served: Program) -> None:
    """OpenAI's client for Node streams, asks plainly, lists models, is refused, and aborts."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("Node is not installed")
    subprocess.run([npm, "install", "--silent"], cwd=NODE, check=True, timeout=300)
    done = subprocess.run(
        [node, "client.mjs", f"{served.url}/v1"], cwd=NODE, check=True, capture_output=True, text=True, timeout=60
    )

    assert json.loads(done.stdout) == {
        "pieces": [" tok0", " tok1", " tok2", " tok3", " tok4"],
        "usage": 5,
        "whole": " tok0 tok1 tok2 tok3 tok4",
        "models": ["mock"],
        "refused": ["BadRequestError", 400, "invalid_request"],
    }


class ChatNestClient:
    """Chat Nest's client: no retry of a 4xx, three tries otherwise, blocks split at blank lines only."""

    def __init__(self, url: str) -> None:
        self.url, self.attempts = url, 0

    async def send(self, text: str, **more: object) -> tuple[list[str], str]:
        body = {"messages": [{"id": "1", "role": "user", "content": text}], "profile": "balanced", **more}
        async with httpx.AsyncClient(timeout=30) as http:
            for _ in range(3):
                self.attempts += 1
                async with http.stream("POST", self.url, json=body) as answer:
                    if 400 <= answer.status_code < 500:
                        return [], f"HTTP {answer.status_code}"
                    if answer.status_code == 200:
                        return await self._read(answer)
        return [], "gave up"

    async def _read(self, answer: httpx.Response) -> tuple[list[str], str]:
        tokens, rest = list[str](), ""
        async for data in answer.aiter_text():
            *blocks, rest = (rest + data).split("\n\n")
            for block in blocks:
                event = value = ""
                for line in block.split("\n"):
                    if line.startswith("event:"):
                        event = line[6:].strip()
                    elif line.startswith("data:"):
                        value = line[5:].strip()
                if event == "token":
                    tokens.append(json.loads(value))
                elif event == "error":
                    return tokens, json.loads(value)["message"]
                elif event == "done":
                    return tokens, "done"
        return tokens, "cut"


@pytest.mark.anyio
async def test_chat_nest_client_works(served: Program) -> None:
    """Chat Nest's client receives all tokens and `done`; it does not repeat a refused call."""
    client = ChatNestClient(f"{served.url}/api/chat")
    tokens, end = await client.send("hi")
    refused = await client.send("x" * 9000)

    assert (tokens, end) == ([f" tok{at}" for at in range(64)], "done")
    assert (refused, client.attempts) == (([], "HTTP 429"), 2)


@pytest.mark.anyio
async def test_chat_nest_client_does_not_repeat_a_failed_call(tmp_path: Path) -> None:
    """While upstream is unreachable, Chat Nest's client receives one error message and sends its call only once."""
    (tmp_path / "s.toml").write_text("[[policy]]\nuse = 'retry'\nbase = 0.001\ncap = 0.001\n")
    arguments = ("serve", "--config", "s.toml", "--upstream", "http://127.0.0.1:9/v1", "--model", "m", "--port", "0")
    with program(*arguments, folder=tmp_path) as sidecar:
        client = ChatNestClient(f"{sidecar.url}/api/chat")
        assert await client.send("hi") == ([], "The model cannot be reached. Please try again.")
        assert client.attempts == 1
    await eventually(lambda: sidecar.popen.poll() == 0)
