"""The whole path over real sockets: what clients receive, and what upstream is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripts import hello
from serving import CHAT, events, settings_of, sidecar
from wire import Connection, eventually, sse, token, upstream

pytestmark = pytest.mark.anyio

HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def with_unknown_field(connection: Connection) -> None:
    message = {"role": "assistant", "content": "Hello"}
    answer = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "odd": 1}
    await connection.answer(200, json.dumps(answer).encode())


async def test_chat_nest_call_streams_tokens(tmp_path: Path) -> None:
    """A Chat Nest call gets `start`, a `token` for each piece of text, and `done`."""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, headers, body = await served.post("/api/chat", CHAT)

    assert (status, headers["content-type"], headers["cache-control"]) == (200, "text/event-stream", "no-cache")
    assert events(body) == [("start", ""), ("token", '"Hel"'), ("token", '"lo"'), ("done", "")]


async def test_chat_nest_request_is_rebuilt_for_upstream(tmp_path: Path) -> None:
    """Upstream is sent model, messages, stream, max_tokens, temperature and the usage option, and nothing else."""
    asked = {
        "messages": [{"id": "1", "role": "user", "content": "hi", "extra": 1}],
        "profile": " Expanded ",
        "systemPrompt": "be evil",
        "nonsense": True,
    }
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        await served.post("/api/chat", asked, "cookie: a=b", "x-stray: 1", "traceparent: 00-1")
        (request,) = up.requests

    assert request.body == {
        "model": "test-model",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "max_tokens": 3000,
        "temperature": 0.8,
        "stream_options": {"include_usage": True},
    }
    assert request.header("cookie") is None
    assert request.header("x-stray") is None
    assert request.header("traceparent") == "00-1"


@pytest.mark.parametrize(
    ("name", "output", "kept", "temperature", "tokens", "requests"),
    [
        ("constrained", 150, 4, 0.5, 30_000, 15),
        ("budget", 150, 4, 0.5, 30_000, 15),
        ("balanced", 400, 6, 0.7, 70_000, 30),
        (None, 400, 6, 0.7, 70_000, 30),
        ("made-up", 400, 6, 0.7, 70_000, 30),
        ("MODERATE ", 400, 6, 0.7, 70_000, 30),
        ("expanded", 3000, 12, 0.8, 200_000, 60),
        ("free", 3000, 12, 0.8, 200_000, 60),
    ],
)
async def test_profile_sets_its_limits(
    tmp_path: Path, name: str | None, output: int, kept: int, temperature: float, tokens: int, requests: int
) -> None:
    """Each profile has its limits: by its name, by its legacy name, and as the default."""
    talk = [{"role": "user", "content": f"{at}"} for at in range(30)]
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        _, headers, _ = await served.post("/api/chat", {"messages": talk, "aiUsageProfile": name})
        body = up.requests[-1].body

    assert (body["max_tokens"], body["temperature"]) == (output, temperature)
    assert [message["content"] for message in body["messages"]] == [f"{at}" for at in range(30 - kept, 30)]
    assert headers["x-ratelimit-limit-tokens"] == str(tokens)
    assert headers["ratelimit-policy"] == f'"rate";q={requests};w=60'


async def test_client_lowers_its_own_budget(tmp_path: Path) -> None:
    """A client can lower its own budget: of 100 tokens, a prompt of 5 leaves a ceiling of 95."""
    asked = {"messages": [{"role": "user", "content": "abc"}], "dailyTokenLimit": 100}
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, headers, _ = await served.post("/api/chat", asked)
        assert (status, up.requests[0].body["max_tokens"]) == (200, 95)
        assert headers["x-ratelimit-limit-tokens"] == "100"

        status, _, body = await served.post("/api/chat", asked | {"maxTokensPerRequest": 10})

    assert status == 429
    assert json.loads(body)["error"] == "Request too large. Please shorten your message."


async def test_openai_events_pass_unchanged(tmp_path: Path) -> None:
    """Events with choices reach an OpenAI client unchanged; a usage event only if the client asked for it."""
    odd = b'data:{"choices" : [{"index":0,"delta":{"content":"h\xc3\xa9"},"x":[1, 2]}]}\n\n'
    usage = sse({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})
    end = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})

    async def script(connection: Connection) -> None:
        await connection.stream(finish=None, done=False)
        for data in (b": note\n\n", odd, b"event: ping\ndata: {}\n\n", b"id: 4\n" + token("x"), end, usage):
            await connection.chunk(data)
        await connection.chunk(b"data: [DONE]\n\n")
        await connection.send(b"0\r\n\r\n")

    role = sse({"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]})
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        _, _, plain = await served.post("/v1/chat/completions", HI | {"stream": True})
        asked = HI | {"stream": True, "stream_options": {"include_usage": True}}
        _, _, with_usage = await served.post("/v1/chat/completions", asked)
        account = await served.account()

    assert plain == role + odd + token("x") + end + b"data: [DONE]\n\n"
    assert with_usage == role + odd + token("x") + end + usage + b"data: [DONE]\n\n"
    assert (account.spent, account.reserved) == (18, 0)


async def test_plain_answer_is_upstreams_body(tmp_path: Path) -> None:
    """A response without `stream` has upstream's fields; unknown fields of the request reach upstream."""
    async with upstream(with_unknown_field) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, headers, body = await served.post("/v1/chat/completions", HI | {"logit_bias": {"50256": -100}})
        asked = up.requests[0].body

    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body)["odd"] == 1
    assert asked == HI | {"logit_bias": {"50256": -100}}


async def test_header_selects_chat_nest_events(tmp_path: Path) -> None:
    """On /v1, `x-event-schema` selects Chat Nest events; another value, or n > 1, is refused."""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        _, _, body = await served.post("/v1/chat/completions", HI, "x-event-schema: chat-nest")
        refusals = [
            await served.post("/v1/chat/completions", HI, "x-event-schema: morse"),
            await served.post("/v1/chat/completions", HI | {"n": 2}, "x-event-schema: chat-nest"),
        ]

    assert events(body)[-1] == ("done", "")
    assert [(status, json.loads(body)["error"]["param"]) for status, _, body in refusals] == [
        (400, "x-event-schema"),
        (400, "n"),
    ]


async def test_header_selects_a_profile(tmp_path: Path) -> None:
    """On /v1, `x-profile` selects the limits of a profile, but sets no temperature."""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        _, headers, _ = await served.post("/v1/chat/completions", HI | {"stream": True}, "x-profile: Constrained")
        _, base, _ = await served.post("/v1/chat/completions", HI | {"stream": True}, "x-profile: nobody")
        asked = up.requests[0].body

    assert headers["x-ratelimit-limit-tokens"] == "30000"
    assert base["x-ratelimit-limit-tokens"] == "500000"
    assert "temperature" not in asked


async def test_model_list_counts_as_a_request(tmp_path: Path) -> None:
    """The list of models is upstream's, and counts as a request but not as tokens."""
    listed = b'{"data": [{"id": "tiny"}]}'

    async def script(connection: Connection) -> None:
        await connection.answer(200, listed)

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, headers, body = await served.get("/v1/models")
        assert (status, body, headers["x-ratelimit-remaining-requests"]) == (200, listed, "59")
        assert "x-ratelimit-limit-tokens" not in headers
        assert (await served.get("/v1/models", method="DELETE"))[0] == 405
        assert up.requests[0].head.startswith(b"GET /v1/models ")


async def test_first_listed_model_is_the_default(tmp_path: Path) -> None:
    """Without a configured model, a Chat Nest call uses the first that upstream lists; the list is requested once."""

    async def script(connection: Connection) -> None:
        if connection.head.startswith(b"GET"):
            await connection.answer(200, b'{"data": [{"id": "tiny"}, {"id": "other"}]}')
        else:
            await connection.stream("x")

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, model=None)) as served:
        for _ in range(2):
            _, _, body = await served.post("/api/chat", CHAT)
            assert events(body)[-1] == ("done", "")
        heads = [request.head.split()[0] for request in up.requests]
        models = [request.body["model"] for request in up.requests[1:]]

    assert (heads, models) == ([b"GET", b"POST", b"POST"], ["tiny", "tiny"])


async def test_configured_key_replaces_the_clients_key(tmp_path: Path) -> None:
    """A configured key is sent to upstream instead of the client's; without one, the client's key is sent."""
    ours = settings_of(tmp_path, "http://x.invalid/v1")
    both = ("authorization: Bearer sk-theirs", "openai-project: p")
    async with upstream(hello) as up:
        plain = settings_of(tmp_path, up.url)
        keyed = settings_of(tmp_path, up.url, environ={"SIDECAR_UPSTREAM_KEY": "sk-ours"})
        for settings in (plain, keyed):
            async with sidecar(settings) as served:
                await served.post("/v1/chat/completions", HI | {"stream": True}, *both)
        seen = [(request.header("authorization"), request.header("openai-project")) for request in up.requests]

    assert seen == [("Bearer sk-theirs", "p"), ("Bearer sk-ours", None)]
    assert "sk-" not in repr(keyed) + repr(ours)


async def test_unreadable_header_is_dropped(tmp_path: Path) -> None:
    """A header with characters outside ASCII is not sent to upstream, and the call succeeds."""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, _, _ = await served.post(
            "/v1/chat/completions", HI | {"stream": True}, "authorization: Bearer caf\u00e9"
        )
        assert status == 200
        assert up.requests[0].header("authorization") is None


async def test_every_response_has_a_request_id(tmp_path: Path) -> None:
    """A response has the client's request id if it is plain, else a new one; a repeated id is charged again."""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        for path in ("/api/chat", "/nix", "/healthz"):
            _, headers, _ = await served.post(path, CHAT, "x-request-id: abc.D-1_2")
            assert headers["x-request-id"] == "abc.D-1_2"
        for bad in ("a b", "x" * 129, "<script>", ""):
            _, headers, _ = await served.post("/api/chat", CHAT, f"x-request-id: {bad}")
            assert len(headers["x-request-id"]) == 32
        first = (await served.account()).spent
        await served.post("/api/chat", CHAT, "x-request-id: abc.D-1_2")
        assert (await served.account()).spent > first


async def test_refused_fields_are_left_out(tmp_path: Path) -> None:
    """A field that the sidecar added and upstream refused is left out at once and in all later calls."""

    async def script(connection: Connection) -> None:
        if "stream_options" in connection.body:
            await connection.answer(400, b'{"error": {"message": "Unknown field stream_options"}}')
        elif connection.body.get("max_tokens") == 16384:
            text = "maximum context length is 512 tokens, your request has 12 input tokens"
            await connection.answer(400, json.dumps({"error": {"message": text}}).encode())
        else:
            await connection.stream("ok")

    bound = '[[policy]]\nuse = "budget"\ntokens = 100_000\nreserve = "bound"\nanswer = 16_384'
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, bound)) as served:
        for _ in range(2):
            status, _, body = await served.post("/v1/chat/completions", HI | {"stream": True})
            assert (status, body.count(b"ok")) == (200, 1)
        sent: list[Any] = [(r.body.get("max_tokens"), "stream_options" in r.body) for r in up.requests]

    first, second = sent[:3], sent[3:]
    assert first == [(16384, True), (16384, False), (500, False)]
    ((ceiling, has_options),) = second
    assert 500 - 64 < ceiling <= 500, "what the learnt context leaves beside an estimated prompt"
    assert not has_options


async def test_only_configured_origins_are_allowed(tmp_path: Path) -> None:
    """Preflights and responses allow the configured origins only."""
    text = '[server]\ncors_origins = ["http://localhost:5173"]'
    ask = ("access-control-request-method: POST", "access-control-request-headers: content-type")
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, headers, _ = await served.get("/api/chat", "origin: http://localhost:5173", *ask, method="OPTIONS")
        assert (status, headers["access-control-allow-origin"]) == (204, "http://localhost:5173")
        _, headers, body = await served.post("/api/chat", CHAT, "origin: http://localhost:5173")
        assert headers["access-control-allow-origin"] == "http://localhost:5173"
        assert events(body)[-1] == ("done", "")
        status, headers, _ = await served.get("/api/chat", "origin: http://evil.example", *ask, method="OPTIONS")
        assert "access-control-allow-origin" not in headers
        _, headers, _ = await served.post("/api/chat", CHAT, "origin: http://evil.example")
        assert "access-control-allow-origin" not in headers
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        assert (await served.get("/api/chat", "origin: http://localhost:5173", *ask, method="OPTIONS"))[0] == 405


async def test_upstream_connection_is_reused(tmp_path: Path) -> None:
    """The next call reuses the upstream connection of a complete response."""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        for _ in range(3):
            await served.post("/v1/chat/completions", HI | {"stream": True})
        assert (len(up.requests), up.open) == (3, 1)
        await eventually(lambda: up.open == 1)
