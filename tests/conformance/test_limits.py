"""Limits as clients see them: refusals in the format of the path, headers, and lowered ceilings."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from scripts import answers, hello
from serving import CHAT, events, settings_of, sidecar
from wire import Connection, upstream

pytestmark = pytest.mark.anyio

HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 10}


async def test_rate_limit_refuses_with_its_wait(tmp_path: Path) -> None:
    """A call over the rate is 429 with limit, wait and headers, in the format of its path."""
    text = '[[policy]]\nuse = "rate"\nname = "rpm"\nrequests = 1\nwindow = 30'
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        _, first, _ = await served.post("/v1/chat/completions", HI)
        status, headers, body = await served.post("/v1/chat/completions", HI)
        chat_status, _, chat = await served.post("/api/chat", CHAT)
        models_status, _, _ = await served.get("/v1/models")
        assert len(up.requests) == 1

    error = json.loads(body)["error"]
    assert (status, chat_status, models_status) == (429, 429, 429)
    assert json.loads(chat)["error"] == "Rate limit exceeded. Please slow down."
    assert (error["code"], error["policy"], error["limit"], error["used"]) == ("rate_limit_exceeded", "rpm", 1, 1)
    assert first["ratelimit"] in ('"rpm";r=0;t=30', '"rpm";r=0;t=31')  # room returns up to 1/64 of the window late
    assert headers["ratelimit-policy"] == '"rpm";q=1;w=30'
    assert 0 < float(headers["retry-after-ms"]) <= 30_500
    assert 0 < int(headers["retry-after"]) <= 31
    assert "x-should-retry" not in headers


async def test_long_wait_tells_sdks_not_to_retry(tmp_path: Path) -> None:
    """A refusal with a long wait tells SDKs not to retry, and has `retry-after`."""
    text = '[[policy]]\nuse = "rate"\nrequests = 1\nwindow = 3600'
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        await served.post("/v1/chat/completions", HI)
        _, headers, _ = await served.post("/v1/chat/completions", HI)

    assert headers["x-should-retry"] == "false"
    assert 3000 < int(headers["retry-after"]) <= 3660
    assert "retry-after-ms" not in headers


async def test_used_up_budget_refuses_until_its_reset(tmp_path: Path) -> None:
    """A used-up budget is 429 `budget_exceeded` with its name and reset time, and SDKs must not retry."""
    text = '[[policy]]\nuse = "budget"\nname = "daily"\ntokens = 70\nfloor = 20'
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        statuses = [(await served.post("/v1/chat/completions", HI | {"max_tokens": 60}))[0] for _ in range(8)]
        ceilings = [request.body["max_tokens"] for request in up.requests]
        status, headers, body = await served.post("/v1/chat/completions", HI | {"max_tokens": 60})
        _, _, chat = await served.post("/api/chat", CHAT)
        account = await served.account("daily")

    assert statuses == [200] * 7 + [429]
    assert ceilings == [60, 58, 51, 44, 37, 30, 23]
    error = json.loads(body)["error"]
    assert (status, error["code"], error["type"]) == (429, "budget_exceeded", "insufficient_quota")
    assert (error["policy"], error["limit"], error["used"]) == ("daily", 70, 49)
    assert error["resets_at"] == account.resets_at
    assert (headers["x-should-retry"], headers["x-ratelimit-remaining-tokens"]) == ("false", "21")
    assert json.loads(chat)["error"] == "Daily AI budget exceeded. Try again tomorrow."
    assert (account.spent, account.reserved) == (49, 0)


async def test_answer_below_the_floor_is_admitted(tmp_path: Path) -> None:
    """If less than the floor is left, a call whose ceiling fits is still admitted."""
    text = '[[policy]]\nuse = "budget"\ntokens = 20\nfloor = 64'
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        assert (await served.post("/v1/chat/completions", HI | {"max_tokens": 16}))[0] == 429
        assert (await served.post("/v1/chat/completions", HI | {"max_tokens": 15}))[0] == 200


async def test_refused_call_costs_nothing(tmp_path: Path) -> None:
    """A call that one limit refuses is charged by no limit (BerriAI/litellm#39309)."""
    text = """
[[policy]]
use = "rate"
requests = 5
[[policy]]
use = "budget"
tokens = 10
"""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        for _ in range(9):
            status, headers, body = await served.post("/v1/chat/completions", HI | {"max_tokens": 50})
            assert (status, json.loads(body)["error"]["policy"]) == (429, "budget")
        assert headers["x-ratelimit-remaining-requests"] == "5"
        assert not up.requests


async def test_large_request_is_refused(tmp_path: Path) -> None:
    """Prompt and answer over `request` are 429 on /api/chat and 400 on /v1; a client can only lower that limit."""
    text = '[[policy]]\nuse = "max_tokens"\noutput = 30\nrequest = 100'
    long = [{"role": "user", "content": "x" * 281}]
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        chat_status, _, chat = await served.post("/api/chat", {"messages": long, "maxTokensPerRequest": 10**6})
        status, headers, body = await served.post("/v1/chat/completions", {"messages": long})
        assert not up.requests
        assert (await served.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 280}], "stream": True}))[0] == 200  # fmt: skip

    assert (chat_status, json.loads(chat)["code"]) == (429, "request_too_large")
    assert json.loads(chat)["error"] == "Request too large. Please shorten your message."
    assert (status, json.loads(body)["error"]["code"]) == (400, "request_too_large")
    assert headers["x-should-retry"] == "false"


@pytest.mark.parametrize("url", ["memory://", "sqlite:///limits.db"])
async def test_concurrent_calls_keep_the_budget(tmp_path: Path, url: str) -> None:
    """Of 60 calls at once exactly those that fit the budget are admitted (BerriAI/litellm#34732)."""
    release = asyncio.Event()

    async def held(connection: Connection) -> None:
        await release.wait()
        await connection.stream("a", "b")

    text = f'[store]\nurl = "{url}"\n[[policy]]\nuse = "budget"\ntokens = 300\nfloor = 10'
    async with upstream(held) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        calls = [asyncio.create_task(served.post("/v1/chat/completions", HI)) for _ in range(60)]
        async with asyncio.timeout(20):
            while len(up.requests) + sum(call.done() for call in calls) < 60:
                await asyncio.sleep(0)
                accounts = await served.gateway.policy_services.store.accounts()
                assert all(account.spent + account.reserved <= 300 for account in accounts)
        release.set()
        statuses = [(await call)[0] for call in calls]
        account = await served.account()

    assert (statuses.count(200), statuses.count(429)) == (20, 40)
    assert (account.spent, account.reserved) == (20 * (5 + 2), 0)


async def test_budget_survives_a_restart(tmp_path: Path) -> None:
    """What was spent before a restart still counts."""
    text = '[store]\nurl = "sqlite:///kept.db"\n[[policy]]\nuse = "budget"\ntokens = 1000'
    async with upstream(hello) as up:
        settings = settings_of(tmp_path, up.url, text)
        for spent in (7, 14, 21):
            async with sidecar(settings) as served:
                _, _, body = await served.post("/api/chat", {"messages": [{"role": "user", "content": "hi"}]})
                assert events(body)[-1] == ("done", "")
                assert (await served.account()).spent == spent


@pytest.mark.parametrize(
    "asked",
    [{"n": 3}, {"max_completion_tokens": 50}, {"max_completion_tokens": 9, "max_tokens": None}, {"stream_options": {}}],
)
async def test_all_that_a_call_may_cost_is_reserved(tmp_path: Path, asked: dict[str, object]) -> None:
    """A call reserves n answers at the lowest ceiling that upstream is sent."""
    text = '[[policy]]\nuse = "budget"\ntokens = 1000'
    release = asyncio.Event()

    async def held(connection: Connection) -> None:
        await release.wait()
        await connection.stream("a")

    async with upstream(held) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        call = asyncio.create_task(served.post("/v1/chat/completions", HI | asked))
        await asyncio.wait_for(up.arrived.wait(), 5)
        (account,) = await served.gateway.policy_services.store.accounts()
        release.set()
        await call
        body = up.requests[0].body

    ceiling = min(limit for limit in (body.get("max_tokens"), body.get("max_completion_tokens")) if limit)
    assert account.reserved == 5 + body.get("n", 1) * ceiling


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_limits_are_in_the_headers_of_streams_too(tmp_path: Path, *, stream: bool) -> None:
    """Streams and whole answers report requests and tokens by OpenAI's headers, and rates alone by `RateLimit`."""
    text = '[[policy]]\nuse = "rate"\nrequests = 5\n[[policy]]\nuse = "budget"\ntokens = 9000\n'
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        seen = [await served.post("/v1/chat/completions", HI | {"stream": stream})]
        if stream:
            seen.append(await served.post("/api/chat", CHAT))

    for status, headers, _ in seen:
        assert (status, headers["ratelimit-policy"]) == (200, '"rate";q=5;w=60')
        assert headers["ratelimit"].startswith('"rate";r=')
        assert "budget" not in headers["ratelimit"]
        assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-limit-tokens"]) == ("5", "9000")
        assert int(headers["x-ratelimit-remaining-tokens"]) < 9000
        assert headers["x-ratelimit-reset-requests"]
        assert headers["x-ratelimit-reset-tokens"]
