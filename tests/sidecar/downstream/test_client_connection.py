"""The two client connections, the server's own and the adapter over ASGI: clients see no difference."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from serving import CHAT, Sidecar, events, settings_of, sidecar
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from wire import HEAD, TIMEOUT_SECONDS, Client, Connection, Upstream, eventually, sse, token, upstream

from policies import Call, Event, Lease, Outcome, Policy, Rejection, Stop
from sidecar.downstream.client_connection import Head
from sidecar.server.http_protocol import HttpProtocol
from sidecar.server.request_cycle import RequestCycle

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 40}
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 1_000_000_000\n'
WAYS = pytest.mark.parametrize("way", [HttpProtocol, HttpToolsProtocol], ids=["direct", "over ASGI"])
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
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)
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
        await eventually(lambda: len(served.gateway.active_calls) == 0)


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


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: x", b"a\nb", b"a\rb"])
async def test_no_second_line(value: bytes) -> None:
    """No header can bring another one along, whoever made its value."""
    cycle = RequestCycle.__new__(RequestCycle)
    cycle.keep_alive, cycle.default_headers = True, []
    cycle.scope = {"http_version": "1.1"}  # type: ignore[typeddict-item]
    cycle.disconnected = False
    with pytest.raises(ValueError, match="more than one line"):
        cycle.write_nowait(Head(200, [(b"x-request-id", value)]), b"", more=True)


class Stops(Policy, frozen=True):
    """Ends an answer at the letter b, and raises what no policy should at the letter c."""

    async def admit(self, call: Call) -> Lease:
        return Stopping()


class Stopping(Lease):
    def on_event(self, event: Event) -> Event | None:
        if event.text == "b":
            raise Stop
        return next(iter([])) if event.text == "c" else event


@asynccontextmanager
async def stopping(folder: Path, up: Upstream, way: type[asyncio.Protocol]) -> AsyncIterator[Sidecar]:
    settings = settings_of(folder, up.url, BUDGET)
    base = msgspec.structs.replace(settings.base, policies=(*settings.base.policies, Stops(name="stops")))
    async with sidecar(msgspec.structs.replace(settings, base=base), protocol=way) as served:
        yield served


@WAYS
@pytest.mark.parametrize("before", [b"", token("a")], ids=["first", "later"])
async def test_stopped_beside_an_error(tmp_path: Path, way: type[asyncio.Protocol], before: bytes) -> None:
    """What a policy has ended has ended well, also where upstream fails in the same read; it is not tried again."""

    async def fails(connection: Connection) -> None:
        await connection.send(HEAD)
        if before:
            await connection.chunk(before)
        await connection.chunk(token("a") + token("b") + sse({"error": {"message": "no"}}))
        await connection.hang()

    async with upstream(fails) as up, stopping(tmp_path, up, way) as served:
        status, _, body = await served.post(V1, HI)

    assert (status, len(up.requests)) == (200, 1)
    assert b"content_filter" in body
    assert b'"error"' not in body


@WAYS
async def test_a_policy_that_breaks(tmp_path: Path, way: type[asyncio.Protocol]) -> None:
    """Whatever a policy raises is our own failure, told as one, and not upstream's."""
    shown = asyncio.Event()

    async def says(connection: Connection) -> None:
        await connection.send(HEAD)
        await connection.chunk(token("a"))
        await shown.wait()
        await connection.chunk(token("c"))
        await connection.hang()

    async with upstream(says) as up, stopping(tmp_path, up, way) as served:
        client = await served.client()
        await client.post(V1, HI)
        await client.until(b'"a"')
        shown.set()
        said = await client.until(b"[DONE]")
        account = await served.account()

    assert (b"internal_error" in said, len(up.requests), account.reserved) == (True, 1, 0)


class Refuses(Policy, frozen=True):
    """Takes a lease, then refuses."""

    async def admit(self, call: Call) -> Lease | None:
        raise Rejection(403, "no", "no")


class Holds(Policy, frozen=True):
    """Counts the leases that are open."""

    async def admit(self, call: Call) -> Lease:
        OPEN.append(call.id)
        return Held(call.id)


class Held(Lease):
    def __init__(self, name: str) -> None:
        self.name = name

    async def settle(self, outcome: Outcome) -> None:
        await asyncio.sleep(0)
        OPEN.remove(self.name)


OPEN: list[str] = []


@WAYS
async def test_left_while_it_was_read(tmp_path: Path, way: type[asyncio.Protocol]) -> None:
    """A client that leaves while its large body is read leaves nothing open, whatever its policies make of it."""
    OPEN.clear()
    raw = json.dumps(HI | {"messages": [{"role": "user", "content": "x" * 600_000}]}).encode()
    head = f"POST {V1} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    async with upstream(answers) as up:
        settings = settings_of(tmp_path, up.url)
        base = msgspec.structs.replace(settings.base, policies=(Holds(name="a"), Holds(name="b"), Refuses(name="c")))
        async with sidecar(msgspec.structs.replace(settings, base=base), protocol=way) as served:
            for turns in range(24):
                client = await Client.to(served.port)
                client.writer.write(head.encode() + raw[:-10])
                await client.writer.drain()
                await _still(lambda: 1)
                client.writer.write(raw[-10:])
                for _ in range(turns):
                    await asyncio.sleep(0)
                client.reset() if turns % 2 else client.close()
            await eventually(lambda: len(served.gateway.active_calls) == 0 and not OPEN)
