"""The two ways out: straight into the connection, and through the `send` of any server; clients see no difference."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving import CHAT, events, settings_of, sidecar
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from wire import HEAD, PATIENCE, Client, Connection, eventually, sse, token, upstream

from sidecar.cycle import Cycle
from sidecar.outgoing import Head, OverASGI, Straight, outgoing
from sidecar.protocol import Protocol

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 40}
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 1_000_000_000\n'
WAYS = pytest.mark.parametrize("way", [Protocol, HttpToolsProtocol], ids=["straight", "over ASGI"])
FINISHED = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + b"data: [DONE]\n\n"


async def answers(connection: Connection) -> None:
    if connection.body.get("stream"):
        await connection.stream("a", "b")
    else:
        message = {"choices": [{"index": 0, "message": {"content": "ab"}, "finish_reason": "stop"}]}
        await connection.answer(200, json.dumps(message).encode())


async def mid_stream(connection: Connection) -> None:
    await connection.send(HEAD)
    await connection.chunk(token("a"))
    await connection.hang()


async def breaks(connection: Connection) -> None:
    await connection.send(HEAD)
    await connection.chunk(token("a"))
    await asyncio.sleep(0.01)
    connection.close()


@WAYS
async def test_answers(tmp_path: Path, way: type[asyncio.Protocol]) -> None:
    """Streams, plain answers and refusals are the same by both ways, one after the other on a kept connection."""
    async with (
        upstream(answers) as up,
        sidecar(settings_of(tmp_path, up.url, BUDGET), protocol=way) as served,
    ):
        client = await served.client()
        said = []
        for path, body in ((V1, HI), (V1, HI | {"stream": False}), ("/api/chat", CHAT), (V1, {}), ("/api/chat", {})):
            await client.post(path, body)
            status, headers, answer = await client.answer()
            said.append((status, headers["content-type"], "ratelimit" in headers, "connection" in headers))
            if path == "/api/chat" and status == 200:
                assert events(answer) == [("start", ""), ("token", '"a"'), ("token", '"b"'), ("done", "")]
            elif status == 200 and body["stream"]:
                assert answer.startswith(b'data: {"choices"')
                assert answer.endswith(FINISHED)

    assert said == [
        (200, "text/event-stream", True, False),
        (200, "application/json", True, False),
        (200, "text/event-stream", True, False),
        (400, "application/json", False, False),
        (400, "application/json", False, False),
    ]


@WAYS
@pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["FIN", "RST"])
async def test_leaving(tmp_path: Path, way: type[asyncio.Protocol], leave: Callable[[Client], None]) -> None:
    """A client's leaving is noticed by both ways, and pays what was read."""
    async with upstream(mid_stream) as up, sidecar(settings_of(tmp_path, up.url, BUDGET), protocol=way) as served:
        client = await served.client()
        await client.post(V1, HI)
        await client.until(b'"a"')
        leave(client)
        await asyncio.wait_for(up.requests[0].gone.wait(), PATIENCE)
        account = await served.account()

    assert (account.spent, account.reserved) == (6, 0)


@WAYS
async def test_a_cut_is_told(tmp_path: Path, way: type[asyncio.Protocol]) -> None:
    """A stream that breaks off ends with an error by both ways, and never as if it were complete."""
    async with upstream(breaks) as up, sidecar(settings_of(tmp_path, up.url, BUDGET), protocol=way) as served:
        _, _, body = await served.post("/api/chat", CHAT)

    assert [name for name, _ in events(body)] == ["start", "token", "error"]


@WAYS
async def test_pings(tmp_path: Path, way: type[asyncio.Protocol]) -> None:
    """Pings flow by both ways while upstream says nothing, and stop when the client has left."""
    text = "[server]\nheartbeat = 0.02\n" + BUDGET
    async with upstream(mid_stream) as up, sidecar(settings_of(tmp_path, up.url, text), protocol=way) as served:
        client = await served.client()
        await client.post("/api/chat", CHAT)
        for _ in range(2):
            await client.until(b"event: ping\ndata: \n\n")
        client.close()
        await eventually(lambda: len(served.gateway.live) == 0)


@WAYS
async def test_slow_reader(tmp_path: Path, way: type[asyncio.Protocol]) -> None:
    """Whoever does not read stops upstream, and gets every byte when it reads on; nobody else is held up."""
    count, piece = 400, "x" * 65_536
    sent = 0

    async def pours(connection: Connection) -> None:
        nonlocal sent
        await connection.send(HEAD)
        for _ in range(count):
            await connection.chunk(token(piece))
            sent += 1
        await connection.chunk(FINISHED)
        await connection.send(b"0\r\n\r\n")

    async with upstream(pours, answers) as up, sidecar(settings_of(tmp_path, up.url, BUDGET), protocol=way) as served:
        client = await served.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.post(V1, HI)
        await _still(lambda: sent)
        stopped = sent
        status, _, _ = await served.post(V1, HI)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        _, _, body = await client.answer()

    assert (status, 0 < stopped < count) == (200, True)
    assert body.count(piece.encode()) == count
    assert body.endswith(FINISHED)


async def _still(counted: Callable[[], int]) -> None:
    seen = turns = 0
    while turns < 2000:
        now = counted()
        seen, turns = now, turns + 1 if now and now == seen else 0
        await asyncio.sleep(0)


async def test_ways() -> None:
    """The short way is taken where the server has one, and nowhere else."""

    async def send(message: object) -> None:
        pass

    cycle = Cycle.__new__(Cycle)

    assert outgoing(cycle.send) is cycle
    assert isinstance(outgoing(send), OverASGI)
    assert issubclass(Cycle, Straight)


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: x", b"a\nb", b"a\rb"])
async def test_no_second_line(value: bytes) -> None:
    """No header can bring another one along, whoever made its value."""
    cycle = Cycle.__new__(Cycle)
    cycle.keep_alive, cycle.default_headers = True, []
    cycle.scope = {"http_version": "1.1"}  # type: ignore[typeddict-item]
    cycle.disconnected = False
    with pytest.raises(ValueError, match="more than one line"):
        cycle.put(Head(200, [(b"x-request-id", value)]), b"", more=True)
