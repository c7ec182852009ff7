"""Requests by which a client could exceed its budget."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from serving import CHAT, settings_of, sidecar
from wire import HEAD, Connection, sse, upstream

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
LIMIT = 2_000
CEILINGS = ("max_tokens", "max_completion_tokens", "n_predict", "max_output_tokens", "max_new_tokens")
CHOICE_COUNTS = ("n", "best_of", "n_cmpl", "num_return_sequences")
ODD_CEILINGS: list[Any] = [-1, -2, 0, None, 600.0, 600.5, 0.5, -1.5, 1e9, 1e300, "600", "600.0", "-1", "1_0", "1e3", "no", "", True, False, 2**31 - 1, 2**32 - 1, 2**63 - 1, 10**30, [], [5], {}]  # fmt: skip
"""Ceilings that a server may accept, or read as another one than the next server."""
BUDGET = f"""
[[policy]]
use = "budget"
tokens = {LIMIT}
floor = 1
reserve = "bound"
"""
MESSAGES = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "description": "d" * 5_000, "parameters": {}}}


UNLIMITED = 10**6
"""Tokens that a server generates without a ceiling."""


def most_in(ceiling: Any) -> int:
    """Return the most tokens that any server generates for the value of one field."""
    if isinstance(ceiling, int | float) and not isinstance(ceiling, bool) and ceiling > 0:
        return math.ceil(ceiling)
    return UNLIMITED  # llama.cpp reads a string as no limit


def answers_in(number: Any) -> int:
    """Return the most answers that any server generates for the value of one field."""
    return max(1, math.ceil(float(number or 0)))


def tokens_of(body: dict[str, Any]) -> int:
    """Return the tokens of all text in *body* by the worst tokenizer: one per byte."""
    beside = ("model", "stream", "stream_options", *CEILINGS, *CHOICE_COUNTS)
    texts = [part for message in body["messages"] for part in message.values() if part]
    everything = [*texts, *(value for key, value in body.items() if key not in (*beside, "messages"))]
    return sum(len(text if isinstance(text, str) else json.dumps(text)) for text in everything)


async def greedy(connection: Connection) -> None:
    """Report the most tokens that any server could generate by the limits in the request."""
    body = connection.body
    ceiling = max((most_in(body[field]) for field in CEILINGS if body.get(field) is not None), default=UNLIMITED)
    answers = max(answers_in(body.get(field)) for field in CHOICE_COUNTS)
    usage = {"prompt_tokens": min(tokens_of(body), 10**6), "completion_tokens": ceiling * answers}
    if body.get("stream"):
        await connection.send(HEAD)
        choices = [
            {"index": at, "delta": {"content": "x"}, "finish_reason": "length"}
            for at in range(answers_in(body.get("n")))
        ]
        await connection.chunk(sse({"choices": choices}))
        if body["stream_options"]["include_usage"]:
            await connection.chunk(sse({"choices": [], "usage": usage}))
        await connection.chunk(b"data: [DONE]\n\n")
        await connection.send(b"0\r\n\r\n")
    else:
        choices = [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "length"}]
        await connection.answer(200, json.dumps({"choices": choices, "usage": usage}).encode())


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"n": 20},
        {"n": 128, "max_tokens": 100},
        {"best_of": 20, "max_tokens": 100},
        {"n": 2, "best_of": 50, "max_tokens": 100},
        {"n_cmpl": 20, "max_tokens": 100},
        {"n": 1, "num_return_sequences": 128, "max_tokens": 100},
        {"max_tokens": None},
        {"max_tokens": None, "max_completion_tokens": None},
        {"max_tokens": 1, "max_completion_tokens": 10**9},
        {"max_tokens": 10**9, "max_completion_tokens": 1},
        {"max_tokens": 2**53 - 1},
        {"max_tokens": 1, "n_predict": 10**9},
        {"max_tokens": 1, "max_new_tokens": 10**9, "max_output_tokens": 10**9},
        {"tools": [TOOL], "max_tokens": 1},
        {"functions": [TOOL["function"]], "max_tokens": 1},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"description": "d" * 5_000}}}, "max_tokens": 1},
        {"prediction": {"type": "content", "content": "d" * 5_000}, "max_tokens": 1},
        {"documents": [{"text": "d" * 5_000}], "max_tokens": 1},
        {"chat_template": "d" * 5_000, "max_tokens": 1},
        {"reasoning_effort": "d" * 5_000, "max_tokens": 1},
        {"verbosity": ["d" * 5_000], "max_tokens": 1},
        {"modalities": ["text", "d" * 5_000], "max_tokens": 1},
        {"metadata": {"d" * 5_000: ""}, "max_tokens": 1},
        {"user": "d" * 5_000, "max_tokens": 1},
        {"messages": [{"role": "user", "content": "hi", "id": "d" * 5_000}], "max_tokens": 1},
        {"guided_json": {"d": "d" * 5_000}, "max_tokens": 1},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "d"}] * 5_000}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 5_000}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": [{"type": "thing", "thing": "d" * 5_000}]}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "d", "more": "d" * 5_000}]}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": ""}] * 5_000, "max_tokens": 1},
        {"messages": [{"role": "user", "content": "hi", "name": "d" * 5_000}], "max_tokens": 1},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [TOOL]}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}] * 9}], "max_tokens": 1},
        {"stream_options": {"include_usage": False}},
        {"stream_options": {"include_usage": None}},
        {"stream_options": None},
        {"stream": False, "n": 20},
        {"stream": None},
        *({"max_tokens": ceiling} for ceiling in ODD_CEILINGS),
        *({field: -1} for field in CEILINGS),
        {"max_tokens": 600, "n_predict": -1},
        {"max_tokens": -1, "max_completion_tokens": 600},
        {"max_tokens": 0, "max_completion_tokens": 600.0},
        {"max_tokens": "600", "max_new_tokens": True},
        {"n": None, "max_tokens": 600},
        {"n": 0, "max_tokens": 600},
        {"n": True, "max_tokens": 600},
        {"n": 20.0, "max_tokens": 600},
        {"n": 19.5, "max_tokens": 600},
        {"n": "20", "max_tokens": 600},
        {"n": 0, "best_of": "20", "max_tokens": 600},
        {"stream_options": "x"},
        {"stream_options": []},
        {"stream_options": {"include_usage": "no"}},
        {"stream": 1},
        {"stream": "true"},
        {"messages": [{"role": "user", "content": {"x": "d" * 5_000}}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": {"type": "text", "text": "d" * 5_000}}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": ["d" * 5_000]}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": [{"text": "d" * 5_000}]}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": [{"x": "d" * 5_000}]}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": [{"type": None, "x": "d" * 5_000}]}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": [[["d" * 5_000]]]}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ["d" * 5_000]}]}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": [{"image_url": "u", "text": "d" * 5_000}]}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": [{"image_url": "u", "x": "d" * 5_000}]}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": [{"type": 1, "image_url": "u", "x": "d" * 5_000}]}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": [{"image_url": {"url": "http://x/y.png"}}] * 9}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": 10**600}] * 9, "max_tokens": 1},
        {"messages": [{"role": "control" * 1_000, "content": None}], "max_tokens": 1},
        {"messages": [{"role": "d" * 5_000}], "max_tokens": 1},
        {"messages": [{"content": "d" * 5_000}], "max_tokens": 1},
        {"messages": [{"role": "tool", "content": None, "output": "d" * 5_000}], "max_tokens": 1},
        {"messages": [{"role": "user", "content": "\0d" * 2_500}], "max_tokens": 1},
    ],
    ids=lambda body: json.dumps(body)[:60],
)  # fmt: skip
async def test_no_body_exceeds_the_budget(tmp_path: Path, body: dict[str, Any]) -> None:
    """No field of a request makes an upstream that generates all it may exceed the budget, in any number of calls."""
    async with upstream(greedy) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        statuses = [
            (await served.post(V1, {"model": "m", "messages": MESSAGES, "stream": True} | body))[0] for _ in range(6)
        ]
        accounts = await served.gateway.policy_services.store.accounts()

    assert set(statuses) <= {200, 429}
    asked = {max(request.body[field] for field in CEILINGS if request.body.get(field)) for request in up.requests}
    assert statuses[-1] == 429 or asked == {1}, "the budget is used up, or each call had the lowest ceiling"
    assert sum(account.reserved for account in accounts) == 0
    assert sum(account.spent for account in accounts) <= LIMIT


CLAMP = """
[[policy]]
use = "max_tokens"
output = 50
"""


@pytest.mark.parametrize("ceiling", ODD_CEILINGS, ids=repr)
@pytest.mark.parametrize(
    "other", [{}, {"max_completion_tokens": 20}, {"n_predict": None}, {"max_new_tokens": 10**9}], ids=json.dumps
)
async def test_no_ceiling_exceeds_the_clamp(tmp_path: Path, ceiling: object, other: dict[str, Any]) -> None:
    """Whatever field a server obeys, it reads no ceiling above the configured one, and none above the client's lowest."""
    body = {"model": "m", "messages": MESSAGES, "stream": True, "max_tokens": ceiling} | other
    async with upstream(greedy) as up, sidecar(settings_of(tmp_path, up.url, CLAMP)) as served:
        status, _, _ = await served.post(V1, body)

    sent = {field: up.requests[0].body[field] for field in CEILINGS if up.requests[0].body.get(field) is not None}
    assert status == 200
    assert max(map(most_in, sent.values())) <= min(50, other.get("max_completion_tokens") or 50)


@pytest.mark.parametrize(
    "content",
    ["x" * 800, {"x": "x" * 800}, ["x" * 800], [{"x": "x" * 800}], [["x" * 800]], 10**630],
    ids=["text", "object", "string part", "unknown part", "list part", "number"],
)
async def test_odd_content_counts_in_a_request(tmp_path: Path, content: object) -> None:
    """Content in a form that OpenAI does not have counts in the size of a request, as its JSON."""
    messages = [{"role": "user", "content": content}]
    async with upstream(greedy) as up, sidecar(settings_of(tmp_path, up.url, CLAMP + "request = 200")) as served:
        status, _, answer = await served.post(V1, {"model": "m", "messages": messages})
        assert not up.requests

    assert (status, json.loads(answer)["error"]["code"]) == (400, "request_too_large")


@pytest.mark.parametrize(
    "body",
    [
        {"n": -1},
        {"n": -1.5},
        {"n": 129},
        {"n": 129.0},
        {"n": 1e300},
        {"n": 10**30},
        {"n": "129"},
        {"n": "two"},
        {"n": "1_0"},
        {"n": ""},
        {"n": []},
        {"n": [2]},
        {"n": {}},
        {"best_of": -1},
        {"best_of": 10**6},
        {"n_cmpl": 129},
        {"n_cmpl": "-2"},
        {"num_return_sequences": -1},
        {"stream": 2},
        {"stream": "maybe"},
        {"stream": []},
        {"stream": {}},
        {"model": 7},
        {"model": ["gpt-4o"]},
        {"model": "gpt-4o\0x"},
        {"models": "gpt-4o"},
        {"models": [["gpt-4o"]]},
        {"models": ["gpt-4o\0x"]},
    ],
    ids=json.dumps,
)
async def test_ungovernable_field_is_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    """A field that servers may read as more than any number that could be counted is refused with its name."""
    async with upstream(greedy) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        status, _, answer = await served.post(V1, {"model": "m", "messages": MESSAGES, "stream": True} | body)
        assert not up.requests

    assert (status, json.loads(answer)["error"]["code"]) == (400, "invalid_request")
    assert next(iter(body)) in json.loads(answer)["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param", "spelling"),
    [
        ({"max_tokens": 1, "Max_Tokens": 100_000}, "Max_Tokens", "max_tokens"),
        ({"max_to\u212aens": 100_000}, "max_to\u212aens", "max_tokens"),
        ({"be\u017ft_of": 50}, "be\u017ft_of", "best_of"),
        ({"N": 50}, "N", "n"),
        ({"MODEL": "dear"}, "MODEL", "model"),
        ({"Models": ["dear"]}, "Models", "models"),
        ({"USER": "ann"}, "USER", "user"),
        ({"max_tokens\0": 100_000}, "max_tokens\0", "max_tokens"),
        ({"N\0x": 50}, "N\0x", "n"),
        ({"messages": [{"role": "user", "content": "hi", "content\0": "d"}]}, "messages[0].content\0", "messages[0].content"),
        ({"messages": [{"role": "user", "content": {"Text": "d"}}]}, "messages[0].content.Text", "messages[0].content.text"),
        ({"Stream": False}, "Stream", "stream"),
        ({"Messages": MESSAGES}, "Messages", "messages"),
        ({"stream_options": {"Include_Usage": False}}, "stream_options.Include_Usage", "stream_options.include_usage"),
        ({"messages": [{"role": "user", "content": "hi", "Content": "d"}]}, "messages[0].Content", "messages[0].content"),
        ({"messages": [{"role": "user", "Role": "system", "content": "hi"}]}, "messages[0].Role", "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "", "TEXT": "d"}]}]}, "messages[0].content[0].TEXT", "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"Type": "text", "text": ""}]}]}, "messages[0].content[0].Type", "messages[0].content[0].type"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)  # fmt: skip
async def test_field_in_another_case_is_refused(
    tmp_path: Path, body: dict[str, Any], param: str, spelling: str
) -> None:
    """A field that limits depend on is refused in another case, because servers in Go accept it."""
    async with upstream(greedy) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        status, _, answer = await served.post(V1, {"model": "m", "messages": MESSAGES, "stream": True} | body)
        assert not up.requests

    error = json.loads(answer)["error"]
    assert (status, error["code"], error["param"]) == (400, "invalid_request", param)
    assert f"must be spelt '{spelling}'" in error["message"]


async def test_other_fields_pass_in_any_case(tmp_path: Path) -> None:
    """A field that no limit depends on reaches upstream in any case."""
    more = {"Temperature": 1, "x_Model": "y", "stream_options": {"Include": True}}
    async with upstream(greedy) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        status, _, _ = await served.post(V1, {"model": "m", "messages": MESSAGES, "stream": True} | more)

    assert status == 200
    assert up.requests[0].body.items() >= {"Temperature": 1, "x_Model": "y"}.items()


@pytest.mark.parametrize("body", [{"model": "gpt-4o"}, {"models": ["gpt-4o"]}, {"models": ["other", "gpt-4o"]}])
async def test_budget_counts_fallback_models(tmp_path: Path, body: dict[str, Any]) -> None:
    """A budget of some models counts each call that one of them may serve, also as a fallback."""
    text = BUDGET + 'only = { model = "gpt-4*" }\n'
    async with upstream(greedy) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        statuses = [
            (await served.post(V1, {"model": "m", "messages": MESSAGES, "stream": True} | body))[0] for _ in range(3)
        ]
        other = await served.post(V1, {"model": "m", "messages": MESSAGES, "stream": True, "max_tokens": 9 * LIMIT})

    assert (statuses, other[0]) == ([200, 429, 429], 200)


async def test_duplicate_field_has_one_meaning(tmp_path: Path) -> None:
    """Of a duplicate field, the sidecar reads the same value that it sends to upstream."""
    async with upstream(greedy) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        client = await served.client()
        raw = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}],"max_tokens":5,"max_tokens":100000}'
        head = f"POST {V1} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
        client.writer.write(head.encode() + raw)
        status, _, _ = await client.answer()
        account = await served.account()

    assert status == 200
    assert up.requests[0].raw_body.count(b"max_tokens") == 1
    assert account.spent <= LIMIT


@pytest.mark.parametrize("profile", ["small", "SMALL", " Small ", "sMaLl"])
async def test_profile_in_any_case_has_its_limits(tmp_path: Path, profile: str) -> None:
    """A profile is found in any case and with blanks, and shares its counter with the default profile."""
    text = BUDGET + "[profile.small]\nbudget = { tokens = 100 }\n"
    async with upstream(greedy) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        await served.post(V1, {"model": "m", "messages": MESSAGES, "max_tokens": 10**6}, f"x-profile: {profile}")
        assert (await served.account()).spent <= 100
        assert (await served.post("/api/chat", CHAT | {"aiUsageProfile": profile}))[0] == 429


@pytest.mark.parametrize(
    "caps", [{"dailyTokenLimit": 10**9}, {"dailyTokenLimit": None}, {"maxTokensPerRequest": 10**9}]
)
async def test_client_caps_never_raise_a_limit(tmp_path: Path, caps: dict[str, Any]) -> None:
    """A cap that a client sets for itself never raises a limit."""
    async with upstream(greedy) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        for _ in range(4):
            await served.post("/api/chat", CHAT | caps)
        assert (await served.account()).spent <= LIMIT


async def test_invented_users_share_one_budget(tmp_path: Path) -> None:
    """At most `identities` users get a budget of their own; all further ones share one."""
    text = BUDGET + 'by = "user"\nidentities = 3\n'
    body = {"model": "m", "messages": MESSAGES, "stream": True, "max_tokens": 10**6}
    async with upstream(greedy) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        first = await served.post(V1, body | {"user": "ann", "max_tokens": 1})
        statuses = [(await served.post(V1, body | {"user": f"invented-{at}"}))[0] for at in range(30)]
        again = await served.post(V1, body | {"user": "ann", "max_tokens": 1})
        accounts = await served.gateway.policy_services.store.accounts()

    assert (first[0], again[0]) == (200, 200)
    assert statuses.count(200) == 3
    assert len(accounts) == 4
    assert sum(account.spent for account in accounts) <= 4 * LIMIT
