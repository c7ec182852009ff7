"""The two kinds of client connection, the server's own and the adapter over ASGI: clients see no difference."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from scripts import answers, mid_stream, truncated
from serving import CHAT, Sidecar, events, settings_of, sidecar, with_policies
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from wire import HEAD, TIMEOUT_SECONDS, Client, Connection, Upstream, eventually, sse, token, until_unchanged, upstream

from policies import Call, Event, Lease, Outcome, Policy, Rejection, Stop
from sidecar.server.http1.http_protocol import HttpProtocol

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 40}
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 1_000_000_000\n'
KINDS = pytest.mark.parametrize("kind", [HttpProtocol, HttpToolsProtocol], ids=["direct", "over ASGI"])
FINISHED = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + b"data: [DONE]\n\n"


@KINDS
async def test_responses_are_the_same(tmp_path: Path, kind: type[asyncio.Protocol]) -> None:
    """Streams, plain answers and refusals are the same with both kinds, one after the other on one connection."""
    async with (
        upstream(answers) as up,
        sidecar(settings_of(tmp_path, up.url, BUDGET), protocol=kind) as served,
    ):
        client = await served.client()
        responses = []
        for path, body in ((V1, HI), (V1, HI | {"stream": False}), ("/api/chat", CHAT), (V1, {}), ("/api/chat", {})):
            await client.post(path, body)
            status, headers, answer = await client.answer()
            responses.append(
                (status, headers["content-type"], "x-ratelimit-limit-tokens" in headers, "connection" in headers)
            )
            if path == "/api/chat" and status == 200:
                assert events(answer) == [("start", ""), ("token", '"a"'), ("token", '"b"'), ("done", "")]
            elif status == 200 and body["stream"]:
                assert answer.startswith(b'data: {"choices"')
                assert answer.endswith(FINISHED)

    assert responses == [
        (200, "text/event-stream", True, False),
        (200, "application/json", True, False),
        (200, "text/event-stream", True, False),
        (400, "application/json", False, False),
        (400, "application/json", False, False),
    ]


@KINDS
@pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["FIN", "RST"])
async def test_disconnect_is_detected(
    tmp_path: Path, kind: type[asyncio.Protocol], leave: Callable[[Client], None]
) -> None:
    """Both kinds detect a disconnect; the call is charged what was read."""
    async with upstream(mid_stream) as up, sidecar(settings_of(tmp_path, up.url, BUDGET), protocol=kind) as served:
        client = await served.client()
        await client.post(V1, HI)
        await client.until(b'"a"')
        leave(client)
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)
        account = await served.account()

    assert (account.spent, account.reserved) == (6, 0)


@KINDS
async def test_truncated_stream_ends_with_an_error(tmp_path: Path, kind: type[asyncio.Protocol]) -> None:
    """A truncated stream ends with an error event with both kinds."""
    async with upstream(truncated) as up, sidecar(settings_of(tmp_path, up.url, BUDGET), protocol=kind) as served:
        _, _, body = await served.post("/api/chat", CHAT)

    assert [name for name, _ in events(body)] == ["start", "token", "error"]


@KINDS
async def test_pings_end_with_a_disconnect(tmp_path: Path, kind: type[asyncio.Protocol]) -> None:
    """Both kinds send pings while upstream is silent, until the client disconnects."""
    text = "[server]\nheartbeat = 0.02\n" + BUDGET
    async with upstream(mid_stream) as up, sidecar(settings_of(tmp_path, up.url, text), protocol=kind) as served:
        client = await served.client()
        await client.post("/api/chat", CHAT)
        for _ in range(2):
            await client.until(b"event: ping\ndata: \n\n")
        client.close()
        await eventually(lambda: len(served.gateway.active_calls) == 0)


@KINDS
async def test_slow_client_slows_only_its_own_upstream(tmp_path: Path, kind: type[asyncio.Protocol]) -> None:
    """A client that does not read stops its upstream, and receives every byte later; other calls are not delayed."""
    count, piece = 400, "x" * 65_536
    sent = 0

    async def flood(connection: Connection) -> None:
        nonlocal sent
        await connection.send(HEAD)
        for _ in range(count):
            await connection.chunk(token(piece))
            sent += 1
        await connection.chunk(FINISHED)
        await connection.send(b"0\r\n\r\n")

    async with upstream(flood, answers) as up, sidecar(settings_of(tmp_path, up.url, BUDGET), protocol=kind) as served:
        client = await served.client()
        client.pause_reading()
        await client.post(V1, HI)
        stopped = await until_unchanged(lambda: sent)
        status, _, _ = await served.post(V1, HI)
        client.resume_reading()
        _, _, body = await client.answer()

    assert (status, 0 < stopped < count) == (200, True)
    assert body.count(piece.encode()) == count
    assert body.endswith(FINISHED)


class Stops(Policy, frozen=True):
    """Stops an answer at the letter b, and raises StopIteration at the letter c."""

    async def admit(self, call: Call) -> Lease:
        return Stopping()


class Stopping(Lease):
    def on_event(self, event: Event) -> Event | None:
        if event.text == "b":
            raise Stop
        return next(iter([])) if event.text == "c" else event


@asynccontextmanager
async def stopping(folder: Path, up: Upstream, kind: type[asyncio.Protocol]) -> AsyncIterator[Sidecar]:
    """Run a sidecar with the policy `Stops`."""
    settings = with_policies(settings_of(folder, up.url, BUDGET), Stops(name="stops"))
    async with sidecar(settings, protocol=kind) as served:
        yield served


@KINDS
@pytest.mark.parametrize("before", [b"", token("a")], ids=["first", "later"])
async def test_stop_wins_over_an_upstream_error_behind_it(
    tmp_path: Path, kind: type[asyncio.Protocol], before: bytes
) -> None:
    """An answer that a policy stops is complete, also if upstream fails in the same read; it is not tried again."""

    async def fails(connection: Connection) -> None:
        await connection.send(HEAD)
        if before:
            await connection.chunk(before)
        await connection.chunk(token("a") + token("b") + sse({"error": {"message": "no"}}))
        await connection.hang()

    async with upstream(fails) as up, stopping(tmp_path, up, kind) as served:
        status, _, body = await served.post(V1, HI)

    assert (status, len(up.requests)) == (200, 1)
    assert b"content_filter" in body
    assert b'"error"' not in body


@KINDS
@pytest.mark.parametrize("late", [False, True], ids=["with the head", "later"])
async def test_failing_policy_is_an_internal_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: type[asyncio.Protocol], *, late: bool
) -> None:
    """An exception of a policy is reported as an internal error, not as one of upstream; the log names its function."""
    shown = asyncio.Event()

    async def pauses(connection: Connection) -> None:
        if late:
            await connection.send(HEAD)
            await connection.chunk(token("a"))
            await shown.wait()
            await connection.chunk(token("c"))
        else:
            events = token("c")
            await connection.send(HEAD + b"%x\r\n%b\r\n" % (len(events), events))
        await connection.hang()

    async with upstream(pauses) as up, stopping(tmp_path, up, kind) as served:
        client = await served.client()
        await client.post(V1, HI)
        if late:
            await client.until(b'"a"')
            shown.set()
        answer = await client.until(b"internal_error")
        account = await served.account()

    assert (b"internal_error" in answer, len(up.requests), account.reserved) == (True, 1, 0)
    assert "on_event" in caplog.text


class Refuses(Policy, frozen=True):
    """Refuses every call."""

    async def admit(self, call: Call) -> Lease | None:
        raise Rejection(403, "no", "no")


class Holds(Policy, frozen=True):
    """Counts the leases that are open."""

    async def admit(self, call: Call) -> Lease:
        OPEN_LEASES.append(call.id)
        return Held(call.id)


class Held(Lease):
    def __init__(self, name: str) -> None:
        self.name = name

    async def settle(self, outcome: Outcome) -> None:
        await asyncio.sleep(0)
        OPEN_LEASES.remove(self.name)


OPEN_LEASES: list[str] = []


@KINDS
async def test_disconnect_while_the_body_is_parsed_leaves_no_lease(
    tmp_path: Path, kind: type[asyncio.Protocol]
) -> None:
    """A client that disconnects while its large body is read and refused leaves no lease open."""
    OPEN_LEASES.clear()
    raw = json.dumps(HI | {"messages": [{"role": "user", "content": "x" * 600_000}]}).encode()
    head = (
        f"POST {V1} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    )
    async with upstream(answers) as up:
        settings = with_policies(
            settings_of(tmp_path, up.url), Holds(name="a"), Holds(name="b"), Refuses(name="c"), alone=True
        )
        async with sidecar(settings, protocol=kind) as served:
            for iterations in range(24):
                client = await Client.to(served.port)
                client.writer.write(head.encode() + raw[:-10])
                await client.writer.drain()
                await until_unchanged(lambda: 1)  # the sidecar has read it
                client.writer.write(raw[-10:])
                for _ in range(iterations):
                    await asyncio.sleep(0)
                client.reset() if iterations % 2 else client.close()
            await eventually(lambda: len(served.gateway.active_calls) == 0 and not OPEN_LEASES)
