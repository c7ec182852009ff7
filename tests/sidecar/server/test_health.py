"""`/healthz` and `/readyz`: which methods they accept, and what they answer if the store fails unexpectedly."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from recording import SERVERS, recorded
from serving import settings_of, sidecar
from wire import Client, Connection, eventually, upstream

from policies.api.store import StoreDown
from sidecar.downstream.client_errors import draining

pytestmark = pytest.mark.anyio

SECRET = "hunter2"
CALL = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


@SERVERS
@pytest.mark.parametrize(
    ("path", "route", "expected"),
    [("/healthz", "/healthz", 200), ("/readyz", "/readyz", 200), ("/v1/x", "unknown", 404), ("/v1/models", "/v1/models", 405)],
)  # fmt: skip
async def test_head_is_answered_without_a_body(
    tmp_path: Path, path: str, route: str, expected: int, protocol: type[asyncio.Protocol]
) -> None:
    """HEAD has the status and the headers of GET, and no body, on errors too: load balancers and SDKs probe with it."""
    async with upstream() as up, recorded(tmp_path, up, protocol=protocol) as it:
        client = await it.served.client()
        client.writer.write(f"HEAD {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        status, headers = await client.head()
        await client_reads_next_answer(client)
        whole = b"" if expected == 405 else (await it.served.get(path))[2]
        record = next(each for each in it.records if each.method == "HEAD")

    assert (status, int(headers["content-length"]) > 0) == (expected, True)
    assert not whole or int(headers["content-length"]) == len(whole)
    assert (record.route, record.status, record.ending) == (route, expected, "done" if expected == 200 else "rejected")
    assert up.requests == []


@SERVERS
async def test_head_of_the_root_costs_nothing(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """`HEAD /`, the first request of Claude Code, is 200 without a key and without upstream; `GET /` names the routes."""
    async with upstream() as up, recorded(tmp_path, up, protocol=protocol) as it:
        client = await it.served.client()
        client.writer.write(b"HEAD / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        status, headers = await client.head()
        await client_reads_next_answer(client)
        shown, _, text = await it.served.get("/")
        (record,) = (each for each in it.records if each.method == "HEAD")

    assert (status, headers["content-length"], "x-request-id" in headers) == (200, "0", True)
    assert (shown, b"POST /v1/messages" in text) == (404, True)
    assert (record.route, record.status, record.ending, up.requests) == ("/", 200, "done", [])


async def client_reads_next_answer(client: Client) -> None:
    """Fail if the bytes that follow are not a response."""
    client.writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    status, _, body = await client.answer()
    assert (status, body) == (200, b'{"status":"ok"}')


@SERVERS
async def test_readiness_names_store_and_upstreams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: type[asyncio.Protocol]
) -> None:
    """`/readyz` has a word for the store, which it pings, and for each circuit breaker; it sends nothing to an upstream.

    While the store is down it tells what the policies do with calls, and not the cause, because anyone may ask.
    """

    async def ping() -> None:
        raise StoreDown(SECRET)

    async with upstream() as up, recorded(tmp_path, up, protocol=protocol) as it:
        ready = await it.served.get("/readyz")
        monkeypatch.setattr(it.served.gateway.policy_services.store, "ping", ping)
        down = await it.served.get("/readyz")
        await it.served.gateway.active_calls.drain(0, draining())
        stopping = await it.served.get("/readyz")

    limits = {"rate": "admit", "budget": "refuse"}
    assert [(status, json.loads(body)) for status, _, body in (ready, down, stopping)] == [
        (200, {"status": "ready", "store": "ok", "upstreams": {"upstream-1": "ok"}}),
        (503, {"status": "store_unavailable", "store": "failing", "limits": limits, "upstreams": {"upstream-1": "ok"}}),
        (503, {"status": "draining", "upstreams": {"upstream-1": "ok"}}),
    ]
    assert up.requests == []


async def test_readiness_names_breaker_states(tmp_path: Path) -> None:
    """A breaker that is closed is "ok", an open one "failing", and one whose probe is running "probing"; none makes it fail."""
    healthy, answer = [False], asyncio.Event()

    async def script(connection: Connection) -> None:
        if not healthy[0]:
            await connection.answer(500, b"{}")
            return
        await answer.wait()
        await connection.stream("a")

    async with upstream(script) as up:
        text = f"[[upstream]]\nbase_url = '{up.url}'\nname = 'local'\nbreaker = {{ calls = 1, probe = 0.01 }}\n"
        text += "[[policy]]\nuse = 'rate'\nrequests = 1_000\n"
        async with sidecar(settings_of(tmp_path, None, text)) as served:

            async def state() -> tuple[int, str]:
                status, _, body = await served.get("/readyz")
                return status, json.loads(body)["upstreams"]["local"]

            assert await state() == (200, "ok")
            await served.post("/v1/chat/completions", CALL)
            assert await state() == (200, "failing")
            healthy[0] = True
            async with asyncio.timeout(5):
                while len(up.requests) < 2:
                    call = asyncio.create_task(served.post("/v1/chat/completions", CALL))
                    await eventually(lambda: len(up.requests) == 2 or call.done())  # noqa: B023  # ends in this turn
            assert await state() == (200, "probing")
            answer.set()
            assert (await call)[0] == 200
            assert await state() == (200, "ok")


@SERVERS
async def test_unexpected_error_of_the_store_is_logged_with_its_class(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    protocol: type[asyncio.Protocol],
) -> None:
    """A store that raises anything but `StoreDown` gives 500; the log names the class, not the text."""

    async def ping() -> None:
        raise RuntimeError(SECRET)

    async with upstream() as up, recorded(tmp_path, up, protocol=protocol) as it:
        monkeypatch.setattr(it.served.gateway.policy_services.store, "ping", ping)
        status, headers, body = await it.served.get("/readyz")
        record = await it.one()

    assert (status, json.loads(body)["error"]["code"]) == (500, "internal_error")
    assert (record.status, record.ending, record.code) == (500, "failed", "internal_error")
    assert record.request_id == headers["x-request-id"]
    assert "RuntimeError" in caplog.text
    assert "/readyz" in caplog.text
    assert SECRET not in caplog.text
