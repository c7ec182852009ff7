"""The cases of a limit's refusal as clients meet them: never fits, spent, held; and what OpenAI's SDK does about each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from scripts import answers, whole_answer
from serving import CHAT, Sidecar, settings_of, sidecar
from wire import Connection, upstream

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
HI: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
BUDGET = '[store]\nurl = "{url}"\n[[policy]]\nuse = "budget"\ntokens = {tokens}\nwindow = "month"\nfloor = 10\n'
STORES = pytest.mark.parametrize("url", ["memory://", "sqlite:///cases.db"])


@asynccontextmanager
async def sdk(
    served: Sidecar, seen: list[Any], on_refusal: Callable[[], Any] | None = None
) -> AsyncIterator[openai.AsyncOpenAI]:
    """Yield OpenAI's client with its own retries. *seen* gets each response, before the client does."""

    async def note(response: Any) -> None:
        seen.append(response)
        if response.status_code == 429 and on_refusal is not None:
            await on_refusal()

    http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [note]})
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="x", http_client=http) as client:
        yield client


@STORES
async def test_held_budget_is_retried_by_the_sdk(tmp_path: Path, url: str) -> None:
    """Where parallel calls hold a budget, the wait is short and the retry of OpenAI's SDK succeeds."""
    release = asyncio.Event()

    async def first_waits(connection: Connection) -> None:
        await connection.answer(200, whole_answer("quick"))
        up.play(waits, answers)

    async def waits(connection: Connection) -> None:
        await release.wait()
        await answers(connection)

    text = BUDGET.format(url=url, tokens=100)
    async with upstream(first_waits) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        seen: list[Any] = []
        body = {"model": "m", "messages": HI, "max_tokens": 90}
        assert (await served.post(V1, body))[0] == 200  # from now on a call is known to take milliseconds
        up.arrived.clear()
        running = asyncio.create_task(served.post(V1, body))
        await asyncio.wait_for(up.arrived.wait(), 10)

        async def running_call_ends() -> None:
            release.set()
            await running

        async with sdk(served, seen, running_call_ends) as client:
            answer = await client.chat.completions.create(model="m", messages=HI, max_tokens=70)
        refused = json.loads(seen[0].content)["error"]

    assert answer.choices[0].message.content == "ab"
    assert [response.status_code for response in seen] == [429, 200]
    headers = seen[0].headers
    assert 250 <= int(headers["retry-after-ms"]) <= 375
    assert headers["retry-after"] == "1"
    assert "x-should-retry" not in headers
    assert (refused["case"], refused["code"], refused["type"]) == ("held", "budget_exceeded", "rate_limit_error")
    assert (refused["limit"], refused["used"] + refused["held"], refused["needed"]) == (100, 100, 15)
    assert f"{refused['held']} are reserved by calls that run now; retry in about 1 s." in refused["message"]


@STORES
async def test_spent_budget_is_final_for_the_sdk(tmp_path: Path, url: str) -> None:
    """A spent budget is asked once by OpenAI's SDK; its error names the case and the reset."""
    text = BUDGET.format(url=url, tokens=18)
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        seen: list[Any] = []
        async with sdk(served, seen) as client:
            await client.chat.completions.create(model="m", messages=HI, max_tokens=10)
            with pytest.raises(openai.RateLimitError) as refused:
                await client.chat.completions.create(model="m", messages=HI, max_tokens=15)

    assert [response.status_code for response in seen] == [200, 429]
    body: Any = refused.value.body
    assert (body["case"], body["used"], body["held"], body["needed"]) == ("spent", 6, 0, 15)
    assert (refused.value.code, refused.value.type) == ("budget_exceeded", "insufficient_quota")
    assert body["message"].startswith(
        "Budget 'budget' of 18 tokens a month: this call needs at least 15 tokens and 6 are"
    )
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert int(refused.value.response.headers["retry-after"]) > 0
    assert "retry-after-ms" not in refused.value.response.headers


@STORES
async def test_call_that_never_fits_has_no_wait(tmp_path: Path, url: str) -> None:
    """A call larger than its whole budget is final without `Retry-After`, also while the budget is held."""
    release = asyncio.Event()

    async def waits(connection: Connection) -> None:
        await release.wait()
        await answers(connection)

    long = {"model": "m", "messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 5}
    text = BUDGET.format(url=url, tokens=100)
    async with upstream(waits) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        running = asyncio.create_task(served.post(V1, {"model": "m", "messages": HI, "max_tokens": 90}))
        await asyncio.wait_for(up.arrived.wait(), 10)
        status, headers, answer = await served.post(V1, long)
        release.set()
        await running

    error = json.loads(answer)["error"]
    assert (status, error["case"], error["type"]) == (429, "never_fits", "insufficient_quota")
    assert error["needed"] > error["limit"] == 100
    assert "shorten the prompt." in error["message"]
    assert headers["x-should-retry"] == "false"
    assert not {"retry-after", "retry-after-ms"} & set(headers)


async def test_spent_limit_wins_over_a_held_one(tmp_path: Path) -> None:
    """No client is told to retry in seconds while another limit is spent for long, whatever the order of the limits."""
    release = asyncio.Event()

    async def waits(connection: Connection) -> None:
        await release.wait()
        await answers(connection)

    held = '[[policy]]\nuse = "budget"\nname = "held"\ntokens = 100\nwindow = "month"\nfloor = 10\n'
    spent = '[[policy]]\nuse = "rate"\nname = "spent"\nrequests = 1\nwindow = 7200\n'
    for number, text in enumerate((held + spent, spent + held)):
        release.clear()
        async with upstream(waits) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
            body = {"model": "m", "messages": HI, "max_tokens": 90}
            running = asyncio.create_task(served.post(V1, body))
            await asyncio.wait_for(up.arrived.wait(), 10)
            _, headers, answer = await served.post(V1, body)
            release.set()
            await running
        error = json.loads(answer)["error"]
        assert (error["policy"], error["case"], headers["x-should-retry"]) == ("spent", "spent", "false"), number
        assert 7000 < int(headers["retry-after"]) <= 7320


async def test_chat_keeps_its_text_and_adds_the_case(tmp_path: Path) -> None:
    """/api/chat keeps the text of Chat Nest's server in `error`, and has the case and the precise message beside it."""
    text = '[[policy]]\nuse = "budget"\ntokens = 20\nwindow = "month"\n'
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, headers, answer = await served.post("/api/chat", CHAT)

    body = json.loads(answer)
    assert (status, body["error"]) == (429, "Daily AI budget exceeded. Try again tomorrow.")
    assert (body["code"], body["case"], body["limit"], body["used"], body["held"]) == (
        "budget_exceeded",
        "never_fits",
        20,
        0,
        0,
    )
    assert body["detail"].startswith("Budget 'budget' of 20 tokens a month: this call needs at least ")
    assert "retry-after" not in headers
