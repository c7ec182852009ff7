"""CORS: the same data path runs with it and without it, and browsers of other origins get nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from serving import CHAT, Sidecar, settings_of, sidecar
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from wire import Client, upstream
from wire import Connection as UpstreamConnection

from sidecar.downstream.asgi_connection import AsgiConnection
from sidecar.downstream.response import ClientResponse
from sidecar.server.http_protocol import HttpProtocol
from sidecar.server.request_cycle import RequestCycle

pytestmark = pytest.mark.anyio

ORIGIN = "http://localhost:5173"
LISTED = f'[server]\ncors_origins = ["{ORIGIN}"]\n'
ANY = '[server]\ncors_origins = ["*"]\n'
SERVERS = pytest.mark.parametrize("protocol", [HttpProtocol, HttpToolsProtocol], ids=["own", "another"])
V1 = "/v1/chat/completions"
HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


async def streams(connection: UpstreamConnection) -> None:
    await connection.stream("a", "b")


async def preflight(served: Sidecar, origin: str, path: str = "/api/chat") -> tuple[int, dict[str, str]]:
    headers = [
        f"origin: {origin}",
        "access-control-request-method: POST",
        "access-control-request-headers: content-type",
    ]
    status, answer, _ = await served.get(path, *headers, method="OPTIONS")
    return status, answer


@SERVERS
@pytest.mark.parametrize("text", ["", LISTED, ANY], ids=["off", "listed", "any"])
async def test_connection_in_use(tmp_path: Path, protocol: type[asyncio.Protocol], text: str) -> None:
    """Whether CORS is configured does not decide which connection a response is written to; the server does."""
    used: list[type] = []

    async def looks(connection: UpstreamConnection) -> None:
        (call,) = running[0].gateway.active_calls._calls
        assert isinstance(call.response, ClientResponse)
        used.append(type(call.response._connection))
        await connection.stream("a")

    running: list[Sidecar] = []
    async with upstream(looks) as up, sidecar(settings_of(tmp_path, up.url, text), protocol=protocol) as served:
        running.append(served)
        await served.post(V1, HI, f"origin: {ORIGIN}")

    assert used == [RequestCycle if protocol is HttpProtocol else AsgiConnection]


@SERVERS
async def test_responses(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """Streams, refusals and unknown paths have the CORS headers of an allowed origin, once each; others have none."""
    async with upstream(streams) as up, sidecar(settings_of(tmp_path, up.url, LISTED), protocol=protocol) as served:
        for path, body in (("/api/chat", CHAT), (V1, HI), (V1, {}), ("/v1/other", {})):
            client = await served.client()
            await client.post(path, body, f"origin: {ORIGIN}")
            head = (await client.until(b"\r\n\r\n")).lower()
            assert head.count(b"access-control-allow-origin: http://localhost:5173\r\n") == 1, path
            assert b"access-control-expose-headers: " in head
            assert b"vary: origin" in head
            _, headers, _ = await served.post(path, body, "origin: http://evil.example")
            assert "access-control-allow-origin" not in headers, path
            _, headers, _ = await served.post(path, body)
            assert not any(name.startswith("access-control") for name in headers), path


@SERVERS
async def test_any_origin(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """With `*` every origin is allowed, without credentials."""
    async with upstream(streams) as up, sidecar(settings_of(tmp_path, up.url, ANY), protocol=protocol) as served:
        _, headers, _ = await served.post(V1, HI, "origin: http://anything.example")

    assert headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in headers


@SERVERS
async def test_preflight(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """Preflights are answered for the configured origins alone, and never reach upstream."""
    async with upstream() as up, sidecar(settings_of(tmp_path, up.url, LISTED), protocol=protocol) as served:
        for path in ("/api/chat", V1, "/v1/models", "/healthz"):
            status, headers = await preflight(served, ORIGIN, path)
            assert (status, headers["access-control-allow-origin"]) == (204, ORIGIN)
            assert headers["access-control-allow-headers"] == "content-type"
            assert "POST" in headers["access-control-allow-methods"]
        status, headers = await preflight(served, "http://evil.example")

    assert (status, "access-control-allow-origin" in headers, len(up.requests)) == (400, False, 0)


async def test_preflight_without_cors(tmp_path: Path) -> None:
    """Without `cors_origins` a preflight is an unsupported method."""
    async with upstream() as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, headers = await preflight(served, ORIGIN)

    assert (status, "access-control-allow-origin" in headers) == (405, False)


async def test_kept_connection(tmp_path: Path) -> None:
    """CORS headers of one request do not appear in the next response of the same connection."""
    async with upstream(streams) as up, sidecar(settings_of(tmp_path, up.url, LISTED)) as served:
        client = await Client.to(served.port)
        await client.post(V1, HI, f"origin: {ORIGIN}")
        _, first, _ = await client.answer()
        await client.post(V1, HI)
        _, second, body = await client.answer()
        client.close()

    assert (first["access-control-allow-origin"], "access-control-allow-origin" in second) == (ORIGIN, False)
    assert json.loads(body.split(b"\n")[0][6:])["choices"]
