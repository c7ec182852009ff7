"""WebSocket handshakes are refused in OpenAI's form, whatever their path; other offers of a protocol are ignored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recording import recorded
from wire import Connection, eventually, upstream

pytestmark = pytest.mark.anyio

HANDSHAKE = "upgrade: {}\r\nconnection: keep-alive, Upgrade\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13"


@pytest.mark.parametrize("path", ["/v1/realtime?model=m", "/v1/responses", "/v1/chat/completions", "/v1/models", "/x"])
@pytest.mark.parametrize("offer", ["websocket", "WebSocket", "h2c, websocket"])
async def test_handshake_is_refused(tmp_path: Path, path: str, offer: str) -> None:
    """The handshake of a WebSocket gets a 400 that names the cure, leaves a record, and reaches no upstream."""
    async with upstream() as up, recorded(tmp_path, up) as it:
        client = await it.served.client()
        client.writer.write(
            f"GET {path} HTTP/1.1\r\nhost: localhost\r\nx-request-id: r-1\r\n{HANDSHAKE.format(offer)}\r\n\r\n".encode()
        )
        status, headers, body = await client.answer()
        assert await client.reader.read() == b""
        record = await it.one()

    error = json.loads(body)["error"]
    assert (status, error["code"], error["type"]) == (400, "websocket_not_supported", "invalid_request_error")
    assert (headers["x-request-id"], headers["connection"]) == ("r-1", "close")
    assert (record.request_id, record.status, record.code) == ("r-1", 400, "websocket_not_supported")
    assert up.requests == []


async def test_other_requests_of_the_connection_are_served(tmp_path: Path) -> None:
    """A handshake behind a complete answer on one connection is refused as well, and a POST that offers one is served."""

    async def lists(connection: Connection) -> None:
        await connection.answer(200, b'{"data": []}')

    async with upstream(lists) as up, recorded(tmp_path, up) as it:
        client = await it.served.client()
        client.writer.write(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
        first, _, _ = await client.answer()
        client.writer.write(
            f"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n{HANDSHAKE.format('websocket')}\r\n\r\n".encode()
        )
        second, _, _ = await client.answer()
        await eventually(lambda: len(it.records) == 2)
    assert (first, second, len(up.requests)) == (200, 400, 1)
