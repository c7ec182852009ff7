"""One tenant with a failing model, or with requests that make a model fail, beside tenants that it must not affect."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from pathlib import Path

import pytest
from api_keys import key
from serving import Sidecar, settings_of, sidecar
from wire import Connection, upstream

pytestmark = pytest.mark.anyio

CALLS, MAX_CONCURRENT = 60, 10
KEYS = key("a", "acme") + key("b", "bolt") + key("c", "core")
FAILING, BLOCKED, SERVED = 500, 502, 200


async def by_request(connection: Connection) -> None:
    """Fail for the model `bad` and for the prompt `poison`; reset the connection for the prompt `huge`."""
    body = connection.body
    prompt = body["messages"][0]["content"]
    if prompt == "huge":
        connection.reset()
    elif body["model"] == "bad" or prompt == "poison":
        await connection.answer(500, b'{"error": {"message": "failed"}}')
    else:
        await connection.stream("fine")


def table(url: str) -> str:
    breaker = "breaker = { calls = 20, probe = 60 }\n"
    return f"[[upstream]]\nbase_url = '{url}'\n{breaker}[[policy]]\nuse = 'retry'\nattempts = 1\n{KEYS}"


async def calls(served: Sidecar, token: str, model: str, prompt: str = "hi") -> Counter[int]:
    """Make `CALLS` calls of the key *token*; return the number of each status."""
    gate = asyncio.Semaphore(MAX_CONCURRENT)
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": True, "max_tokens": 9}

    async def one() -> int:
        async with gate:
            return (await served.post("/v1/chat/completions", body, f"Authorization: Bearer {token}"))[0]

    return Counter(await asyncio.gather(*(one() for _ in range(CALLS))))


@pytest.mark.parametrize(
    ("model", "prompt"),
    [
        pytest.param("bad", "hi", id="a model that fails"),
        pytest.param("good", "poison", id="prompts that make the model fail"),
        pytest.param("good", "huge", id="requests that are reset"),
    ],
)
async def test_one_tenants_failures_affect_no_other_tenant(tmp_path: Path, model: str, prompt: str) -> None:
    """A tenant whose calls fail is refused after `calls` failures; all calls of the other tenants are served meanwhile."""
    async with upstream(by_request) as up, sidecar(settings_of(tmp_path, None, table(up.url))) as served:
        failed = await calls(served, "a", model, prompt)
        _, beside = await asyncio.gather(calls(served, "a", model, prompt), calls(served, "b", "good"))
        after = await calls(served, "c", "good")
        ready = json.loads((await served.get("/readyz"))[2])

    assert (beside, after) == ({SERVED: CALLS}, {SERVED: CALLS})
    assert len(up.requests) <= 2 * CALLS + 20 + MAX_CONCURRENT
    assert SERVED not in failed
    assert ready["upstreams"] == {"upstream-1": "partly"}


async def test_model_that_fails_for_two_tenants_is_refused_for_all(tmp_path: Path) -> None:
    """A model that fails for several tenants is refused for the next one at once; other models are served."""
    async with upstream(by_request) as up, sidecar(settings_of(tmp_path, None, table(up.url))) as served:
        for token in ("a", "b"):
            await calls(served, token, "bad")
        seen = len(up.requests)
        third = await calls(served, "c", "bad")
        other = await calls(served, "c", "good")

    assert (third, other) == ({BLOCKED: CALLS}, {SERVED: CALLS})
    assert len(up.requests) == seen + CALLS


async def test_unreachable_upstream_is_refused_for_all(tmp_path: Path) -> None:
    """An upstream that refuses connections is refused for all tenants and models once one tenant's calls have failed."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # without listening: connections are refused
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        async with sidecar(settings_of(tmp_path, None, table(url))) as served:
            await calls(served, "a", "good")
            body = {"model": "other", "messages": [{"role": "user", "content": "hi"}], "stream": True}
            status, headers, answer = await served.post("/v1/chat/completions", body, "Authorization: Bearer b")
            ready = json.loads((await served.get("/readyz"))[2])

    assert (status, json.loads(answer)["error"]["code"]) == (BLOCKED, "upstream_unavailable")
    assert 0 < int(headers["retry-after"]) <= 60
    assert ready["upstreams"] == {"upstream-1": "failing"}


async def test_log_escapes_names_of_models(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The state line names the upstream, the model and the tenant; the client's name of the model cannot forge a line."""

    async def fails(connection: Connection) -> None:
        await connection.answer(500, b"{}")

    async with upstream(fails) as up, sidecar(settings_of(tmp_path, None, table(up.url))) as served:
        await calls(served, "a", "bad tenant bolt\nforged" + "x" * 200)

    (line,) = [each for each in caplog.messages if "is open" in each]
    assert line.startswith('breaker upstream-1 model "bad tenant bolt\\nforgedxxx')
    assert '" tenant acme is open: ' in line
    assert len(line) < 250
    assert "500" in line
