"""Responses belong to the tenant that made them, through the real server: unknown ids are refused, hidden prompts reserved."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from api_keys import key
from apis.responses import RESPONSES
from samples.response_object import USAGE
from serving import settings_of, sidecar
from wire import Connection, upstream

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"
KEYS = key("a", "first") + key("b", "second") + '[[policy]]\nuse = "budget"\ntokens = 100_000\n'


def response_id(body: bytes, *, stream: bool) -> str:
    text = body.split(b"\n\n")[0].rpartition(b"data: ")[2] if stream else body
    found = json.loads(text)
    return str((found["response"] if stream else found)["id"])


@pytest.mark.parametrize("stream", [True, False])
async def test_response_is_continued_by_its_own_tenant_alone(tmp_path: Path, *, stream: bool) -> None:
    """The tenant that made a response continues it; another one, and anyone with an invented id, is refused."""
    body: dict[str, Any] = {"model": "m", "input": "hi", "stream": stream}
    async with upstream(RESPONSES.answers) as up, sidecar(settings_of(tmp_path, up.url, KEYS)) as served:
        _, _, first = await served.post(PATH, body, "authorization: Bearer a")
        made = response_id(first, stream=stream)
        later = body | {"previous_response_id": made}
        own, _, _ = await served.post(PATH, later, "authorization: Bearer a")
        other, _, refusal = await served.post(PATH, later, "authorization: Bearer b")
        unknown, _, _ = await served.post(PATH, body | {"previous_response_id": "resp_x"}, "authorization: Bearer a")
        got, _, _ = await served.get(f"{PATH}/{made}", "authorization: Bearer a")
        hidden, _, _ = await served.get(f"{PATH}/{made}", "authorization: Bearer b")
        asked = [request.head.split(b" ", 2)[:2] for request in up.requests]
    assert (own, other, unknown, got, hidden) == (200, 400, 400, 200, 404), refusal
    assert len(asked) == 3


async def test_hidden_prompt_is_reserved(tmp_path: Path) -> None:
    """A call that continues a response reserves what that response had, besides its own input."""
    held = asyncio.Event()
    body: dict[str, Any] = {"model": "m", "input": "hi", "stream": True}

    async def hangs(connection: Connection) -> None:
        held.set()
        await connection.hang()

    async with upstream(RESPONSES.answers, hangs) as up, sidecar(settings_of(tmp_path, up.url, KEYS)) as served:
        _, _, first = await served.post(PATH, body, "authorization: Bearer a")
        client = await served.client()
        later = body | {"previous_response_id": response_id(first, stream=True), "max_output_tokens": 100}
        await client.post(PATH, later, "authorization: Bearer a")
        await asyncio.wait_for(held.wait(), 5)
        (account,) = [each for each in await served.gateway.policy_services.store.accounts() if each.policy == "budget"]
    assert account.spent == USAGE["total_tokens"]
    assert account.reserved > 100 + 5 + USAGE["total_tokens"]


@pytest.mark.parametrize(
    "more",
    [
        {"input": [{"type": "image_generation_call", "id": "item_b"}]},
        {"input": [{"type": "reasoning", "id": "item_b", "summary": []}, {"role": "user", "content": "x"}]},
        {"input": [{"type": "web_search_call", "id": "item_b", "status": "completed"}]},
        {"input": {"type": "item_reference", "id": "item_b"}},
        {"instructions": [{"type": "item_reference", "id": "item_b"}]},
        {"prompt_cache_options": {"comparison_response_id": "resp_b"}},
    ],
    ids=str,
)
async def test_objects_of_others_are_refused_in_every_field(tmp_path: Path, more: dict[str, Any]) -> None:
    """An id of another tenant is refused wherever a server looks up what it has stored under it; its owner may use it."""
    body: dict[str, Any] = {"model": "m", "input": "hi"} | more
    async with upstream(RESPONSES.answers) as up, sidecar(settings_of(tmp_path, up.url, KEYS)) as served:
        objects: dict[Any, int] = {("item", "item_b"): 5, ("response", "resp_b"): 5}
        await served.gateway.owners.remember("second", "upstream-1", objects, origin="resp_b")
        other, _, refusal = await served.post(PATH, body, "authorization: Bearer a")
        asked = len(up.requests)
        own, _, answer = await served.post(PATH, body, "authorization: Bearer b")
    assert (other in (400, 404), asked) == (True, 0), refusal
    assert own == 200, answer


async def test_client_cannot_choose_the_id_of_anothers_response(tmp_path: Path) -> None:
    """A server may take the id of a response from the request (vLLM): another tenant's response cannot be replaced."""
    body: dict[str, Any] = {"model": "m", "input": "hi", "request_id": "resp_b"}
    async with upstream(RESPONSES.answers) as up, sidecar(settings_of(tmp_path, up.url, KEYS)) as served:
        await served.gateway.owners.remember("second", "upstream-1", {("response", "resp_b"): 5})
        other, _, refusal = await served.post(PATH, body, "authorization: Bearer a")
        asked = len(up.requests)
        own, _, _ = await served.post(PATH, body, "authorization: Bearer b")
        free, _, _ = await served.post(PATH, body | {"request_id": "resp_new"}, "authorization: Bearer a")
    assert (other, asked, own, free) == (400, 0, 200, 200), refusal
    assert json.loads(refusal)["error"]["param"] == "request_id"
