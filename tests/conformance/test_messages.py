"""Anthropic's Messages API over real sockets: what it has that other APIs have not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from api_keys import key
from message_events import message_of, read_events
from samples import messages
from samples.sample import named_event
from scripts import silent
from serving import settings_of, sidecar, with_policies
from wire import HEAD, Connection, Script, eventually, upstream

from policies import Call, Event, Lease, Policy, Stop
from sidecar.downstream.endpoints import MAX_TENANT_COUNTS

pytestmark = pytest.mark.anyio

PATH, COUNT = "/v1/messages", "/v1/messages/count_tokens"
HELLO: dict[str, Any] = {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]}
STREAMED = HELLO | {"stream": True}
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 100_000\nanswer = 100\n'
RETRIED = BUDGET + '[[policy]]\nuse = "retry"\nattempts = 3\n'
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


def plays(*events: dict[str, Any]) -> Script:
    """Return a script that streams *events* as the whole body."""

    async def script(connection: Connection) -> None:
        await connection.send(HEAD)
        await connection.chunk(b"".join(map(named_event, events)))
        await connection.send(b"0\r\n\r\n")

    return script


def replies(status: int, body: dict[str, Any], *headers: str) -> Script:
    async def script(connection: Connection) -> None:
        await connection.answer(status, json.dumps(body).encode(), *headers)

    return script


ANSWERS = replies(200, messages.message("end_turn", messages.TEXT))
COUNTS = replies(200, messages.COUNTED.fields)


def error_of(body: bytes) -> tuple[str, str]:
    """Return type and code of an error response, whose envelope is Anthropic's."""
    found = json.loads(body)
    assert found["type"] == "error"
    assert isinstance(found["error"]["message"], str)
    assert found["request_id"]
    return found["error"]["type"], found["error"].get("code", "")


@pytest.mark.parametrize("stream", [True, False])
async def test_usage_with_cache_is_charged(tmp_path: Path, *, stream: bool) -> None:
    """Cache reads and writes, which are outside of `input_tokens`, count: 11 + 5 + 3 tokens, and 7 of the answer."""
    script = plays(*messages.STREAMS["text"]) if stream else ANSWERS
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        status, headers, body = await served.post(PATH, HELLO | {"stream": stream})
        account = await served.account()
    assert status == 200
    assert headers["request-id"] == headers["x-request-id"]
    assert (
        message_of(read_events(body))["content"] == [messages.TEXT] if stream else json.loads(body)["type"] == "message"
    )
    assert (account.spent, account.reserved) == (26, 0)


@pytest.mark.parametrize(
    ("query", "sent"),
    [("", ""), ("?beta=true", "?beta=true"), ("?beta=true&model=dear", ""), ("?model=dear", ""), ("?beta=1", "")],
)
@pytest.mark.parametrize(("path", "script"), [(PATH, ANSWERS), (COUNT, COUNTS)], ids=["create", "count"])
async def test_only_the_query_of_the_sdk_passes(
    tmp_path: Path, path: str, script: Script, query: str, sent: str
) -> None:
    """`?beta=true`, which the SDK sends for beta features, reaches upstream; any other query does not."""
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        status, _, _ = await served.post(path + query, HELLO)
    assert status == 200
    assert up.requests[0].head.split(b"\r\n")[0] == f"POST {path}{sent} HTTP/1.1".encode()


async def test_headers_of_the_api_pass(tmp_path: Path) -> None:
    """Version and beta features reach upstream, a repeated list joined; without keys, so does the client's own key."""
    async with upstream(ANSWERS) as up, sidecar(settings_of(tmp_path, up.url, BUDGET, model=None)) as served:
        sent = [
            "anthropic-version: 2023-06-01",
            "anthropic-beta: a-1",
            "anthropic-beta: b-2",
            "authorization: Bearer own",
        ]
        await served.post(PATH, HELLO, *sent, "cookie: c", "anthropic-dangerous-direct-browser-access: true")
    request = up.requests[0]
    names = (
        "anthropic-version",
        "anthropic-beta",
        "authorization",
        "cookie",
        "anthropic-dangerous-direct-browser-access",
    )
    assert [request.header(name) for name in names] == ["2023-06-01", "a-1, b-2", "Bearer own", None, None]


OWN_KEY = '[[upstream]]\nbase_url = "{url}"\napi_key_env = "K"\n{more}'


@pytest.mark.parametrize(
    ("more", "expected"), [('api_key_header = "x-api-key"\n', (None, "secret")), ("", ("Bearer secret", None))]
)
async def test_keys_of_clients_and_of_upstream(
    tmp_path: Path, more: str, expected: tuple[str | None, str | None]
) -> None:
    """A client's key in `x-api-key` is one of the sidecar; upstream gets its own, in `x-api-key` or as a bearer token."""
    async with upstream(ANSWERS) as up:
        text = OWN_KEY.format(url=up.url, more=more) + key("client", "t") + BUDGET
        async with sidecar(settings_of(tmp_path, None, text, environ={"K": "secret"})) as served:
            status, _, _ = await served.post(PATH, HELLO, "x-api-key: client")
            refused, _, body = await served.post(PATH, HELLO, "x-api-key: other")
            missing, _, _ = await served.post(COUNT, HELLO)
    assert (status, refused, missing, len(up.requests)) == (200, 401, 401, 1)
    assert error_of(body) == ("authentication_error", "unauthorized")
    assert (up.requests[0].header("authorization"), up.requests[0].header("x-api-key")) == expected


@pytest.mark.parametrize("configured", [True, False])
async def test_client_key_passes_to_upstream_where_configured(tmp_path: Path, *, configured: bool) -> None:
    """Without keys, `x-api-key` follows the rule of other key headers: it passes where `pass_authorization` is set."""
    async with upstream(ANSWERS) as up:
        text = f'[[upstream]]\nbase_url = "{up.url}"\n' + ("pass_authorization = true\n" if configured else "") + BUDGET
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            await served.post(PATH, HELLO, "x-api-key: own")
    assert up.requests[0].header("x-api-key") == ("own" if configured else None)


async def test_heartbeat_is_a_ping_event(tmp_path: Path) -> None:
    """While upstream is silent the client gets ping events, before the message begins and in it; upstream's own are dropped."""
    on = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.send(HEAD)
        await on.wait()
        for event in messages.STREAMS["text"][:-2]:
            await connection.chunk(named_event(event))
        on.clear()
        await on.wait()
        for event in messages.STREAMS["text"][-2:]:
            await connection.chunk(named_event(event))
        await connection.send(b"0\r\n\r\n")

    text = "[server]\nheartbeat = 0.05\n" + BUDGET
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        client = await served.client()
        await client.post(PATH, STREAMED)
        await client.until(PING)
        on.set()
        await client.until("Zoë".encode())
        await client.until(PING)
        on.set()
        await client.until(named_event(messages.STOP))


@pytest.mark.parametrize("stream", [True, False])
async def test_overloaded_server_is_asked_again(tmp_path: Path, *, stream: bool) -> None:
    """529 is repeated like 503; if it stays, the client gets it, with its type, and is told not to repeat it."""
    busy = replies(529, messages.OVERLOADED, "retry-after-ms: 1")
    good = plays(*messages.STREAMS["text"]) if stream else ANSWERS
    async with upstream(busy, good) as up, sidecar(settings_of(tmp_path, up.url, RETRIED)) as served:
        status, _, _ = await served.post(PATH, HELLO | {"stream": stream})
        assert (status, len(up.requests)) == (200, 2)
        up.play(busy)
        status, headers, body = await served.post(PATH, HELLO | {"stream": stream})
        account = await served.account()
    assert (status, headers["x-should-retry"], error_of(body)[0]) == (529, "false", "overloaded_error")
    assert (account.spent, account.reserved) == (26, 0)


async def test_overloaded_event_before_output_is_repeated(tmp_path: Path) -> None:
    """An `overloaded_error` in the stream before output is a failed attempt; after output it ends the stream."""
    before, after = plays(*messages.STREAMS["error"]), plays(*messages.STREAMS["error after text"])
    async with upstream(before, after) as up, sidecar(settings_of(tmp_path, up.url, RETRIED)) as served:
        status, _, body = await served.post(PATH, STREAMED)
    *shown, last = read_events(body)
    assert (status, len(up.requests)) == (200, 2)
    assert [event["type"] for event in shown] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
    ]
    assert (last["type"], last["error"]["type"], last["error"]["message"]) == (
        "error",
        "overloaded_error",
        "Overloaded",
    )
    assert last["request_id"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "kind"),
    [
        (b"{", (), 400, "invalid_request_error"),
        (b"[]", (), 400, "invalid_request_error"),
        (b'{"model": "m"}', (), 400, "invalid_request_error"),
        (json.dumps(HELLO | {"Max_tokens": 9}).encode(), (), 400, "invalid_request_error"),
        (json.dumps(HELLO | {"n": 9}).encode(), (), 400, "invalid_request_error"),
        (json.dumps(HELLO | {"system": [{"type": "text", "Text": "x"}]}).encode(), (), 400, "invalid_request_error"),
        (b"x" * 2_000, (), 413, "request_too_large"),
        (json.dumps(HELLO).encode(), ("content-type: text/plain",), 415, "invalid_request_error"),
    ],
)
@pytest.mark.parametrize("path", [PATH, COUNT])
async def test_bad_requests_are_refused(
    tmp_path: Path, path: str, body: bytes, headers: tuple[str, ...], status: int, kind: str
) -> None:
    """A body that cannot be governed gets Anthropic's envelope; nothing is sent upstream."""
    lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
    lines += headers or ("content-type: application/json",)
    text = "[server]\nmax_body = 1_000\n" + BUDGET
    async with upstream(ANSWERS) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        client = await served.client()
        client.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        answered, found, error = await client.answer()
    assert (answered, error_of(error)[0], up.requests) == (status, kind, [])
    assert found["request-id"] == json.loads(error)["request_id"]


async def test_wrong_method_is_refused(tmp_path: Path) -> None:
    """Another method is 405 in the envelope of the API."""
    async with upstream(ANSWERS) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        status, headers, body = await served.get(PATH)
    assert (status, headers["allow"], error_of(body)) == (405, "POST", ("invalid_request_error", "method_not_allowed"))


async def test_spent_budget_is_refused_in_the_form_of_the_api(tmp_path: Path) -> None:
    """A refusal of a limit has its numbers in the error object, and the headers that the SDK obeys."""
    text = '[[policy]]\nuse = "budget"\ntokens = 10\n'
    async with upstream(ANSWERS) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, headers, body = await served.post(
            PATH, HELLO | {"max_tokens": 5, "messages": [{"role": "user", "content": "x" * 99}]}
        )
    error = json.loads(body)["error"]
    assert (status, error_of(body), headers["x-should-retry"]) == (
        429,
        ("rate_limit_error", "budget_exceeded"),
        "false",
    )
    assert (error["case"], error["policy"], error["limit"]) == ("never_fits", "budget", 10)
    assert up.requests == []


async def test_lowered_ceiling_takes_thinking_with_it(tmp_path: Path) -> None:
    """A policy's ceiling is written as `max_tokens`, and the budget of thinking stays below it; a client's own is left."""
    text = '[[policy]]\nuse = "max_tokens"\noutput = 4_000\n' + BUDGET
    thinking = {"type": "enabled", "budget_tokens": 8_000}
    async with upstream(ANSWERS) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        await served.post(PATH, HELLO | {"max_tokens": 9_000, "thinking": thinking})
        await served.post(PATH, HELLO | {"max_tokens": 3_000, "thinking": thinking})
    first, second = (request.body for request in up.requests)
    assert (first["max_tokens"], first["thinking"]["budget_tokens"]) == (4_000, 2_000)
    assert (second["max_tokens"], second["thinking"]) == (3_000, thinking)


async def test_ceiling_under_another_name_is_obeyed(tmp_path: Path) -> None:
    """A ceiling that only other APIs know is written where servers of this one read it, so it is no way around limits."""
    body = {"model": "m", "messages": HELLO["messages"], "max_completion_tokens": 9}
    async with upstream(ANSWERS) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        await served.post(PATH, body)
    assert up.requests[0].body["max_tokens"] == 9


async def test_stream_without_a_ceiling_ends_at_the_limit(tmp_path: Path) -> None:
    """Where a budget has no room for more, the blocks are closed and the message ends with `max_tokens`; upstream is closed."""

    async def endless(connection: Connection) -> None:
        await connection.send(HEAD)
        await connection.chunk(b"".join(map(named_event, messages.STREAMS["text"][:3])))
        while True:
            await connection.chunk(named_event(messages.block_delta("text_delta", "text", "x")))
            await asyncio.sleep(0.002)

    text = '[[policy]]\nuse = "budget"\ntokens = 105\nanswer = 40\nfloor = 10\n'
    body = {"model": "m", "messages": HELLO["messages"], "stream": True}
    async with upstream(endless) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        _, _, answer = await served.post(PATH, body)
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        account = await served.account()
    message = message_of(read_events(answer))
    written = message["content"][0]["text"].count("x")
    assert (message["stop_reason"], account.reserved) == ("max_tokens", 0)
    assert message["usage"]["output_tokens"] == written
    assert account.spent == 19 + written


class StoppingLease(Lease):
    def on_event(self, event: Event) -> Event:
        if ", Zo" in event.text:
            raise Stop
        return event.with_text(event.text.upper()) if event.text else event


class Stopping(Policy, frozen=True):
    async def admit(self, call: Call) -> Lease:
        return StoppingLease()


@pytest.mark.parametrize("stream", [True, False])
async def test_policy_changes_and_ends_the_answer(tmp_path: Path, *, stream: bool) -> None:
    """A policy sees and changes text, and ends the message with `refusal`."""
    whole = messages.message("end_turn", messages.TEXT | {"text": "Hello"}, messages.TEXT | {"text": ", Zoë."})
    script = plays(*messages.STREAMS["text"]) if stream else replies(200, whole)
    async with upstream(script) as up:
        settings = with_policies(settings_of(tmp_path, up.url, BUDGET), Stopping())
        async with sidecar(settings) as served:
            _, _, body = await served.post(PATH, HELLO | {"stream": stream})
    message = message_of(read_events(body)) if stream else json.loads(body)
    assert [block["text"] for block in message["content"]] == ["HELLO"]
    assert message["stop_reason"] == "refusal"


async def test_missing_route_is_named(tmp_path: Path) -> None:
    """An upstream that does not speak the API gives a 404 that says so, for messages and for counts."""
    async with (
        upstream(replies(404, {"detail": "Not Found"})) as up,
        sidecar(settings_of(tmp_path, up.url, BUDGET)) as served,
    ):
        for path in (PATH, COUNT):
            status, _, body = await served.post(path, HELLO)
            assert (status, error_of(body)) == (404, ("not_found_error", "upstream_route_missing"))
            assert "has no route" in json.loads(body)["error"]["message"]


SPENT = '[[policy]]\nuse = "budget"\ntokens = 5\n[[policy]]\nuse = "rate"\nrequests = 1\n'


async def test_counts_cost_nothing(tmp_path: Path) -> None:
    """Tokens are counted where the budget and the rate are used up; nothing is reserved, and policies see the prompt."""

    class Seen(Policy, frozen=True):
        async def admit(self, call: Call) -> None:
            texts.append(call.text)

    texts: list[str] = []
    async with upstream(COUNTS) as up:
        settings = with_policies(settings_of(tmp_path, up.url, SPENT), Seen())
        async with sidecar(settings) as served:
            refused, _, _ = await served.post(PATH, HELLO)
            for _ in range(3):
                status, headers, body = await served.post(COUNT, HELLO | {"system": "rules"})
                assert (status, json.loads(body)) == (200, messages.COUNTED.fields)
            accounts = await served.gateway.policy_services.store.accounts()
    assert refused == 429
    assert "request-id" in headers
    assert texts[-1] == "rules hi"
    assert len(up.requests) == 3
    assert [account.spent + account.reserved for account in accounts if account.policy == "budget"] in ([], [0])


async def test_counts_obey_the_rules_of_the_key(tmp_path: Path) -> None:
    """A count is under the key's models and its forwarded fields."""
    async with upstream(COUNTS) as up:
        text = key("client", "t", 'models = ["m"]\nfields = "known"') + BUDGET
        async with sidecar(settings_of(tmp_path, up.url, text)) as served:
            status, _, _ = await served.post(COUNT, HELLO | {"fallbacks": [{"model": "dear"}]}, "x-api-key: client")
            refused, _, body = await served.post(COUNT, HELLO | {"model": "dear"}, "x-api-key: client")
    assert (status, refused, error_of(body)[0]) == (200, 403, "permission_error")
    assert "fallbacks" not in up.requests[0].body


@pytest.mark.parametrize(
    "more",
    [
        {"fallbacks": [{"model": "dear"}]},
        {"model": "m,dear"},
        {"mcp_servers": [{"type": "url", "url": "http://x"}]},
        {"models": ["dear"]},
        {"model": None},
    ],
)
@pytest.mark.parametrize("path", [PATH, COUNT])
async def test_no_field_leads_a_key_to_another_model(tmp_path: Path, path: str, more: dict[str, Any]) -> None:
    """A key with `models` reaches no other model, also for a count of tokens."""
    async with upstream(COUNTS) as up:
        text = f'[[upstream]]\nbase_url = "{up.url}"\n' + key("client", "t", 'models = ["m*"]') + BUDGET
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            status, _, body = await served.post(path, HELLO | more, "x-api-key: client")
    assert (status, error_of(body)[0], up.requests) == (403, "permission_error", [])


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (b"<html>", "api_error"),
        (b"", "api_error"),
        (b"{}", "api_error"),
        (b"[]", "api_error"),
        (json.dumps(messages.OVERLOADED).encode(), "overloaded_error"),
    ],
)
async def test_answer_without_a_number_is_a_failure(tmp_path: Path, answer: bytes, shown: str) -> None:
    """A count under status 200 that is no number of tokens is an error, not a result."""

    async def script(connection: Connection) -> None:
        await connection.answer(200, answer)

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        status, _, body = await served.post(COUNT, HELLO)
    assert (status >= 400, error_of(body)[0]) == (True, shown)


async def test_parallel_counts_are_limited(tmp_path: Path) -> None:
    """Each tenant has a limit of counts that run at the same time; a client that leaves gives its place back."""
    async with upstream(silent) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        clients = [await served.client() for _ in range(MAX_TENANT_COUNTS)]
        for client in clients:
            await client.post(COUNT, HELLO)
        await eventually(lambda: len(up.requests) == MAX_TENANT_COUNTS)
        status, headers, body = await served.post(COUNT, HELLO)
        assert (status, error_of(body)) == (429, ("rate_limit_error", "too_many_counts"))
        assert ("retry-after-ms" in headers, "x-should-retry" in headers) == (True, False)
        clients[0].close()
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        await eventually(lambda: len(served.gateway.active_calls) == MAX_TENANT_COUNTS - 1)
        up.play(COUNTS)
        status, _, _ = await served.post(COUNT, HELLO)
    assert status == 200


async def test_failing_counts_are_passed_and_do_not_stop_messages(tmp_path: Path) -> None:
    """A failure of the count reaches the client; the circuit breaker of the upstream does not count it."""
    async with (
        upstream(replies(500, messages.SERVER_ERROR)) as up,
        sidecar(settings_of(tmp_path, up.url, BUDGET)) as served,
    ):
        for _ in range(60):
            status, _, body = await served.post(COUNT, HELLO)
        assert (status, error_of(body)[0]) == (500, "api_error")
        up.play(ANSWERS)
        status, _, _ = await served.post(PATH, HELLO)
    assert status == 200
