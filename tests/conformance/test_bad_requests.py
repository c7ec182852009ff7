"""Every invalid body gets a JSON error with the right status, and reaches no upstream."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from refused_requests import CHAT, HI, SMALL_BODIES, V1, error_of, small_limits
from scripts import answers
from serving import settings_of, sidecar
from wire import upstream

pytestmark = pytest.mark.anyio

INVALID_MESSAGES: list[Any] = [
    {},
    {"messages": None},
    {"messages": []},
    {"messages": "hi"},
    {"messages": {"role": "user", "content": "hi"}},
    {"messages": ["hi"]},
    {"messages": [None]},
    {"messages": [[]]},
    {"messages": [{"role": 1, "content": "hi"}]},
    {"messages": [{"role": ["user"], "content": "hi"}]},
]
"""Invalid on each path; the other ones only on `/api/chat`: on `/v1`, upstream decides about them."""
INVALID_CHAT_MESSAGES: list[Any] = [
    {"messages": [{}]},
    {"messages": [{"role": "user"}]},
    {"messages": [{"content": "hi"}]},
    {"messages": [{"role": "wizard", "content": "hi"}]},
    {"messages": [{"role": "user", "content": 1}]},
    {"messages": [{"role": "user", "content": True}]},
    {"messages": [{"role": "user", "content": {"text": "hi"}}]},
    {"messages": [{"role": "user", "content": ["hi"]}]},
    {"messages": [{"role": "user", "content": None}]},
    {"messages": [{"role": "assistant", "content": None}]},
]
INVALID_LIMITS: list[Any] = [-1, 0, 1.5, "10", True, False, 2**53, 10**30, -(10**30), [], {}, [5]]
INVALID_BODIES = [
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
    b'{"messages": [{"role": "user", "content": "a\x00b"}]}',
    b'{"messages": [{"role": "user", "content": "hi"}], "x": NaN}',
    b'{"messages": [{"role": "user", "content": "hi"}]} trailing',
    b"[" * 900 + b"]" * 900,
    b'{"a":' * 300 + b"1" + b"}" * 300,
    b'{"messages": [{"role": "user", "content": "hi"}], "x": ' + b"[" * 101 + b"]" * 101 + b"}",
]


@pytest.mark.parametrize("path", [CHAT, V1])
async def test_invalid_json_is_400(tmp_path: Path, path: str) -> None:
    """A body that is not a JSON object in valid UTF-8, or that holds a bare NUL, NaN or deep nesting, is 400."""
    async with small_limits(tmp_path) as (up, served):
        for body in INVALID_BODIES:
            status, headers, answer = await served.post(path, body)
            assert (status, error_of(path, answer)["code"]) == (400, "invalid_request"), body[:60]
            assert headers["x-should-retry"] == "false"
        assert not up.requests


@pytest.mark.parametrize("path", [CHAT, V1])
async def test_invalid_messages_are_400(tmp_path: Path, path: str) -> None:
    """Invalid messages are 400: on /api/chat with the message that its clients expect, on /v1 with their place."""
    async with small_limits(tmp_path) as (up, served):
        for body in [*INVALID_MESSAGES, *(INVALID_CHAT_MESSAGES if path == CHAT else [])]:
            status, _, answer = await served.post(path, body)
            error = error_of(path, answer)
            assert (status, error["code"]) == (400, "invalid_request"), body
            if path == CHAT:
                assert error["message"] == "Invalid messages payload"
            else:
                assert error["param"].startswith("messages")
                assert error["type"] == "invalid_request_error"
        assert not up.requests


@pytest.mark.parametrize("field", ["n", "best_of"])
async def test_invalid_number_of_answers_names_its_field(tmp_path: Path, field: str) -> None:
    """A number of answers that cannot be counted, or above 128, is 400, with the name of the field."""
    async with small_limits(tmp_path) as (up, served):
        for value in [-1, 129, "129", "ten", 2**53, 10**30, -(10**30), [], {}, [5]]:
            status, _, answer = await served.post(V1, {"model": "m", "messages": HI, field: value})
            assert (status, error_of(V1, answer)["param"]) == (400, field), value
        assert not up.requests


@pytest.mark.parametrize("field", ["dailyTokenLimit", "maxTokensPerRequest"])
async def test_invalid_cap_names_its_field(tmp_path: Path, field: str) -> None:
    """A client's own cap that is not a positive integer up to 2^53 - 1 is 400, with the name of the field."""
    async with small_limits(tmp_path) as (up, served):
        for value in INVALID_LIMITS:
            status, _, answer = await served.post(CHAT, {"messages": HI, field: value})
            assert status == 400, value
            assert field in error_of(CHAT, answer)["message"]
        assert not up.requests


async def test_large_limit_is_valid(tmp_path: Path) -> None:
    """The largest valid limit is clamped to the configured one; as a cap it lowers nothing."""
    most = 2**53 - 1
    async with small_limits(tmp_path) as (up, served):
        body = {"messages": HI, "dailyTokenLimit": most, "maxTokensPerRequest": most}
        assert (await served.post(CHAT, body))[0] == 200
        assert (await served.post(V1, {"messages": HI, "max_tokens": most, "stream": True}))[0] == 200
        assert up.requests[0].body["max_tokens"] == 400
        assert 400_000 < up.requests[1].body["max_tokens"] < 500_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stream", "maybe"),
        ("stream", 2),
        ("stream", []),
        ("model", 7),
        ("models", "m"),
    ],
)
async def test_field_of_a_wrong_type_is_400(tmp_path: Path, field: str, value: object) -> None:
    """A field that limits depend on is 400 if servers may read its value in several ways."""
    async with small_limits(tmp_path) as (up, served):
        status, _, answer = await served.post(V1, {"model": "m", "messages": HI, field: value})
        assert (status, error_of(V1, answer)["code"]) == (400, "invalid_request")
        assert not up.requests


FIELD_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**53 - 1, 2**64, 10**40, 1.5, 1e300, "", "x", "user", "\u2028", "\u00e9" * 300, [], {}, ["a"],
    {"a": 1}, "\0", "9", 20.0, [[]], [None], {"text": 1}, [{"type": "text", "text": "t"}], [{"role": "user", "content": "hi"}], {"include_usage": True},
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


async def test_random_fields_never_cause_an_internal_error(tmp_path: Path) -> None:
    """A request with random fields is served or refused, never a 500, and no reservation stays."""
    rng = random.Random(5)

    seen = set()
    text = SMALL_BODIES.replace("2000", "20000") + 'chat_system_prompt = "use"\n' + LIMITS
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        client = await served.client()
        for _ in range(800):
            body: dict[str, Any] = {"messages": HI}
            body |= {rng.choice(FIELDS): rng.choice(FIELD_VALUES) for _ in range(rng.randrange(4))}
            if rng.random() < 0.4:
                message = {"role": rng.choice(["user", "assistant", "tool", "system"]), "content": "x"}
                body["messages"] = [
                    message | {rng.choice(["role", "content", "name", "tool_calls"]): rng.choice(FIELD_VALUES)}
                ]
            schema = ["x-event-schema: chat-nest"] if rng.random() < 0.2 else []
            await client.post(rng.choice([CHAT, V1]), body, *schema)
            status, _, answer = await client.answer()
            assert status in (200, 400, 429), (status, body, answer)
            assert status != 200 or b'"error"' not in answer, (body, answer)
            seen.add(status)
        accounts = await served.gateway.policy_services.store.accounts()

    assert seen >= {200, 400}
    assert all(account.reserved == 0 for account in accounts)
