"""CORS: the same data path runs with it and without it, and other origins get no CORS headers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from documents import rows
from places import ROOT
from recording import recorded
from scripts import answers
from serving import CHAT, Sidecar, settings_of, sidecar
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from wire import Client, upstream

from sidecar.downstream.asgi_connection import AsgiConnection
from sidecar.downstream.client_connection import ClientConnection, Head
from sidecar.server.http1.http_protocol import HttpProtocol
from sidecar.server.http1.request_cycle import RequestCycle

pytestmark = pytest.mark.anyio

ORIGIN = "http://localhost:5173"
LISTED = f'[server]\ncors_origins = ["{ORIGIN}"]\n'
ANY = '[server]\ncors_origins = ["*"]\n'
SERVERS = pytest.mark.parametrize("protocol", [HttpProtocol, HttpToolsProtocol], ids=["own", "another"])
V1 = "/v1/chat/completions"
HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


async def preflight(served: Sidecar, origin: str, path: str = "/api/chat") -> tuple[int, dict[str, str]]:
    """Return status and headers of the response to a preflight."""
    headers = [
        f"origin: {origin}",
        "access-control-request-method: POST",
        "access-control-request-headers: content-type",
    ]
    status, answer, _ = await served.get(path, *headers, method="OPTIONS")
    return status, answer


def noting(kind: type[ClientConnection], used: set[type]) -> Callable[..., None]:
    """Return the `write_nowait` of *kind*, which adds *kind* to *used*."""
    write = kind.write_nowait

    def write_nowait(connection: Any, head: Head | None, body: bytes, *, more: bool) -> None:
        used.add(kind)
        write(connection, head, body, more=more)

    return write_nowait


@SERVERS
@pytest.mark.parametrize("text", ["", LISTED, ANY], ids=["off", "listed", "any"])
async def test_server_decides_which_connection_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: type[asyncio.Protocol], text: str
) -> None:
    """The server, not the CORS settings, decides which kind of connection a response is written to."""
    used: set[type] = set()
    for kind in (RequestCycle, AsgiConnection):
        monkeypatch.setattr(kind, "write_nowait", noting(kind, used))
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url, text), protocol=protocol) as served:
        await served.post(V1, HI, f"origin: {ORIGIN}")

    assert used == {RequestCycle if protocol is HttpProtocol else AsgiConnection}


@SERVERS
async def test_allowed_origin_gets_cors_headers(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """An allowed origin gets each CORS header once, also for refusals and unknown paths; other origins get none."""
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url, LISTED), protocol=protocol) as served:
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
async def test_star_allows_every_origin(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """With `*` every origin is allowed, without credentials."""
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url, ANY), protocol=protocol) as served:
        _, headers, _ = await served.post(V1, HI, "origin: http://anything.example")

    assert headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in headers


@SERVERS
async def test_preflight_of_an_allowed_origin_is_answered(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """A preflight is answered for configured origins only, and does not reach upstream."""
    async with upstream() as up, sidecar(settings_of(tmp_path, up.url, LISTED), protocol=protocol) as served:
        for path in ("/api/chat", V1, "/v1/models", "/healthz"):
            status, headers = await preflight(served, ORIGIN, path)
            assert (status, headers["access-control-allow-origin"]) == (204, ORIGIN)
            assert headers["access-control-allow-headers"] == "content-type"
            assert "POST" in headers["access-control-allow-methods"]
        status, headers = await preflight(served, "http://evil.example")

    assert (status, "access-control-allow-origin" in headers, len(up.requests)) == (400, False, 0)


async def test_preflight_without_cors_is_405(tmp_path: Path) -> None:
    """Without `cors_origins` a preflight is an unsupported method."""
    async with upstream() as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, headers = await preflight(served, ORIGIN)

    assert (status, "access-control-allow-origin" in headers) == (405, False)


async def test_cors_headers_belong_to_one_request(tmp_path: Path) -> None:
    """CORS headers of one request do not appear in the next response of the same connection."""
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url, LISTED)) as served:
        client = await Client.to(served.port)
        await client.post(V1, HI, f"origin: {ORIGIN}")
        _, first, _ = await client.answer()
        await client.post(V1, HI)
        _, second, body = await client.answer()
        client.close()

    assert (first["access-control-allow-origin"], "access-control-allow-origin" in second) == (ORIGIN, False)
    assert json.loads(body.split(b"\n")[0][6:])["choices"]


@SERVERS
async def test_preflight_has_the_id_of_its_record(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """The 204 of a preflight has no content-length (RFC 9110, 8.6), and the request id of its record."""
    async with upstream() as up, recorded(tmp_path, up, LISTED, protocol=protocol) as it:
        allowed, headers = await preflight(it.served, ORIGIN)
        record = await it.one()
        it.records.clear()
        denied, denied_headers = await preflight(it.served, "http://evil.example")
        denied_record = await it.one()

    assert (allowed, record.status, "content-length" in headers) == (204, 204, False)
    assert (denied, denied_record.status, denied_headers["content-length"]) == (400, 400, "0")
    assert record.request_id == headers["x-request-id"] != ""
    assert denied_record.request_id == denied_headers["x-request-id"] != ""


@SERVERS
async def test_web_pages_may_read_all_documented_headers(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """CORS exposes every header that docs/failures.md describes, apart from the challenge of a 401, and upstream's own."""
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url, LISTED), protocol=protocol) as served:
        _, headers, _ = await served.post(V1, HI, f"origin: {ORIGIN}")
        _, refused, _ = await served.post(V1, {}, f"origin: {ORIGIN}")

    exposed = [name.strip() for name in headers["access-control-expose-headers"].lower().split(",")]
    assert refused["access-control-expose-headers"] == headers["access-control-expose-headers"]
    assert {*documented_headers(), "x-upstream-request-id", "openai-processing-ms"} <= set(exposed)
    assert len(exposed) == len(set(exposed))


def documented_headers() -> set[str]:
    """Return the headers in the table of docs/failures.md; `x-a-b-c`, `-d-` stands for `x-a-d-c`."""
    found: set[str] = set()
    for names, _, _ in rows((ROOT / "docs" / "failures.md").read_text(), "| header | on | meaning |"):
        first, *others = (name.partition(":")[0].lower() for name in re.findall(r"`([^`]+)`", names))
        parts = first.split("-")
        found |= {
            first,
            *("-".join([*parts[:2], each.strip("-"), *parts[3:]]) if each[0] == "-" else each for each in others),
        }
    return found - {"www-authenticate"}
