"""`/healthz` and `/readyz`: which methods they accept, and what they answer if the store fails unexpectedly."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from recording import SERVERS, recorded
from wire import Client, upstream

pytestmark = pytest.mark.anyio

SECRET = "hunter2"


@SERVERS
@pytest.mark.parametrize(
    ("path", "route", "expected"),
    [("/healthz", "/healthz", 200), ("/readyz", "/readyz", 200), ("/", "unknown", 404), ("/v1/x", "unknown", 404), ("/v1/models", "/v1/models", 405)],
)  # fmt: skip
async def test_head_is_answered_without_a_body(
    tmp_path: Path, path: str, route: str, expected: int, protocol: type[asyncio.Protocol]
) -> None:
    """HEAD has the status and the headers of GET, and no body, on errors too: load balancers and SDKs probe with it."""
    async with upstream() as up, recorded(tmp_path, up, protocol=protocol) as it:
        client = await it.served.client()
        client.writer.write(f"HEAD {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        status, headers = await client.head()
        await client_reads_next_answer(client)
        whole = b"" if expected == 405 else (await it.served.get(path))[2]
        record = next(each for each in it.records if each.method == "HEAD")

    assert (status, int(headers["content-length"]) > 0) == (expected, True)
    assert not whole or int(headers["content-length"]) == len(whole)
    assert (record.route, record.status, record.ending) == (route, expected, "done" if expected == 200 else "rejected")
    assert up.requests == []


async def client_reads_next_answer(client: Client) -> None:
    """Fail if the bytes that follow are not a response."""
    client.writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    status, _, body = await client.answer()
    assert (status, body) == (200, b'{"status":"ok"}')


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
