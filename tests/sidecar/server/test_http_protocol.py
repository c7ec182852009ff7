"""HTTP as odd clients speak it: requests behind requests, halves of connections, HTTP/1.0."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import CHAT, events, settings_of, sidecar
from wire import HEAD, PATIENCE, Client, Connection, Script, eventually, token, upstream

from sidecar.server.http_protocol import MAX_SURPLUS_BYTES

pytestmark = pytest.mark.anyio

HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 40}
COMPLETIONS = "/v1/chat/completions"
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 1_000_000_000\n'


async def silent(connection: Connection) -> None:
    await connection.hang()


async def mid_stream(connection: Connection) -> None:
    await connection.send(HEAD)
    await connection.chunk(token("a"))
    await connection.hang()


async def whole(connection: Connection) -> None:
    await connection.stream("a", "b")


async def broken_status(connection: Connection) -> None:
    await connection.answer(600, b'{"error": {"message": "no"}}')


def half_close(client: Client) -> None:
    client.writer.write_eof()


def request(body: object, path: str = COMPLETIONS, version: str = "1.1") -> bytes:
    raw = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/{version}\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


async def to_the_end(client: Client) -> bytes:
    return await asyncio.wait_for(client.reader.read(), PATIENCE)


@pytest.mark.parametrize("leave", [Client.close, Client.reset, half_close], ids=["FIN", "RST", "half"])
@pytest.mark.parametrize("script", [silent, mid_stream], ids=["before the head", "mid-stream"])
@pytest.mark.parametrize("at_once", [True, False], ids=["in one piece", "later"])
async def test_pipelined_client_leaves(
    tmp_path: Path,
    script: Script,
    leave: Callable[[Client], None],
    *,
    at_once: bool,
) -> None:
    """A second request behind a running one does not hide that the client leaves."""
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        client = await served.client()
        client.writer.write(request(HI) * (2 if at_once else 1))
        await asyncio.wait_for(up.arrived.wait(), PATIENCE)
        if script is mid_stream:
            await client.until(b'"a"')
        if not at_once:
            client.writer.write(request(HI) * 3)
            await client.writer.drain()
        leave(client)
        await asyncio.wait_for(up.requests[0].gone.wait(), PATIENCE)
        account = await served.account()

    assert (len(up.requests), account.reserved) == (1, 0)


@pytest.mark.parametrize("body", [HI, HI | {"stream": False}], ids=["stream", "plain"])
async def test_pipelined_is_the_last(tmp_path: Path, body: dict[str, object]) -> None:
    """A request behind a running one is not run; the running answer is whole, and says that it is the last."""

    async def answers(connection: Connection) -> None:
        if connection.body["stream"]:
            await connection.stream("a", "b")
        else:
            message = {"choices": [{"index": 0, "message": {"content": "ab"}, "finish_reason": "stop"}]}
            await connection.answer(200, json.dumps(message).encode())

    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.writer.write(request(body) + request(body) + b"GET nonsense\r\n\r\n")
        status, headers, said = await client.answer()
        rest = await to_the_end(client)

    assert (status, headers["connection"], rest, len(up.requests)) == (200, "close", b"", 1)
    assert b"b" in said


async def test_surplus_is_bounded(tmp_path: Path) -> None:
    """What comes behind a running request is thrown away, and whoever sends without end is cut off."""
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


async def test_kept_alive(tmp_path: Path) -> None:
    """Requests one after the other share a connection, also where an empty line is between them."""
    async with upstream(whole) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        for _ in range(3):
            client.writer.write(request(HI) + b"\r\n")
            status, headers, body = await client.answer()
            assert (status, "connection" in headers) == (200, False)
            assert body.endswith(b"data: [DONE]\n\n")

    assert len(up.requests) == 3


@pytest.mark.parametrize(("path", "body"), [("/api/chat", CHAT), (COMPLETIONS, HI)], ids=["chat", "openai"])
async def test_half_closed_and_full(tmp_path: Path, path: str, body: object) -> None:
    """A client that closes its side and never read is gone, whatever is still to be sent to it."""
    sent = 0

    async def pours(connection: Connection) -> None:
        nonlocal sent
        await connection.send(HEAD)
        while True:
            await connection.chunk(token("x" * 16_384))
            sent += 1

    async with upstream(pours) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)  # the library's own
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, ("127.0.0.1", served.port))
        await loop.sock_sendall(raw, request(body, path))
        await eventually(lambda: bool(sent))
        seen = turns = 0
        while turns < 5000:
            seen, turns = sent, turns + 1 if seen == sent else 0
            await asyncio.sleep(0)
        raw.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(up.requests[0].gone.wait(), PATIENCE)
        account = await served.account()
        raw.close()

    assert account.reserved == 0


async def test_half_closed_after_its_answer(tmp_path: Path) -> None:
    """An answer that is complete reaches a client that closes its side and reads it only then."""
    text = "x" * 3_000_000

    async def long(connection: Connection) -> None:
        message = {"choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}]}
        await connection.answer(200, json.dumps(message).encode())

    async with upstream(long) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(request(HI | {"stream": False}))
        await eventually(lambda: bool(up.requests) and len(served.gateway.active_calls) == 0)
        client.writer.write_eof()
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        _, _, body = await client.answer()

    assert json.loads(body)["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize(("path", "body"), [("/api/chat", CHAT), (COMPLETIONS, HI)], ids=["chat", "openai"])
async def test_http_1_0_stream(tmp_path: Path, path: str, body: object) -> None:
    """HTTP/1.0 knows no chunks: its stream ends where the connection does, behind the event that ends it."""
    async with upstream(whole) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.writer.write(request(body, path, "1.0"))
        status, headers = await client.head()
        said = await to_the_end(client)

    assert (status, headers["connection"]) == (200, "close")
    assert not {"transfer-encoding", "content-length"} & headers.keys()
    if path == COMPLETIONS:
        assert said.startswith(b"data: {")
        assert said.endswith(b"data: [DONE]\n\n")
    else:
        assert events(said) == [("start", ""), ("token", '"a"'), ("token", '"b"'), ("done", "")]


async def test_http_1_0_plain(tmp_path: Path) -> None:
    """What has a length keeps it."""
    async with upstream(whole) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.writer.write(request({}, version="1.0"))
        status, headers, body = await client.answer()
        rest = await to_the_end(client)

    assert (status, headers["connection"], rest) == (400, "close", b"")
    assert json.loads(body)["error"]["code"] == "invalid_request"


@pytest.mark.parametrize(("path", "body"), [("/api/chat", CHAT), (COMPLETIONS, HI)], ids=["chat", "openai"])
async def test_status_beyond_http(tmp_path: Path, path: str, body: object) -> None:
    """A status that HTTP does not know is a failure like any other."""
    async with upstream(broken_status) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        status, _, said = await served.post(path, body)

    assert status == (200 if path == "/api/chat" else 502)
    assert b"upstream_error" in said


@pytest.mark.parametrize("path", [COMPLETIONS, "/api/chat", "/v1/models", "/healthz"])
async def test_head(tmp_path: Path, path: str) -> None:
    """HEAD is answered without a body, so that the next answer begins where its client expects it."""
    async with upstream(whole) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.writer.write(f"HEAD {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        status, headers = await client.head()
        client.writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        next_status, _, body = await client.answer()

    assert (status, int(headers["content-length"]) > 0) == (405, True)
    assert (next_status, body) == (200, b'{"status":"ok"}')


@pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["FIN", "RST"])
async def test_a_body_nobody_asked_for(tmp_path: Path, leave: Callable[[Client], None]) -> None:
    """A client that leaves is heard behind a body that nobody reads."""
    async with upstream(silent) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n")
        await asyncio.wait_for(up.arrived.wait(), PATIENCE)
        client.writer.write(b"x" * 300_000)
        await client.writer.drain()
        leave(client)
        await asyncio.wait_for(up.requests[0].gone.wait(), PATIENCE)


@pytest.mark.parametrize("at_once", [True, False], ids=["in one piece", "later"])
@pytest.mark.parametrize("offer", ["h2c", "websocket"])
async def test_an_offer_to_speak_otherwise(tmp_path: Path, offer: str, *, at_once: bool) -> None:
    """A request that offers another protocol, as Java's client does, is served in this one, with its body."""
    async with upstream(whole) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        head, body = request(HI).split(b"\r\n\r\n")
        head += b"\r\nconnection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAEAAEAA\r\nupgrade: %b" % offer.encode()
        for _ in range(2):
            client.writer.write(head + b"\r\n\r\n" + (body if at_once else b""))
            if not at_once:
                await client.writer.drain()
                client.writer.write(body)
            status, _, said = await client.answer()
            assert (status, said.endswith(b"data: [DONE]\n\n")) == (200, True)

    assert len(up.requests) == 2


async def test_connect(tmp_path: Path) -> None:
    """Whoever takes us for a tunnel is told that this is none."""
    async with upstream(whole) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.writer.write(b"CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\n\r\n")
        status, _ = await client.head()

    assert status in (400, 404, 405)
