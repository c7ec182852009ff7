"""Every bad request gets a clear JSON error with the right status, and reaches no upstream."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from serving import Sidecar, settings_of, sidecar
from wire import Client, Connection, Upstream, upstream

pytestmark = pytest.mark.anyio

CHAT, V1 = "/api/chat", "/v1/chat/completions"
SMALL = "[server]\nchat_max_body = 2000\nmax_body = 2000\n"
HI = [{"role": "user", "content": "hi"}]


async def never(connection: Connection) -> None:
    await connection.stream("this call should not have come")


@asynccontextmanager
async def both(folder: Path) -> AsyncIterator[tuple[Upstream, Sidecar]]:
    async with upstream(never) as up, sidecar(settings_of(folder, up.url, SMALL)) as served:
        yield up, served


NOT_MESSAGES: list[Any] = [
    {},
    {"messages": None},
    {"messages": []},
    {"messages": "hi"},
    {"messages": {"role": "user", "content": "hi"}},
    {"messages": ["hi"]},
    {"messages": [None]},
    {"messages": [[]]},
    {"messages": [{}]},
    {"messages": [{"role": "user"}]},
    {"messages": [{"content": "hi"}]},
    {"messages": [{"role": "wizard", "content": "hi"}]},
    {"messages": [{"role": 1, "content": "hi"}]},
    {"messages": [{"role": ["user"], "content": "hi"}]},
    {"messages": [{"role": "user", "content": 1}]},
    {"messages": [{"role": "user", "content": True}]},
    {"messages": [{"role": "user", "content": {"text": "hi"}}]},
    {"messages": [{"role": "user", "content": None}]},
]
NOT_LIMITS: list[Any] = [-1, 0, 1.5, "10", True, False, 2**53, 10**30, -(10**30), [], {}, [5]]
RAW = [
    b"",
    b"   ",
    b"hello",
    b"{",
    b'{"messages": [}',
    b"null",
    b"[]",
    b"3",
    b'"text"',
    b"\xff\xfe",
    b'{"messages": [{"role": "user", "content": "\xff"}]}',
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"messages": [{"role": "user", "content": "\\udc00 \\ud83d"}]}',
    b'{"messages": [{"role": "user", "content": "a\x00b"}]}',
    b'{"messages": [{"role": "user", "content": "a\\u0000b"}]}',
    b'{"messages": [{"role": "user", "content": "hi"}], "x\\u0000": 1}',
    b'{"messages": [{"role": "user", "content": "hi"}], "x": NaN}',
    b'{"messages": [{"role": "user", "content": "hi"}]} trailing',
    b"[" * 900 + b"]" * 900,
    b'{"a":' * 300 + b"1" + b"}" * 300,
    b'{"messages": [{"role": "user", "content": "hi"}], "x": ' + b"[" * 101 + b"]" * 101 + b"}",
]


def fault(path: str, body: bytes) -> dict[str, Any]:
    """Read an error in the form of its path."""
    data: dict[str, Any] = json.loads(body)
    if path == CHAT:
        assert set(data) >= {"error", "code"}
        return {"message": data["error"], "code": data["code"]}
    assert set(data["error"]) >= {"message", "type", "param", "code"}
    return dict(data["error"])


@pytest.mark.parametrize("path", [CHAT, V1])
async def test_not_a_body(tmp_path: Path, path: str) -> None:
    """What is no JSON object in clean UTF-8 is 400."""
    async with both(tmp_path) as (up, served):
        for body in RAW:
            status, headers, said = await served.post(path, body)
            assert (status, fault(path, said)["code"]) == (400, "invalid_request"), body[:60]
            assert headers["x-should-retry"] == "false"
        assert not up.requests


@pytest.mark.parametrize("path", [CHAT, V1])
async def test_not_messages(tmp_path: Path, path: str) -> None:
    """Messages that are none are 400: on /api/chat in the words that its clients know, on /v1 with the place."""
    async with both(tmp_path) as (up, served):
        for body in NOT_MESSAGES:
            status, _, said = await served.post(path, body)
            told = fault(path, said)
            assert (status, told["code"]) == (400, "invalid_request"), body
            if path == CHAT:
                assert told["message"] == "Invalid messages payload"
            else:
                assert told["param"].startswith("messages")
                assert told["type"] == "invalid_request_error"
        assert not up.requests


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n"])
async def test_not_limits(tmp_path: Path, field: str) -> None:
    """A token limit, or n, is a positive integer up to 2^53 - 1; the fault names the field."""
    async with both(tmp_path) as (up, served):
        for value in [*NOT_LIMITS, *([129] if field == "n" else [])]:
            status, _, said = await served.post(V1, {"model": "m", "messages": HI, field: value})
            assert (status, fault(V1, said)["param"]) == (400, field), value
        assert not up.requests


@pytest.mark.parametrize("field", ["dailyTokenLimit", "maxTokensPerRequest"])
async def test_not_caps(tmp_path: Path, field: str) -> None:
    """A client's own cap is a positive integer up to 2^53 - 1."""
    async with both(tmp_path) as (up, served):
        for value in NOT_LIMITS:
            status, _, said = await served.post(CHAT, {"messages": HI, field: value})
            assert status == 400, value
            assert field in fault(CHAT, said)["message"]
        assert not up.requests


async def test_large_is_valid(tmp_path: Path) -> None:
    """A limit that is merely large is clamped, or lowers nothing."""
    most = 2**53 - 1
    async with both(tmp_path) as (up, served):
        asked = {"messages": HI, "dailyTokenLimit": most, "maxTokensPerRequest": most}
        assert (await served.post(CHAT, asked))[0] == 200
        assert (await served.post(V1, {"messages": HI, "max_tokens": most, "stream": True}))[0] == 200
        assert up.requests[0].body["max_tokens"] == 400
        assert 400_000 < up.requests[1].body["max_tokens"] < 500_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stream", "yes"),
        ("stream", 1),
        ("stream", []),
        ("model", 7),
        ("user", {}),
        ("stream_options", True),
        ("stream_options", {"include_usage": "x"}),
    ],
)
async def test_wrong_types(tmp_path: Path, field: str, value: object) -> None:
    """A field that limits depend on has its type, or is refused."""
    async with both(tmp_path) as (up, served):
        status, _, said = await served.post(V1, {"model": "m", "messages": HI, field: value})
        assert (status, fault(V1, said)["code"]) == (400, "invalid_request")
        assert not up.requests


@pytest.mark.parametrize(
    "part",
    ["hi", 1, None, {}, {"type": 1}, {"type": "text"}, {"type": "text", "text": 1}, {"type": "image_url", "text": []}],
)
async def test_not_a_part(tmp_path: Path, part: object) -> None:
    """A part of a message is an object with a type, and with a string where it is a text."""
    async with both(tmp_path) as (up, served):
        status, _, said = await served.post(V1, {"messages": [{"role": "user", "content": [part]}]})
        assert (status, fault(V1, said)["param"]) == (400, "messages[0].content[0]")
        assert not up.requests


@pytest.mark.parametrize("path", [CHAT, V1])
@pytest.mark.parametrize(
    "header",
    [
        "content-type: text/plain",
        "content-type: application/x-www-form-urlencoded",
        "content-type: ",
        "content-type: application/json; charset=latin-1",
        "content-encoding: gzip",
    ],
)
async def test_wrong_media_type(tmp_path: Path, path: str, header: str) -> None:
    """A body that is not announced as plain JSON is 415."""
    async with both(tmp_path) as (up, served):
        status, _, said = await served.post(path, {"messages": HI}, header)
        assert (status, fault(path, said)["code"]) == (415, "unsupported_media_type")
        assert not up.requests


@pytest.mark.parametrize("path", [CHAT, V1])
async def test_too_large(tmp_path: Path, path: str) -> None:
    """A body over the limit is 413: by what it announces, and by what it sends when it announces nothing."""
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 3000}]}).encode()
    async with both(tmp_path) as (up, served):
        for chunked in (False, True):
            client = await Client.to(served.port)
            raw = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
            await client.post(path, raw, *(["transfer-encoding: chunked"] if chunked else []))
            status, _, said = await client.answer()
            client.close()
            assert (status, fault(path, said)["code"]) == (413, "body_too_large")
        assert not up.requests


@pytest.mark.parametrize(
    "headers",
    [
        ["content-length: 5"],
        ["content-length: 5", "transfer-encoding: chunked"],
        ["content-length: -1"],
        ["content-length: 5", "content-length: 6"],
        ["content-length: 99999999999999999999999"],
        ["x-request-id: a\nevil: b\rc"],
        ["transfer-encoding: gzip, chunked, nonsense"],
    ],
)
async def test_not_http(tmp_path: Path, headers: list[str]) -> None:
    """A length that lies, or a header that tries to be two, ends in a JSON refusal: nothing behind it is believed."""
    async with both(tmp_path) as (up, served):
        client = await served.client()
        await client.post(CHAT, b'{"messages": []}   and more', *headers)
        status, _, said = await client.answer()
        client.close()
        assert status in (400, 413)
        assert fault(V1 if b'{"error":{' in said else CHAT, said)["code"] in ("invalid_request", "body_too_large")
        assert not up.requests


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", [CHAT, V1])
async def test_wrong_method(tmp_path: Path, path: str, method: str) -> None:
    """Another method is 405, and says which one is right."""
    async with both(tmp_path) as (up, served):
        status, headers, said = await served.get(path, method=method)
        assert (status, headers["allow"], fault(path, said)["code"]) == (405, "POST", "method_not_allowed")
        assert not up.requests


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/embeddings", "/v1/chat/completions/x", "/api/chat/../x", "/%00"])
async def test_unknown_path(tmp_path: Path, path: str) -> None:
    """Anything else is 404 in OpenAI's envelope."""
    async with both(tmp_path) as (up, served):
        for status, headers, said in (await served.get(path), await served.post(path, {"messages": HI})):
            assert (status, fault(V1, said)["code"]) == (404, "not_found")
            assert len(headers["x-request-id"]) == 32
        assert not up.requests


async def test_trailing_slash(tmp_path: Path) -> None:
    """A trailing slash is the same route, as routers have it, under the same rules."""
    async with both(tmp_path) as (up, served):
        status, _, said = await served.post("/api/chat/", {"messages": []})
        assert (status, json.loads(said)["error"]) == (400, "Invalid messages payload")
        assert not up.requests


ATOMS: list[Any] = [
    None, True, False, 0, 1, -1, 2**53 - 1, 2**64, 10**40, 1.5, 1e300, "", "x", "user", "\u2028", "\u00e9" * 300, [], {}, ["a"],
    {"a": 1}, [{"type": "text", "text": "t"}], [{"role": "user", "content": "hi"}], {"include_usage": True},
]  # fmt: skip
FIELDS = ["messages", "model", "stream", "n", "max_tokens", "max_completion_tokens", "stream_options", "user", "tools", "functions", "response_format", "prediction", "temperature", "profile", "aiUsageProfile", "dailyTokenLimit", "maxTokensPerRequest", "systemPrompt"]  # fmt: skip
LIMITS = """
[[policy]]
use = "trim"
max_messages = 2
[[policy]]
use = "max_tokens"
output = 50
[[policy]]
use = "budget"
tokens = 9_007_199_254_740_991
by = ["user", "model", "ip"]
"""


async def test_any_fields(tmp_path: Path) -> None:
    """Whatever stands in the fields of a request, it is served or refused: never our own fault, and nothing stays held."""
    rng = random.Random(5)

    async def answer(connection: Connection) -> None:
        if connection.body.get("stream"):
            await connection.stream("a")
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
            await connection.answer(200, json.dumps({"choices": [choice]}).encode())

    seen = set()
    text = SMALL.replace("2000", "20000") + 'chat_system_prompt = "use"\n' + LIMITS
    async with upstream(answer) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        client = await served.client()
        for _ in range(800):
            body: dict[str, Any] = {"messages": HI}
            body |= {rng.choice(FIELDS): rng.choice(ATOMS) for _ in range(rng.randrange(4))}
            if rng.random() < 0.4:
                message = {"role": rng.choice(["user", "assistant", "tool", "system"]), "content": "x"}
                body["messages"] = [
                    message | {rng.choice(["role", "content", "name", "tool_calls"]): rng.choice(ATOMS)}
                ]
            schema = ["x-event-schema: chat-nest"] if rng.random() < 0.2 else []
            await client.post(rng.choice([CHAT, V1]), body, *schema)
            status, _, said = await client.answer()
            assert status in (200, 400, 429), (status, body, said)
            assert status != 200 or b'"error"' not in said, (body, said)
            seen.add(status)
        accounts = await served.gateway.policy_services.store.accounts()

    assert seen >= {200, 400}
    assert all(account.reserved == 0 for account in accounts)
