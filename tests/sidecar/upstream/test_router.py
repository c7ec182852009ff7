"""Several upstreams over real sockets: which one gets the request, for which model, and the charge."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from places import ROOT
from serving import CHAT, events, settings_of, sidecar
from upstream_tables import FALLBACK, HI, busy, good, lists, table
from wire import Connection, Script, upstream

from policies import Fallback
from policies.api.failure_kinds import FAILURE_CLASSES
from sidecar.upstream.circuit_breaker import UNHEALTHY_KINDS

pytestmark = pytest.mark.anyio

CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()


async def test_model_names_are_translated(tmp_path: Path) -> None:
    """Each upstream gets its own name of the model; the `models` list of a request is translated too."""
    async with upstream(busy) as first, upstream(good) as second:
        text = table(first.url, "models = { 'gpt-4o' = 'llama3', 'gpt-*' = 'small' }")
        text += table(second.url, "models = { '*' = 'any' }") + FALLBACK
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            for name in ("gpt-4o", "gpt-x", "else"):
                await served.post("/v1/chat/completions", {"model": name, "models": ["gpt-4o", "b"], **HI})

    assert [request.body["model"] for request in first.requests] == ["llama3", "small", "else"]
    assert [request.body["model"] for request in second.requests] == ["any", "any", "any"]
    assert first.requests[0].body["models"] == ["llama3", "b"]


async def test_call_without_a_model_gets_the_configured_one(tmp_path: Path) -> None:
    """A call that names no model gets each upstream's configured model, else the first upstream's."""
    async with upstream(busy) as first, upstream(busy) as second, upstream(good) as third:
        text = table(first.url, "model = 'one'") + table(second.url, "model = 'two'") + table(third.url) + FALLBACK
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            await served.post("/v1/chat/completions", HI)
            await served.post("/api/chat", CHAT)
            await served.post("/v1/chat/completions", {"model": "one", **HI})

    assert [request.body["model"] for request in first.requests] == ["one", "one", "one"]
    assert [request.body["model"] for request in second.requests] == ["two", "two", "one"]
    assert [request.body["model"] for request in third.requests] == ["one", "one", "one"]


async def test_first_listed_model_is_used(tmp_path: Path) -> None:
    """Without a configured model, the first listed one is used, also after a fallback; the list is read once."""

    async def gone(connection: Connection) -> None:
        connection.reset()

    async with upstream(gone) as first, upstream(lists) as second:
        text = table(first.url) + table(second.url) + FALLBACK
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            for _ in range(2):
                status, _, body = await served.post("/api/chat", CHAT)
                assert (status, events(body)[-1][0]) == (200, "done")

    assert [request.head.split()[1] for request in second.requests] == [
        b"/v1/models",
        b"/v1/chat/completions",
        b"/v1/chat/completions",
    ]
    assert second.requests[1].body["model"] == "listed"


async def test_retry_after_of_a_loading_server_is_forwarded(tmp_path: Path) -> None:
    """A loading server's `Retry-After` is forwarded and none is added; with `attempts = 1` an SDK may retry."""

    def loads(*headers: str) -> Script:
        async def script(connection: Connection) -> None:
            body = b'{"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}'
            await connection.answer(503, body, *headers)

        return script

    seen = []
    for script in (loads("retry-after: 7"), loads()):
        async with upstream(script) as up:
            text = table(up.url) + "[[policy]]\nuse = 'retry'\nattempts = 1\n"
            async with sidecar(settings_of(tmp_path, None, text)) as served:
                status, answer_headers, _ = await served.post("/v1/chat/completions", {"model": "m", **HI})
        names = ("retry-after", "retry-after-ms", "x-should-retry")
        seen.append((status, *(answer_headers.get(name) for name in names)))

    assert seen == [(503, "7", "7000", None), (503, None, None, None)]


def test_documented_upstreams_are_valid(tmp_path: Path) -> None:
    """The upstreams of docs/configuration.md are valid, and fallback covers every failure kind that the circuit breaker counts."""
    (text,) = (x for x in re.findall(r"^```toml\n(.*?)^```$", CONFIGURATION, re.MULTILINE | re.DOTALL) if "azure" in x)
    settings = settings_of(tmp_path, None, text, environ={"AZURE_API_KEY": "az-1"})
    (fallback,) = (policy for policy in settings.base.policies if isinstance(policy, Fallback))

    assert [each.name for each in settings.upstreams] == ["azure", "local"]
    assert {FAILURE_CLASSES[kind].family or kind for kind in UNHEALTHY_KINDS if not FAILURE_CLASSES[kind].late} | {
        "unavailable"
    } <= set(fallback.on)


async def test_dearest_name_is_reserved(tmp_path: Path) -> None:
    """The dearest model that may serve a call is reserved; the one that served it is charged."""
    prices = "[prices.dear]\ninput = 10\noutput = 1000\n[prices.cheap]\ninput = 1\noutput = 2\n"
    budget = "[[policy]]\nuse = 'budget'\nusd = 100\n"
    held: list[int] = []

    async def looks(connection: Connection) -> None:
        accounts = await served.gateway.policy_services.store.accounts()
        held.extend(account.reserved for account in accounts)
        await good(connection)

    async with upstream(busy) as first, upstream(looks) as second:
        text = table(first.url, "models = { chat = 'dear' }") + table(second.url, "models = { chat = 'cheap' }")
        text += FALLBACK + budget + prices
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            status, _, _ = await served.post("/v1/chat/completions", {"model": "chat", **HI})
            account = await served.account()

    assert status == 200
    assert held[0] >= 40 * 1000  # 40 tokens of the dear one, in micro-dollars
    assert (account.spent, account.reserved) == (1_000_002, 0)  # a million tokens of the cheap one, and one of text


async def test_each_attempt_has_the_price_of_its_model(tmp_path: Path) -> None:
    """Each attempt is charged at the price of its own model."""

    async def cuts(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
        connection.close()

    prices = "[prices.dear]\ninput = 1_000_000\noutput = 0\n[prices.cheap]\ninput = 1\noutput = 0\n"
    async with upstream(cuts) as first, upstream(good) as second:
        text = table(first.url, "models = { chat = 'dear' }") + table(second.url, "models = { chat = 'cheap' }")
        text += FALLBACK + "[[policy]]\nuse = 'budget'\nusd = 1_000_000\n" + prices
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            status, _, _ = await served.post("/v1/chat/completions", {"model": "chat", **HI})
            account = await served.account()

    assert status == 200
    prompt = account.spent - 1_000_000
    assert 1_000_000 <= prompt < 20_000_000  # a few estimated tokens of the dear one, at a dollar each
