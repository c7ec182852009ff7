"""`chat_refusals = "event"`: Chat Nest's client gets the message of a refusal, in an `error` event under status 200."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from recording import SERVERS, V1, recorded
from redis_server import free_port
from scripts import hello
from serving import CHAT, events, settings_of, sidecar
from wire import Connection, upstream

from sidecar.downstream.client_errors import draining

pytestmark = pytest.mark.anyio

EVENTS = '[server]\nchat_refusals = "event"\nchat_max_body = 2000\n'
RATE = '[[policy]]\nuse = "rate"\nname = "rpm"\nrequests = 1\nwindow = 30\n'
SMALL_BUDGET = '[[policy]]\nuse = "budget"\ntokens = 20\nwindow = "month"\n'
SMALL_REQUEST = '[[policy]]\nuse = "max_tokens"\noutput = 30\nrequest = 32\n'
KEYS = f'[[key]]\ntenant = "acme"\nsha256 = "{sha256(b"key").hexdigest()}"\n'


def error_event(answer: tuple[int, dict[str, str], bytes]) -> dict[str, Any]:
    """Return the data of the only event of a response with status 200."""
    status, headers, body = answer
    assert (status, headers["content-type"], headers["cache-control"]) == (200, "text/event-stream", "no-cache")
    assert headers["x-request-id"]
    assert not {"x-should-retry", "retry-after", "www-authenticate"} & set(headers)
    ((name, data),) = events(body)
    assert name == "error"
    read: dict[str, Any] = json.loads(data)
    assert read["message"]
    return read


@SERVERS
async def test_rate_is_an_event_with_its_wait(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """A rate that is used up is one event without `start`: its message, the numbers, and a wait after which to try again."""
    async with (
        upstream(hello) as up,
        sidecar(settings_of(tmp_path, up.url, EVENTS + RATE), protocol=protocol) as served,
    ):
        _, _, first = await served.post("/api/chat", CHAT)
        answer = await served.post("/api/chat", CHAT)
        assert len(up.requests) == 1

    assert [name for name, _ in events(first)] == ["start", "token", "token", "done"]
    error = error_event(answer)
    assert 0 < error.pop("retry_after") <= 30.5
    assert error.pop("resets_at") > 0
    wait = (
        error.pop("message").removeprefix("Rate limit 'rpm' exceeded: 1 request in 30 s; retry in ").removesuffix(" s.")
    )
    assert 0 < int(wait) <= 31
    assert error == {
        "code": "rate_limit_exceeded",
        "retryable": True,
        "policy": "rpm",
        "limit": 1,
        "used": 1,
        "held": 0,
        "needed": 1,
        "case": "spent",
    }
    assert answer[1]["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize(
    ("text", "body", "headers", "code", "message"),
    [
        (SMALL_BUDGET, CHAT, (), "budget_exceeded", "Budget 'budget' of 20 tokens a month: this call needs at least"),
        (SMALL_REQUEST, CHAT, (), "request_too_large", "prompt and answer may have 32 tokens in all, this one needs 33"),
        ("", {"messages": []}, (), "invalid_request", "'messages' must be a non-empty list."),
        ("", {"messages": ["hi"]}, (), "invalid_request", "messages[0] must be an object with 'role' and 'content'."),
        ("", {"messages": [{"role": "system", "content": "x"}]}, (), "invalid_request", "messages[0].role must be one of: user, assistant."),
        ("", {"messages": [{"role": "user", "content": 1}]}, (), "invalid_request", "messages[0].content must be a string."),
        ("", CHAT | {"dailyTokenLimit": 0}, (), "invalid_request", "dailyTokenLimit"),
        ("", b"{", (), "invalid_request", "JSON"),
        ("", {"messages": "x" * 3000}, (), "body_too_large", "The body is larger than 2000 bytes (server.max_body, and server.chat_max_body on /api/chat)."),
        ("", CHAT, ("content-type: text/plain",), "unsupported_media_type", "Send JSON"),
        (KEYS, CHAT, (), "unauthorized", "The API key is missing or unknown."),
    ],
)  # fmt: skip
async def test_refusal_is_an_event(
    tmp_path: Path, text: str, body: Any, headers: tuple[str, ...], code: str, message: str
) -> None:
    """A refusal that would be a 4xx is one final event with a precise message; no upstream is asked."""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, EVENTS + text)) as served:
        error = error_event(await served.post("/api/chat", body, *headers))
        assert not up.requests

    assert (error["code"], error["retryable"]) == (code, False)
    assert message in error["message"]
    assert "retry_after" not in error


async def test_held_budget_is_a_retryable_event(tmp_path: Path) -> None:
    """A budget that running calls hold is an event that says so, and that another try can succeed."""
    release = asyncio.Event()

    async def waits(connection: Connection) -> None:
        await release.wait()
        await hello(connection)

    text = EVENTS + '[[policy]]\nuse = "budget"\ntokens = 100\nwindow = "month"\n'
    async with upstream(waits) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        running = asyncio.create_task(served.post("/api/chat", CHAT))
        await asyncio.wait_for(up.arrived.wait(), 10)
        error = error_event(await served.post("/api/chat", CHAT))
        release.set()
        assert events((await running)[2])[-1] == ("done", "")

    assert (error["case"], error["retryable"], error["used"]) == ("held", True, 0)
    assert 0 < error["retry_after"] <= 3
    assert "are reserved by calls that run now; retry in about" in error["message"]


async def test_server_errors_keep_their_status(tmp_path: Path) -> None:
    """A 5xx keeps its status, because Chat Nest's client sends such a call again, and an event would be final."""
    down = f'[store]\nurl = "redis://127.0.0.1:{free_port()}/0"\n{EVENTS}{SMALL_BUDGET}'
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, down)) as served:
        status, headers, body = await served.post("/api/chat", CHAT)
    assert (status, json.loads(body)["code"], headers["retry-after"]) == (503, "store_unavailable", "1")

    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, EVENTS)) as served:
        await served.gateway.active_calls.drain(0, draining())
        status, headers, body = await served.post("/api/chat", CHAT)
        assert not up.requests
    assert (status, json.loads(body)["code"], headers["connection"]) == (503, "draining", "close")


async def test_other_paths_and_methods_keep_their_status(tmp_path: Path) -> None:
    """`/v1` keeps its statuses, also with Chat Nest's events, and so does a wrong method on /api/chat."""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, EVENTS + RATE)) as served:
        await served.post("/api/chat", CHAT)
        body = CHAT | {"model": "m"}
        plain, _, _ = await served.post(V1, body)
        chat_nest, headers, answer = await served.post(V1, body, "x-event-schema: chat-nest")
        wrong_method, allowed, _ = await served.get("/api/chat")

    assert (plain, chat_nest, wrong_method) == (429, 429, 405)
    assert json.loads(answer)["error"]["code"] == "rate_limit_exceeded"
    assert (headers["content-type"], allowed["allow"]) == ("application/json", "POST")


async def test_statuses_are_the_default(tmp_path: Path) -> None:
    """Without the setting a refusal on /api/chat has its status."""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, SMALL_BUDGET)) as served:
        status, _, body = await served.post("/api/chat", CHAT)
        invalid, _, answer = await served.post("/api/chat", {"messages": [1]})

    assert (status, invalid, json.loads(body)["code"]) == (429, 400, "budget_exceeded")
    detail = "messages[0] must be an object with 'role' and 'content'."
    assert json.loads(answer) == {"error": "Invalid messages payload", "code": "invalid_request", "detail": detail}


async def test_event_is_recorded_as_a_refusal(tmp_path: Path) -> None:
    """The record of such a refusal has the status that was sent, and its code and policy."""
    async with upstream(hello) as up, recorded(tmp_path, up, EVENTS + SMALL_BUDGET) as it:
        await it.served.post("/api/chat", CHAT)
        record = await it.one()

    assert (record.status, record.ending, record.code) == (200, "rejected", "budget_exceeded")
    assert (record.rejected_by, record.attempts) == ("budget", 0)
