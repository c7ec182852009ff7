"""The routes: the deadline of a call, and the list of models."""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path

import pytest
from scripts import endless
from serving import CHAT, events, settings_of, sidecar, with_policies
from wire import TIMEOUT_SECONDS, Connection, eventually, upstream

from policies import Call, Event, Lease, Policy
from sidecar.downstream.active_calls import ActiveCall

pytestmark = pytest.mark.anyio

SLOW = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 900}


async def test_deadline_ends_a_chat_nest_answer(tmp_path: Path) -> None:
    """A Chat Nest answer ends at its deadline with an error event; an OpenAI stream has no deadline by default."""
    text = "[server]\nchat_deadline = 0.2\n"
    async with upstream(endless) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        _, _, body = await served.post("/api/chat", CHAT)
        client = await served.client()
        await client.post("/v1/chat/completions", SLOW)
        await client.until(b'"a"')
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        _, _, chat_on_v1 = await served.post("/v1/chat/completions", SLOW, "x-event-schema: chat-nest")
        assert not up.requests[1].gone.is_set()
        client.close()

    for answer in (events(body), events(chat_on_v1)):
        assert answer[1] == ("token", '"a"')
        assert json.loads(answer[-1][1])["code"] == "upstream_timeout"


def active_calls() -> list[ActiveCall]:
    """Return all calls in memory; other tests may have left some."""
    return [each for each in gc.get_objects() if type(each) is ActiveCall]


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_ended_call_is_not_kept_until_its_deadline(tmp_path: Path, path: str) -> None:
    """A call that has ended leaves the queue of deadlines: its objects are freed long before its deadline."""
    text = "[server]\ndeadline = 600\nchat_deadline = 600\n"
    async with upstream(endless) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        client = await served.client()
        others = active_calls()
        await client.post(path, CHAT if path == "/api/chat" else SLOW)
        await client.until(b'"a"')
        assert len(active_calls()) == len(others) + 1
        client.close()
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)

        def is_freed() -> bool:
            gc.collect()
            return len(active_calls()) == len(others)

        await eventually(is_freed)


class Footer(Policy, frozen=True):
    """Adds a text behind each answer."""

    async def admit(self, call: Call) -> Lease:
        return FooterLease()


class FooterLease(Lease):
    def flush(self) -> list[Event]:
        return [Event(index=0, text="footer")]


async def test_leases_do_not_change_the_list_of_models(tmp_path: Path) -> None:
    """A list of models has no events: what a lease adds behind an answer is not added to it."""
    listed = b'{"object":"list","data":[{"id":"m"}]}'

    async def models(connection: Connection) -> None:
        await connection.answer(200, listed)

    async with (
        upstream(models) as up,
        sidecar(with_policies(settings_of(tmp_path, up.url), Footer(name="f"))) as served,
    ):
        status, _, body = await served.get("/v1/models")

    assert (status, body) == (200, listed)
