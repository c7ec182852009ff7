"""Unusual HTTP clients: pipelined requests, half-closed connections, HTTP/1.0, Upgrade and CONNECT."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from scripts import answers, mid_stream, silent, whole_answer
from serving import CHAT, events, settings_of, sidecar
from wire import HEAD, TIMEOUT_SECONDS, Client, Connection, Script, eventually, token, until_unchanged, upstream

from sidecar.server.http1.http_limits import MAX_SURPLUS_BYTES

pytestmark = pytest.mark.anyio

HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 40}
COMPLETIONS = "/v1/chat/completions"
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 1_000_000_000\n'


async def broken_status(connection: Connection) -> None:
    await connection.answer(600, b'{"error": {"message": "no"}}')


def half_close(client: Client) -> None:
    client.writer.write_eof()


def request(body: object, path: str = COMPLETIONS, version: str = "1.1") -> bytes:
    """Return the bytes of a request."""
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/{version}\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    return head.encode() + raw


async def rest_of(client: Client) -> bytes:
    """Return all bytes until the connection closes."""
    return await asyncio.wait_for(client.reader.read(), TIMEOUT_SECONDS)


@pytest.mark.parametrize("leave", [Client.close, Client.reset, half_close], ids=["FIN", "RST", "half"])
@pytest.mark.parametrize("script", [silent, mid_stream], ids=["before the head", "mid-stream"])
@pytest.mark.parametrize("at_once", [True, False], ids=["in one piece", "later"])
async def test_disconnect_is_seen_behind_pipelined_requests(
    tmp_path: Path,
    script: Script,
    leave: Callable[[Client], None],
    *,
    at_once: bool,
) -> None:
    """A disconnect cancels the running call, also behind pipelined requests."""
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        client = await served.client()
        client.writer.write(request(HI) * (2 if at_once else 1))
        await asyncio.wait_for(up.arrived.wait(), TIMEOUT_SECONDS)
        if script is mid_stream:
            await client.until(b'"a"')
        if not at_once:
            client.writer.write(request(HI) * 3)
            await client.writer.drain()
        leave(client)
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)
        account = await served.account()

    assert (len(up.requests), account.reserved) == (1, 0)


@pytest.mark.parametrize("body", [HI, HI | {"stream": False}], ids=["stream", "plain"])
async def test_pipelined_request_is_not_run(tmp_path: Path, body: dict[str, object]) -> None:
    """A pipelined request is not run; the response before it is complete, and closes the connection."""
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.writer.write(request(body) + request(body) + b"GET nonsense\r\n\r\n")
        status, headers, answer = await client.answer()
        rest = await rest_of(client)

    assert (status, headers["connection"], rest, len(up.requests)) == (200, "close", b"", 1)
    assert b"b" in answer


async def test_pipelined_bytes_are_bounded(tmp_path: Path) -> None:
    """Bytes behind a running request are discarded, and a client that sends too many is disconnected."""
    async with upstream(mid_stream) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        client = await served.client()
        client.writer.write(request(HI) * 2)
        await client.until(b'"a"')
        sent = 0
        with pytest.raises(ConnectionError):
            while True:
                client.writer.write(b"x" * 65_536)
                await client.writer.drain()
                sent += 65_536
        account = await served.account()

    assert sent >= MAX_SURPLUS_BYTES
    assert account.reserved == 0


async def test_requests_share_a_connection(tmp_path: Path) -> None:
    """Consecutive requests share a connection, also with an empty line between them."""
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        for _ in range(3):
            client.writer.write(request(HI) + b"\r\n")
            status, headers, body = await client.answer()
            assert (status, "connection" in headers) == (200, False)
            assert body.endswith(b"data: [DONE]\n\n")

    assert len(up.requests) == 3


@pytest.mark.parametrize(("path", "body"), [("/api/chat", CHAT), (COMPLETIONS, HI)], ids=["chat", "openai"])
async def test_half_close_of_a_client_that_never_read_is_a_disconnect(tmp_path: Path, path: str, body: object) -> None:
    """A client that closes its side has disconnected, also if it never read its response."""
    sent = 0

    async def flood(connection: Connection) -> None:
        nonlocal sent
        await connection.send(HEAD)
        while True:
            await connection.chunk(token("x" * 16_384))
            sent += 1

    async with upstream(flood) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)  # asyncio requires it
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, ("127.0.0.1", served.port))
        await loop.sock_sendall(raw, request(body, path))
        await until_unchanged(lambda: sent)
        raw.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)
        account = await served.account()
        raw.close()

    assert account.reserved == 0


async def test_complete_response_survives_a_half_close(tmp_path: Path) -> None:
    """A complete response reaches a client that closes its side before it reads."""
    text = "x" * 3_000_000

    async def long(connection: Connection) -> None:
        await connection.answer(200, whole_answer(text))

    async with upstream(long) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.pause_reading()
        client.writer.write(request(HI | {"stream": False}))
        await eventually(lambda: bool(up.requests) and len(served.gateway.active_calls) == 0)
        client.writer.write_eof()
        client.resume_reading()
        _, _, body = await client.answer()

    assert json.loads(body)["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize(("path", "body"), [("/api/chat", CHAT), (COMPLETIONS, HI)], ids=["chat", "openai"])
async def test_http_1_0_stream_ends_with_its_connection(tmp_path: Path, path: str, body: object) -> None:
    """A stream to an HTTP/1.0 client has no chunked encoding: it ends with the connection."""
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.writer.write(request(body, path, "1.0"))
        status, headers = await client.head()
        answer = await rest_of(client)

    assert (status, headers["connection"]) == (200, "close")
    assert not {"transfer-encoding", "content-length"} & headers.keys()
    if path == COMPLETIONS:
        assert answer.startswith(b"data: {")
        assert answer.endswith(b"data: [DONE]\n\n")
    else:
        assert events(answer) == [("start", ""), ("token", '"a"'), ("token", '"b"'), ("done", "")]


async def test_http_1_0_response_keeps_its_length(tmp_path: Path) -> None:
    """A response with a length keeps it for an HTTP/1.0 client."""
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.writer.write(request({}, version="1.0"))
        status, headers, body = await client.answer()
        rest = await rest_of(client)

    assert (status, headers["connection"], rest) == (400, "close", b"")
    assert json.loads(body)["error"]["code"] == "invalid_request"


@pytest.mark.parametrize(("path", "body"), [("/api/chat", CHAT), (COMPLETIONS, HI)], ids=["chat", "openai"])
async def test_invalid_upstream_status_is_an_upstream_error(tmp_path: Path, path: str, body: object) -> None:
    """A status of upstream outside 100 to 599 is an upstream error."""
    async with upstream(broken_status) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        status, _, answer = await served.post(path, body)

    assert status == (200 if path == "/api/chat" else 502)
    assert b"upstream_error" in answer


@pytest.mark.parametrize("path", [COMPLETIONS, "/api/chat", "/v1/models", "/healthz"])
async def test_head_response_has_no_body(tmp_path: Path, path: str) -> None:
    """A response to HEAD has no body: the next response follows its head."""
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.writer.write(f"HEAD {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        status, headers = await client.head()
        client.writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        next_status, _, body = await client.answer()

    assert (status, int(headers["content-length"]) > 0) == (200 if path == "/healthz" else 405, True)
    assert (next_status, body) == (200, b'{"status":"ok"}')


@pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["FIN", "RST"])
async def test_disconnect_is_seen_behind_an_unread_body(tmp_path: Path, leave: Callable[[Client], None]) -> None:
    """A disconnect is detected behind a request body that the route does not read."""
    async with upstream(silent) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.writer.write(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\ncontent-length: 300000\r\n\r\n")
        await asyncio.wait_for(up.arrived.wait(), TIMEOUT_SECONDS)
        client.writer.write(b"x" * 300_000)
        await client.writer.drain()
        leave(client)
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)


@pytest.mark.parametrize("at_once", [True, False], ids=["in one piece", "later"])
@pytest.mark.parametrize("offer", ["h2c", "websocket"])
async def test_upgrade_offer_is_ignored(tmp_path: Path, offer: str, *, at_once: bool) -> None:
    """A request that offers an upgrade, as Java's client does, is served over HTTP/1.1, with its body."""
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        head, body = request(HI).split(b"\r\n\r\n")
        head += b"\r\nconnection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAEAAEAA\r\nupgrade: %b" % offer.encode()
        for _ in range(2):
            client.writer.write(head + b"\r\n\r\n" + (body if at_once else b""))
            if not at_once:
                await client.writer.drain()
                client.writer.write(body)
            status, _, answer = await client.answer()
            assert (status, answer.endswith(b"data: [DONE]\n\n")) == (200, True)

    assert len(up.requests) == 2


async def test_connect_is_refused(tmp_path: Path) -> None:
    """CONNECT is refused with a 4xx: the server is no proxy."""
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.writer.write(b"CONNECT x:443 HTTP/1.1\r\nhost: localhost:443\r\n\r\n")
        status, _ = await client.head()

    assert status in (400, 404, 405)
