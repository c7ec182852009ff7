"""Configured connections to an upstream, through the whole sidecar: certificates, Unix sockets, proxies and transports."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from connecting import ProxyServer, server_tls, serving
from connection_settings import FACTORIES, pem_files, table
from importable_modules import folder_with_modules
from serving import settings_of, sidecar
from wire import Connection, Upstream, upstream

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


async def answers(connection: Connection) -> None:
    await connection.stream("fine")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a module of factories; imports from it are undone after the test."""
    return folder_with_modules(tmp_path, monkeypatch, {"factories": FACTORIES})


@pytest.mark.parametrize("kind", ["one file", "two files"])
async def test_client_certificate(tmp_path: Path, kind: str) -> None:
    """The upstream receives the certificate of `client_cert`, from one file with its key or from two files."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    named = pem_files(tmp_path, authority, kind)
    async with upstream(answers, tls=server_tls(authority, "127.0.0.1", clients=True)) as up:
        text = table(f"base_url = '{up.url}'", "ca = 'ca.pem'", f"client_cert = {named}")
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            status, _, body = await served.post(V1, HI)

    assert (status, b"fine" in body) == (200, True)


async def test_unix_socket(tmp_path: Path) -> None:
    """Calls use the Unix socket of `base_url`, relative to the file."""
    served_there = Upstream([answers])
    server = await asyncio.start_unix_server(served_there.serve, tmp_path / "e.sock")
    async with sidecar(settings_of(tmp_path, None, table("base_url = 'http+unix://e.sock/v1'"))) as served:
        status, _, body = await served.post(V1, HI)
    server.close()

    assert (status, b"fine" in body) == (200, True)
    assert served_there.requests[0].head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n")


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
async def test_proxy(tmp_path: Path, *, secure: bool) -> None:
    """Calls go through the configured proxy."""
    authority, proxy = trustme.CA(), ProxyServer()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls: ssl.SSLContext | None = server_tls(authority, "127.0.0.1") if secure else None
    async with upstream(answers, tls=tls) as up, serving(proxy) as port:
        more = ["ca = 'ca.pem'"] if secure else []
        text = table(f"base_url = '{up.url}'", f"proxy = 'http://127.0.0.1:{port}'", *more)
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            status, _, body = await served.post(V1, HI)

    assert (status, b"fine" in body, len(proxy.asked)) == (200, True, 1)


async def test_proxy_refuses(tmp_path: Path) -> None:
    """A refusal by the proxy is a connection failure: it costs nothing, and the client does not see the proxy's answer."""
    proxy = ProxyServer(b"HTTP/1.1 407 no\r\n\r\n")
    async with serving(proxy) as port:
        once = '[[policy]]\nuse = "budget"\ntokens = 1000000\n[[policy]]\nuse = "retry"\nattempts = 1\n'
        text = table("base_url = 'https://h.example/v1'", f"proxy = 'http://127.0.0.1:{port}'") + once
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            status, _, body = await served.post(V1, HI)
            account = await served.account()

    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream_unavailable")
    assert b"407" not in body
    assert (account.spent, account.reserved) == (0, 0)


@pytest.mark.parametrize("factory", ["make", "make_for"])
async def test_transport(folder: Path, factory: str) -> None:
    """Calls use the transport of the factory, which may take the upstream's settings; each process creates its own."""
    async with upstream(answers) as up:
        text = table(f"base_url = '{up.url}'", f"transport = 'factories:{factory}'")
        async with sidecar(settings_of(folder, None, text)) as served:
            for _ in range(2):
                status, _, body = await served.post(V1, HI)
                assert (status, b"fine" in body) == (200, True)
        assert up.open == 0
    assert len(sys.modules["factories"].requests) == len(up.requests) == 2
    assert sys.modules["factories"].calls == [up.url if factory == "make_for" else "make"] * 2
