"""Requests that only some servers accept reach upstream as they are: upstream decides about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from refused_requests import CHAT, HI, V1
from scripts import answers
from serving import settings_of, sidecar
from wire import Connection, upstream

pytestmark = pytest.mark.anyio

CALLS = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
ODD_MESSAGES = [
    {"role": "control", "content": "thinking"},
    {"role": "latest_reminder", "content": "today"},
    {"role": "user", "content": ["hi", {"text": "there"}, {"image_url": {"url": "http://x/y.png"}}, {"type": "text"}]},
    {"role": "assistant", "content": "", "tool_calls": CALLS},
    {"role": "tool", "tool_call_id": "c1", "content": None},
    {"role": "tool", "tool_call_id": "c2"},
    {"role": "ipython", "content": {"celsius": 3}},
    {"role": "model", "content": []},
    {"role": "user", "content": "a\0b \u2028 \ufffd", "weight": 1, "x": {"y": [None]}},
]


@pytest.mark.parametrize("streams", [True, False])
async def test_odd_messages_reach_upstream(tmp_path: Path, streams: bool) -> None:  # noqa: FBT001  # a column of the table
    """Messages of any role, content and parts reach upstream as they are, and the call is settled."""
    body = {"model": "m", "messages": ODD_MESSAGES, "stream": streams}
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, _, _ = await served.post(V1, body)
        account = await served.account()

    assert status == 200
    assert up.requests[0].body["messages"] == ODD_MESSAGES
    assert (account.reserved, account.spent > 0) == (0, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": -1},
        {"max_tokens": 0},
        {"max_completion_tokens": None},
        {"max_tokens": None, "n": None, "stop": None, "user": None, "tools": None},
        {"max_tokens": "unlimited"},
        {"n": 0},
        {"user": 42, "seed": -1},
        {"user": {"id": 1}},
        {"stream": None},
        {"stream_options": None},
        {"chat_template_kwargs": {"x": 1}, "provider": {"sort": "price"}, "x\0": [1e300, 10**40]},
    ],
    ids=json.dumps,
)
async def test_odd_fields_reach_upstream(tmp_path: Path, fields: dict[str, Any]) -> None:
    """Fields that limits do not depend on, or that count as absent, reach upstream as they are where no policy sets them."""
    body = {"model": "m", "messages": HI} | fields
    text = '[[policy]]\nuse = "retry"\n'
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, _ = await served.post(V1, body)

    assert (status, up.requests[0].body) == (200, body)


async def test_unlimited_ceiling_is_charged_as_used(tmp_path: Path) -> None:
    """A call with `max_tokens: -1` is charged what it used, and no ceiling above the budget's room reaches upstream."""

    async def used(connection: Connection) -> None:
        choices = [{"index": 0, "message": {"role": "assistant", "content": "ab"}, "finish_reason": "stop"}]
        usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        await connection.answer(200, json.dumps({"choices": choices, "usage": usage}).encode())

    text = '[[policy]]\nuse = "budget"\ntokens = 1000\nreserve = "bound"\n'
    async with upstream(used) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, _ = await served.post(V1, {"model": "m", "messages": HI, "max_tokens": -1})
        account = await served.account()

    assert (status, account.spent, account.reserved) == (200, 12, 0)
    assert 0 < up.requests[0].body["max_tokens"] < 1000


@pytest.mark.parametrize("path", [CHAT, V1])
async def test_text_cut_inside_an_emoji_reaches_upstream(tmp_path: Path, path: str) -> None:
    """Half of an emoji reaches upstream as U+FFFD, and a byte order mark in front of the body does not matter."""
    raw = b'\xef\xbb\xbf{"model": "m", "messages": [{"role": "user", "content": "wave \\ud83d"}]}'
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, _, _ = await served.post(path, raw)

    assert (status, up.requests[0].body["messages"][0]["content"]) == (200, "wave \ufffd")


async def test_chat_sends_no_empty_answer(tmp_path: Path) -> None:
    """An answer that stayed empty after an error is left out before messages are counted for `max_messages`."""
    sent = [
        ("user", "1"),
        ("assistant", "2"),
        *[("user", str(at // 2)) if at % 2 else ("assistant", "") for at in range(7, 14)],
    ]
    messages = [{"id": str(at), "role": role, "content": content} for at, (role, content) in enumerate(sent)]
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, _, _ = await served.post(CHAT, {"messages": messages, "profile": "constrained"})

    assert status == 200
    assert up.requests[0].body["messages"] == [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3\n\n4\n\n5\n\n6"},
    ]


@pytest.mark.parametrize(
    "parameters", ["; charset=utf-8", ';charset="UTF-8"', "; charset=utf8", "; x=y; charset=UTF8", ";"]
)
async def test_utf_8_is_accepted_in_any_spelling(tmp_path: Path, parameters: str) -> None:
    """The media type of JSON may name UTF-8 in any of its spellings."""
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        body = {"model": "m", "messages": HI}
        assert (await served.post(V1, body, f"content-type: application/json{parameters}"))[0] == 200
        assert (await served.post(V1, body, "content-type: application/json; charset=utf-80"))[0] == 415
