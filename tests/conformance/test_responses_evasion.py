"""Rules for models, ceilings and fields on `POST /v1/responses` are not evaded by other spellings and tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from api_keys import key
from apis.responses import RESPONSES
from serving import settings_of, sidecar
from wire import Connection, upstream

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"
AUTHORIZATION = "authorization: Bearer k"
KEYED = key("k", "t", 'models = ["cheap"]')
FUNCTION: dict[str, Any] = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
BODY: dict[str, Any] = {"model": "cheap", "input": "x"}


@pytest.mark.parametrize(
    "more",
    [
        {"model": "dear"},
        {"models": ["dear"]},
        {"prompt": {"id": "pmpt_1"}},
        {"moderation": {"model": "dear"}},
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "image_generation", "model": "dear"}]},
        {"tools": [{"type": "mcp", "server_label": "s", "server_url": "https://s"}]},
        {"tools": [{"type": "computer_use_preview"}]},
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
        {"input": [{"type": "additional_tools", "role": "developer", "tools": [{"type": "web_search"}]}]},
        {"input": [{"type": "tool_search_output", "tools": [{"type": "image_generation", "model": "dear"}]}]},
        {"input": {"type": "additional_tools", "role": "developer", "tools": [{"type": "web_search"}]}},
        {"route": "fallback"},
        {"provider": {"order": ["x"]}},
    ],
    ids=str,
)
async def test_key_with_models_refuses_what_may_choose_another(tmp_path: Path, more: dict[str, Any]) -> None:
    """Templates, tools of the server and routing fields may use another model or a fee: 403, and nothing is sent."""
    async with upstream(RESPONSES.answers) as up, sidecar(settings_of(tmp_path, up.url, KEYED)) as served:
        status, _, body = await served.post(PATH, BODY | more, AUTHORIZATION)
        asked = len(up.requests)
    assert (status, asked) == (403, 0), body


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "f"}},
        {"tools": [{"type": "custom", "name": "c", "description": "d"}], "parallel_tool_calls": False},
        {"reasoning": {"effort": "low", "summary": "auto"}, "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}},
        {"include": ["reasoning.encrypted_content"], "store": False, "truncation": "auto", "background": False},
        {"metadata": {"a": "b"}, "safety_identifier": "u"},
        {"input": '[{"role": "user"}]', "instructions": "{}"},
        {"input": ["{x}", {"type": "additional_tools", "role": "developer", "tools": [FUNCTION]}]},
        {"input": [{"type": "mcp_list_tools", "server_label": "s", "tools": [{"name": "t", "annotations": {"a": 1}}]}]},
        {"instructions": "Speak.", "max_tool_calls": 2, "service_tier": "flex"},
        {"stream": True, "stream_options": {"include_obfuscation": False}, "prompt_cache_key": "p"},
    ],
    ids=str,
)  # fmt: skip
async def test_key_with_models_permits_documented_fields(tmp_path: Path, more: dict[str, Any]) -> None:
    """What SDKs send passes."""
    async with upstream(RESPONSES.answers) as up, sidecar(settings_of(tmp_path, up.url, KEYED)) as served:
        status, _, body = await served.post(PATH, BODY | more, AUTHORIZATION)
        sent = up.requests[0].body if up.requests else {}
    assert (status, sent) == (200, BODY | more), body


async def test_known_fields_drop_tools_of_the_server(tmp_path: Path) -> None:
    """With `fields = "known"`, tools that the server runs, templates and other ceilings do not reach upstream."""
    text = '[[upstream]]\nbase_url = "{url}"\nfields = "known"\n'
    body = BODY | {"tools": [FUNCTION, {"type": "web_search"}], "prompt": {"id": "p"}, "thinking_budget": 9}
    async with upstream(RESPONSES.answers) as up:
        async with sidecar(settings_of(tmp_path, None, text.format(url=up.url))) as served:
            await served.post(PATH, body)
        sent = up.requests[0].body
    assert sent == BODY | {"tools": [FUNCTION], "max_tool_calls": 8}


async def test_known_fields_drop_tools_of_the_server_in_items(tmp_path: Path) -> None:
    """With `fields = "known"`, items of the input add functions of the client alone."""
    text = '[[upstream]]\nbase_url = "{url}"\nfields = "known"\n'
    adding: dict[str, Any] = {"type": "additional_tools", "role": "developer"}
    items = ["x", adding | {"tools": [{"type": "web_search"}, FUNCTION]}, adding | {"tools": {"type": "web_search"}}]
    async with upstream(RESPONSES.answers) as up:
        async with sidecar(settings_of(tmp_path, None, text.format(url=up.url))) as served:
            await served.post(PATH, BODY | {"input": items})
        sent = up.requests[0].body["input"]
    assert sent == ["x", adding | {"tools": [FUNCTION]}, adding | {"tools": []}]


async def test_refused_ceiling_is_adapted(tmp_path: Path) -> None:
    """A ceiling that the sidecar set and upstream refuses is lowered to the number that the refusal names."""

    async def script(connection: Connection) -> None:
        ceiling = connection.body["max_output_tokens"]
        if ceiling > 4_096:
            message = f"Invalid 'max_output_tokens': integer above maximum value. Expected a value <= 4096, but got {ceiling} instead."
            error = {
                "message": message,
                "type": "invalid_request_error",
                "param": "max_output_tokens",
                "code": "integer_above_max_value",
            }
            await connection.answer(400, json.dumps({"error": error}).encode())
        else:
            await RESPONSES.answers(connection)

    text = '[[policy]]\nuse = "budget"\ntokens = 100_000\nreserve = "bound"\nanswer = 9_000\n'
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, _ = await served.post(PATH, BODY)
        asked = [request.body["max_output_tokens"] for request in up.requests]
        await served.post(PATH, BODY)
        later = up.requests[-1].body["max_output_tokens"]
    assert (status, asked, later) == (200, [9_000, 4_096], 4_096)
