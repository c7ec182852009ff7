"""Limits of `POST /v1/responses`: what is refused, what is lowered, and streams that a limit ends."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from apis.responses import RESPONSES
from samples.response_object import FUNCTION_CALL, MESSAGE, response
from samples.responses import ended, function_events, message_events, numbered, opened, reasoning_events
from samples.sample import named_event
from serving import settings_of, sidecar
from wire import HEAD, Connection, upstream

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"
CALL: dict[str, Any] = {"model": "m", "input": "hi", "stream": True}
PROMPT_TOKENS = 5
PACE_SECONDS = 0.002
CHAIN = """
[[policy]]
use = "budget"
tokens = {limit}
answer = {answer}
floor = 10
"""
SERVER_TOOL = {"type": "web_search"}


async def endless(connection: Connection) -> None:
    """Send reasoning, a complete call, then one token of text after another until the other side closes."""
    begun = (*opened(), *reasoning_events(), *message_events(at=1)[:2])
    await connection.send(HEAD)
    await connection.chunk(b"".join(map(named_event, numbered(*begun))))
    delta = {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 1, "content_index": 0}
    at = len(begun)
    while True:
        await connection.chunk(named_event({**delta, "delta": "x", "logprobs": [], "sequence_number": at}))
        at += 1
        await asyncio.sleep(PACE_SECONDS)


def read(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(block.rpartition(b"data: ")[2]) for block in body.split(b"\n\n")[:-1]]


async def test_stream_ends_cleanly_at_the_limit(tmp_path: Path) -> None:
    """What is open is closed in the API's order, then `response.incomplete` has the output so far and the usage."""
    text = CHAIN.format(limit=205, answer=40)
    async with upstream(endless) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, body = await served.post(PATH, CALL)
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        account = await served.account()
        sent = up.requests[0].body
    events = read(body)
    types = [event["type"].removeprefix("response.") for event in events]
    shown = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    last = events[-1]["response"]
    assert (status, "max_output_tokens" in sent) == (200, False)
    assert types[-4:] == ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (last["status"], last["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert [(item["type"], item["status"]) for item in last["output"]] == [
        ("reasoning", "completed"),
        ("message", "incomplete"),
    ]
    assert events[-4]["text"] == last["output"][1]["content"][0]["text"] == shown
    assert last["usage"]["output_tokens"] == account.spent - PROMPT_TOKENS
    assert last["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    assert 180 <= len(shown) <= 260
    assert account.reserved == 0


async def test_sdk_reads_a_stream_that_a_limit_ended(tmp_path: Path) -> None:
    """OpenAI's client assembles the response, which is incomplete, without an exception."""
    text = CHAIN.format(limit=205, answer=40)
    async with (
        upstream(endless) as up,
        sidecar(settings_of(tmp_path, up.url, text)) as served,
        openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="k", max_retries=0) as client,
        client.responses.stream(model="m", input="hi") as stream,
    ):
        *_, last = [event async for event in stream]
    assert last.type == "response.incomplete"
    assert set(last.response.output_text) == {"x"}


async def test_call_that_a_limit_ends_is_not_reported_as_complete(tmp_path: Path) -> None:
    """Neither the arguments nor the item are closed, and the response has no such item: no client executes it."""

    async def script(connection: Connection) -> None:
        begun = (*opened(), *function_events()[:1])
        await connection.send(HEAD)
        await connection.chunk(b"".join(map(named_event, numbered(*begun))))
        delta = {"type": "response.function_call_arguments.delta", "item_id": FUNCTION_CALL["id"], "output_index": 0}
        while True:
            await connection.chunk(named_event({**delta, "delta": "x"}))
            await asyncio.sleep(PACE_SECONDS)

    text = CHAIN.format(limit=205, answer=40)
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        _, _, body = await served.post(PATH, CALL)
    events = read(body)
    assert not [event for event in events if event["type"].endswith(".done")]
    assert events[-1]["response"]["output"] == []


async def test_stream_grows_step_by_step(tmp_path: Path) -> None:
    """A stream of several steps with enough room is complete, and no ceiling is sent upstream."""
    pieces = ["x"] * 300
    events = numbered(*opened(), *message_events(*pieces), ended("completed", MESSAGE, usage=None))

    async def script(connection: Connection) -> None:
        await connection.send(HEAD)
        for event in events:
            await connection.chunk(named_event(event))
            await asyncio.sleep(0.0005)
        await connection.send(b"0\r\n\r\n")

    text = CHAIN.format(limit=10_000, answer=40)
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        _, _, body = await served.post(PATH, CALL)
        account = await served.account()
        sent = up.requests[0].body
    assert body == b"".join(map(named_event, events))
    assert "max_output_tokens" not in sent
    assert (account.spent, account.reserved) == (PROMPT_TOKENS + 300, 0)


@pytest.mark.parametrize(
    "sent",
    [
        {"max_output_tokens": 5_000},
        {"max_output_tokens": "5000"},
        {"max_output_tokens": 5_000.0},
        {"max_tokens": 5_000},
        {"max_completion_tokens": 5_000},
        {"n_predict": 5_000},
    ],
    ids=str,
)
async def test_ceiling_in_any_spelling_is_lowered(tmp_path: Path, sent: dict[str, Any]) -> None:
    """A ceiling above the headroom is lowered, in whichever field and form the client sent it."""
    text = CHAIN.format(limit=205, answer=40)
    async with upstream(RESPONSES.answers) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, _ = await served.post(PATH, CALL | sent)
        (field,) = sent
        forwarded = up.requests[0].body[field]
    assert (status, forwarded) == (200, 200)


@pytest.mark.parametrize("value", [-1, 0, None, "none"], ids=repr)
async def test_ceiling_that_is_none_is_replaced(tmp_path: Path, value: object) -> None:
    """-1, 0 and null are no ceiling, so that a call without `stream` gets one where little is left."""
    text = CHAIN.format(limit=205, answer=400)
    body = CALL | {"max_output_tokens": value, "stream": False}
    async with upstream(RESPONSES.answers) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, _ = await served.post(PATH, body)
        forwarded = up.requests[0].body["max_output_tokens"]
    assert (status, forwarded) == (200, 200)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"input": [1, 2]}, "input[0]"),
        ({"input": ["a", None]}, "input[1]"),
        ({"input": [{"role": 1, "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "Content": "x"}]}, "input[0].Content"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "TEXT": "x"}]}]}, "input[0].content[0].TEXT"),
        ({"input": [{"role": "user", "content": "x"}] * 10_001}, "input"),
        ({"input": [{"content": [{"text": "x"}] * 5_001}, {"content": [{"text": "x"}] * 5_000}]}, "input"),
        ({"input": "x", "instructions": 7}, "instructions"),
        ({"Input": "x"}, "Input"),
        ({"input": "x", "Instructions": "long"}, "Instructions"),
        ({"input": "x", "Max_Output_Tokens": 9}, "Max_Output_Tokens"),
        ({"input": "x", "Background": True}, "Background"),
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "background": "true"}, "background"),
        ({"input": "x", "background": 1}, "background"),
        ({"input": "x", "background": {"on": 1}}, "background"),
        ({"input": "x", "max_tool_calls": -1}, "max_tool_calls"),
        ({"input": "x", "max_tool_calls": 129}, "max_tool_calls"),
        ({"input": "x", "max_tool_calls": "many"}, "max_tool_calls"),
        ({"input": "x", "max_tool_calls": True}, "max_tool_calls"),
        ({"input": "x", "Max_Tool_Calls": 5}, "Max_Tool_Calls"),
        ({"input": "x", "n": 129}, "n"),
        ({"input": "x", "stream": "perhaps"}, "stream"),
        ({"input": "x", "model": ["m"]}, "model"),
        ({"input": "x", "model": "m" * 257}, "model"),
        ({"input": "x", "user": "u" * 16_385}, "user"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_bad_request_is_refused(tmp_path: Path, body: dict[str, Any], param: str) -> None:
    """What cannot be governed is 400 in OpenAI's envelope, names the field, and reaches no upstream."""
    async with upstream(RESPONSES.answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, headers, answer = await served.post(PATH, {"model": "m"} | body)
        asked = len(up.requests)
    error = json.loads(answer)["error"]
    assert (status, asked, error["param"]) == (400, 0, param), error
    assert headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    "body",
    [
        {"input": [{"role": "user", "content": None}]},
        {"input": ["a", "b"]},
        {"input": {"role": "user", "content": "x"}},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "x"}]}]},
        {"instructions": "Speak."},
        {"prompt": {"id": "pmpt_1", "variables": {"city": "Oslo"}}},
        {"input": "x", "background": False, "unknown": {"a": 1}, "truncation": "auto", "include": ["x"]},
        {"input": "x", "stream_options": {"include_obfuscation": False}, "stream": True},
        {"input": "x", "max_tool_calls": 0},
    ],
    ids=str,
)
async def test_what_servers_accept_is_forwarded(tmp_path: Path, body: dict[str, Any]) -> None:
    """Inputs and fields that only some servers accept pass as they are."""

    async def script(connection: Connection) -> None:
        await connection.answer(200, json.dumps(response("completed", [MESSAGE])).encode())

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        await served.post(PATH, {"model": "m"} | body)
        sent = up.requests[0].body
    assert sent == {"model": "m"} | body


@pytest.mark.parametrize(("sent", "forwarded"), [({}, 8), ({"max_tool_calls": 3}, 3), ({"max_tool_calls": "3"}, 3)])
async def test_calls_of_the_servers_tools_are_reserved(tmp_path: Path, sent: dict[str, Any], forwarded: int) -> None:
    """A prompt is reserved once more for each call of a tool that the server runs; without a number, 8 are allowed."""
    held = asyncio.Event()

    async def script(connection: Connection) -> None:
        held.set()
        await connection.hang()

    text = CHAIN.format(limit=100_000, answer=40)
    body = CALL | {"tools": [SERVER_TOOL], "max_output_tokens": 100} | sent
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        client = await served.client()
        await client.post(PATH, body)
        await asyncio.wait_for(held.wait(), 5)
        (account,) = [each for each in await served.gateway.policy_services.store.accounts() if each.policy == "budget"]
        client.close()
        await served.account()
        asked = up.requests[0].body
    prompt, rest = divmod(account.reserved - 100, forwarded + 1)
    assert (asked["max_tool_calls"], rest) == (forwarded, 0)
    assert prompt >= PROMPT_TOKENS


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "shell", "name": "s", "environment": {"type": "container_auto"}}]},
        {
            "tools": [
                {"type": "shell", "name": "s", "environment": {"type": "container_reference", "container_id": "c"}}
            ]
        },
        {"input": [{"type": "additional_tools", "role": "developer", "tools": [{"type": "web_search"}]}]},
        {"instructions": [{"type": "additional_tools", "role": "developer", "tools": [{"type": "web_search"}]}]},
    ],
    ids=str,
)
async def test_hosted_shells_and_tools_in_items_are_tools_of_the_server(tmp_path: Path, more: dict[str, Any]) -> None:
    """A shell in a container of the server, and tools that an item of the prompt adds, are bounded like other tools."""
    async with upstream(RESPONSES.answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        await served.post(PATH, {"model": "m", "input": "x"} | more)
        sent = up.requests[0].body
    assert sent == {"model": "m", "input": "x", "max_tool_calls": 8} | more


async def test_functions_of_the_client_are_no_tools_of_the_server(tmp_path: Path) -> None:
    """Nothing is added to a request whose tools the client runs."""
    body: dict[str, Any] = {
        "model": "m",
        "input": "x",
        "tools": [{"type": "function", "name": "f"}, {"type": "local_shell"}],
    }
    body["tools"].append({"type": "shell", "environment": {"type": "local"}})
    async with upstream(RESPONSES.answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        await served.post(PATH, body)
        sent = up.requests[0].body
    assert sent == body
