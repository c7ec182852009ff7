"""Floods of unfinished, slow and refused requests on real sockets: bounded, answered, recorded."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from process import program
from recording import V1, recorded, says_ab
from scripts import hello, silent
from serving import settings_of, sidecar
from wire import TIMEOUT_SECONDS, Client, eventually, upstream

pytestmark = pytest.mark.anyio

KEY = "sk-sidecar-secret"
KEYS = "".join(
    f'[[key]]\ntenant = "{tenant}"\nsha256 = "{sha256(f"{KEY}-{tenant}".encode()).hexdigest()}"\n' for tenant in "ab"
)
HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
UPLOAD_BYTES = 2_000_000
OK = 200
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 1_000_000_000\n'


def post(path: str, length: int, *fields: str) -> bytes:
    """Return the head of a request whose body has *length* bytes."""
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json", f"content-length: {length}"]
    return "\r\n".join([*lines, *fields, "", ""]).encode()


async def answer_to(port: int, request: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Return the answer to *request* for a client that writes all of it before it reads, and that it closes."""
    client = await Client.to(port)
    client.writer.transport.set_write_buffer_limits(high=0)  # `drain` waits until all is sent
    client.writer.write(request)
    await client.writer.drain()
    status, headers, body = await client.answer()
    assert await asyncio.wait_for(client.reader.read(), TIMEOUT_SECONDS) == b""
    client.close()
    return status, headers, json.loads(body)


async def test_refusal_reaches_a_client_that_is_uploading(tmp_path: Path) -> None:
    """A client that sends all of a large body before it reads gets the refusal, not a reset, and the connection closes."""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, KEYS)) as served:
        for _ in range(10):
            for path, key, expected in [("/api/chat", f"{KEY}-a", 413), (V1, "wrong", 401), ("/v1/none", "wrong", 404)]:
                request = post(path, UPLOAD_BYTES, f"authorization: Bearer {key}") + bytes(UPLOAD_BYTES)
                status, headers, _ = await answer_to(served.port, request)
                assert (status, headers["connection"]) == (expected, "close")
        assert not up.requests


@pytest.mark.parametrize(("path", "expected"), [("/api/chat", 413), ("/v1/none", 404)])
async def test_refusal_instead_of_100_continue_closes(tmp_path: Path, path: str, expected: int) -> None:
    """A final answer sent before `100 Continue` closes the connection: the next bytes may be the body or a request."""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, headers, _ = await answer_to(served.port, post(path, UPLOAD_BYTES, "expect: 100-continue"))
        assert (status, headers["connection"]) == (expected, "close")
        client, body = await served.client(), json.dumps(HI).encode()
        client.writer.write(post(V1, len(body), "expect: 100-continue"))
        assert (await client.head())[0] == 100  # the other case: the body is read
        client.writer.write(body)
        status, headers, _ = await client.answer()
        assert (status, "connection" in headers) == (200, False)


async def test_slow_bodies_are_refused_and_recorded_once(tmp_path: Path) -> None:
    """Bodies of which one byte arrives are gone after `body_timeout`, with 408 and one record each."""
    count = 100
    async with upstream(says_ab) as up, recorded(tmp_path, up, "[server]\nbody_timeout = 0.3\n") as it:
        requests = [answer_to(it.served.port, post(V1, 100) + b"{") for _ in range(count)]
        answers = await asyncio.gather(*requests)
        await eventually(lambda: len(it.records) == count)

    assert {(status, body["error"]["code"]) for status, _, body in answers} == {(408, "request_timeout")}
    assert "server.body_timeout" in answers[0][2]["error"]["message"]
    assert {(each.status, each.code, each.ending, each.route) for each in it.records} == {
        (408, "request_timeout", "rejected", V1)
    }


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET / HTTP/1.1\r\nhost: localhost\r\na: " + b"x" * 70_000, (431, "head_too_large")),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", (414, "url_too_long")),
        (b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip, chunked\r\n\r\n", (400, "invalid_request")),
    ],
)
async def test_refusal_of_the_server_is_recorded(tmp_path: Path, request_: bytes, expected: tuple[int, str]) -> None:
    """A request that the server refuses by itself leaves one record, with its request id and address."""
    async with upstream(says_ab) as up, recorded(tmp_path, up) as it:
        status, headers, body = await answer_to(it.served.port, request_)
        record = await it.one()

    assert (status, body["error"]["code"]) == expected
    assert (record.status, record.code, record.ip) == (*expected, "127.0.0.1")
    assert record.request_id == headers["x-request-id"]


async def test_refusal_of_a_body_has_the_request_id_of_its_record(tmp_path: Path) -> None:
    """A refusal by the server has the client's request id, or a new one, and its record has the same id and code.

    Also where the route would refuse the request for another reason, or runs its call already.
    """
    chunked = "^host: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked"
    for head, rest, expected in [
        (f"POST {V1} HTTP/1.1\r\n{chunked}", b"zz\r\n", (400, "invalid_request")),
        (f"POST {V1} HTTP/1.1\r\n{chunked}\r\norigin: http://x.test", b"zz\r\n", (400, "invalid_request")),
        (f"POST {V1} HTTP/1.1\r\n{chunked}\r\nexpect: 100-continue", b"zz\r\n", (400, "invalid_request")),
        (f"POST /v1/none HTTP/1.1\r\n{chunked}", b"0\r\n" + b"a: b\r\n" * 200 + b"\r\n", (431, "head_too_large")),
        (f"GET /v1/models HTTP/1.1\r\n{chunked}", b"1\r\n", (408, "request_timeout")),
        (f"GET /v1/models HTTP/1.1\r\n{chunked}, chunked", b"", (400, "invalid_request")),
    ]:
        for own in ("", "x-request-id: mine\r\n"):
            async with (
                upstream(silent) as up,
                recorded(tmp_path, up, "[server]\nbody_timeout = 0.2\n") as it,
            ):
                status, headers, body = await answer_to(
                    it.served.port, f"{head.replace('^', own)}\r\n\r\n".encode() + rest
                )
                record = await it.one()
            assert (status, body["error"]["code"]) == expected
            assert (record.status, record.code) == expected
            assert record.request_id == headers["x-request-id"]
            assert (record.request_id == "mine") == bool(own)


async def test_long_form_of_a_length_is_served(tmp_path: Path) -> None:
    """A `Content-Length` with more leading zeros than `int` reads is read, and causes no internal error."""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        raw = json.dumps(HI).encode()
        for path, expected in [(V1, 200), ("/v1/none", 404)]:
            client = await served.client()
            length = "0" * 10_000 + str(len(raw))
            client.writer.write(
                f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n".encode()
            )
            client.writer.write(raw[:-1])
            await client.writer.drain()
            if expected == OK:  # the route reads the length only of a body that is not complete
                await eventually(lambda: served.gateway.buffered.total > 0)
            client.writer.write(raw[-1:])
            assert (await client.answer())[0] == expected


async def test_unread_bodies_are_bounded(tmp_path: Path) -> None:
    """Bodies that would exceed `max_buffered` get 503; those before them go on, and small ones are not affected."""
    size = 1_000_000
    async with (
        upstream(hello) as up,
        sidecar(settings_of(tmp_path, up.url, f"[server]\nmax_buffered = {size * 7 // 2}\n{BUDGET}")) as served,
    ):
        whole = json.dumps(HI | {"padding": "u" * size}).encode()
        waiting = [await served.client() for _ in range(3)]
        for client in waiting:
            client.writer.write(post(V1, len(whole)) + whole[:-100])
        await eventually(lambda: served.gateway.buffered.total > 2.5 * size)
        status, headers, body = await answer_to(served.port, post(V1, len(whole)) + whole)
        assert (status, body["error"]["code"], headers["retry-after"]) == (503, "overloaded", "1")
        assert "server.max_buffered" in body["error"]["message"]
        assert (await served.post(V1, HI))[0] == 200
        for client in waiting:
            client.writer.write(whole[-100:])
            assert (await client.answer())[0] == 200
        assert served.gateway.buffered.total == 0


async def test_one_tenant_cannot_fill_the_buffer(tmp_path: Path) -> None:
    """With several tenants, the unread bodies of one hold at most half of `max_buffered`; others are not affected."""
    size = 1_000_000
    text = f"[server]\nmax_buffered = {size * 3}\n{BUDGET}{KEYS}"
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        keys = {tenant: f"authorization: Bearer {KEY}-{tenant}" for tenant in "ab"}
        whole = json.dumps(HI | {"padding": "u" * size}).encode()
        first = await served.client()
        first.writer.write(post(V1, len(whole), keys["a"]) + whole[:-100])
        await eventually(lambda: served.gateway.buffered.total > 0.9 * size)
        for tenant, expected in [("a", 503), ("a", 503), ("b", 200)]:
            assert (await served.post(V1, whole, keys[tenant]))[0] == expected
        first.writer.write(whole[-100:])
        assert (await first.answer())[0] == 200


async def status_of_health(port: int) -> int:
    """Return the status of `/healthz` on a new connection; 0 where that is reset."""
    client = await Client.to(port)
    try:
        client.writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        return (await client.answer())[0]
    except (ConnectionError, asyncio.IncompleteReadError):
        return 0
    finally:
        client.close()


async def test_connections_beyond_the_limit_are_refused_and_logged(tmp_path: Path) -> None:
    """A connection beyond `max_connections` gets 503, and the log says so once; then there is room again."""
    (tmp_path / "s.toml").write_text('[server]\nmax_connections = 2\n[store]\nurl = "memory://"\n')
    log = tmp_path / "log"
    with program(
        "serve", "--config", "s.toml", "--upstream", "http://127.0.0.1:9/v1", "--port", "0", folder=tmp_path, log=log
    ) as it:
        kept = [await Client.to(it.port) for _ in range(2)]
        for client in kept:
            client.writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert (await client.answer())[0] == 200
        for _ in range(3):
            status, headers, body = await answer_to(it.port, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert (status, body["error"]["code"], headers["connection"]) == (503, "overloaded", "close")
        for client in kept:
            client.close()
        while await status_of_health(it.port) != 200:
            await asyncio.sleep(0)
    lines = [line for line in log.read_text().splitlines() if "subject=connections" in line]

    assert len(lines) == 1
    assert "state=full" in lines[0]
    assert "server.max_connections" in lines[0]
    assert log.read_text().count("code=overloaded") >= 3
