"""Transports of httpx that misbehave: they never suspend, fail with foreign exceptions, or take time to close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from pushed import get, nothing
from recording import HI, SERVERS, V1, recorded
from wire import TIMEOUT_SECONDS, Client, eventually, sse, token

from sidecar.config.upstream import BreakerSettings
from sidecar.server.gateway import Gateway
from sidecar.upstream.transport.httpx_transport import HttpxTransport

pytestmark = pytest.mark.anyio

UPSTREAM = "http://upstream.example/v1"
ROLE = sse({"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]})


class Answers(httpx.AsyncBaseTransport):
    """Answers each request with a stream."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self.stream = stream

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=self.stream)


class Endless(httpx.AsyncByteStream):
    """Yields *piece* from memory for ever, without ever suspending."""

    def __init__(self, piece: bytes) -> None:
        self.piece, self.closed = piece, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield self.piece

    async def aclose(self) -> None:
        self.closed = True


@SERVERS
@pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["FIN", "RST"])
@pytest.mark.parametrize("piece", [b": hi\n\n", b"", ROLE, token("x")], ids=["comments", "empty", "roles", "tokens"])
async def test_transport_that_never_suspends_does_not_stop_the_event_loop(
    tmp_path: Path, piece: bytes, leave: Callable[[Client], None], protocol: type[asyncio.Protocol]
) -> None:
    """Other tasks run while a transport yields from memory without end, and its client's disconnect ends the call."""
    stream = Endless(piece)
    make = partial(Gateway, transport=Answers(stream))
    async with recorded(tmp_path, UPSTREAM, protocol=protocol, make_gateway=make) as it:
        client = await it.served.client()
        await client.post(V1, HI)
        await eventually(lambda: len(it.served.gateway.active_calls) == 1)
        status, _, _ = await it.served.get("/healthz")
        leave(client)
        await eventually(lambda: len(it.records) == 2)
        await eventually(lambda: stream.closed)

    (record,) = [each for each in it.records if each.route == V1]
    assert status == 200
    # An answer without output may have reached its limit of events before the disconnect.
    assert record.ending in ({"cancelled", "failed"} if piece in {b": hi\n\n", ROLE} else {"cancelled"})


class Breaks(httpx.AsyncByteStream):
    """Its body breaks; closing it takes until `may_close`."""

    def __init__(self) -> None:
        self.closing, self.may_close, self.closed = asyncio.Event(), asyncio.Event(), False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield token("x")
        raise httpx.ReadError("broken")

    async def aclose(self) -> None:
        self.closing.set()
        await self.may_close.wait()
        self.closed = True


async def test_closing_a_broken_response_does_not_cancel_its_close() -> None:
    """A response whose body broke is being closed already; closing it again waits for that."""
    stream = Breaks()
    transport = HttpxTransport(Answers(stream))
    response = await transport.send(get(UPSTREAM), (), b"", nothing)
    await asyncio.wait_for(stream.closing.wait(), TIMEOUT_SECONDS)
    closes = asyncio.create_task(response.aclose())
    await asyncio.sleep(0)
    stream.may_close.set()
    await closes
    await transport.aclose()

    assert (stream.closed, transport.open_count) == (True, 0)


class Raises(httpx.AsyncBaseTransport):
    """Raises an exception that is none of httpx's."""

    sent = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.sent += 1
        raise RuntimeError("proxy with secret")


DEFAULT_LEAST_ATTEMPTS = BreakerSettings().calls
RETRIES = "[[policy]]\nuse = 'retry'\nattempts = 3\nbase = 0\ncap = 0\n"


@SERVERS
async def test_foreign_exception_of_a_transport_is_an_upstream_failure(
    tmp_path: Path, protocol: type[asyncio.Protocol]
) -> None:
    """A transport that raises any exception has failed as upstream fails: the call is retried and answered with 502."""
    transport = Raises()
    make = partial(Gateway, transport=transport)
    async with recorded(tmp_path, UPSTREAM, RETRIES, protocol=protocol, make_gateway=make) as it:
        status, _, body = await it.served.post(V1, HI)
        record = await it.one()

    assert (status, transport.sent, record.attempts, record.ending) == (502, 3, 3, "failed")
    assert record.code != "internal_error"
    assert b"secret" not in body + repr(record).encode()


async def test_foreign_exceptions_of_a_transport_open_the_breaker(tmp_path: Path) -> None:
    """The circuit breaker counts what a transport raises."""
    transport = Raises()
    make: Any = partial(Gateway, transport=transport)
    async with recorded(tmp_path, UPSTREAM, RETRIES, make_gateway=make) as it:
        for _ in range(DEFAULT_LEAST_ATTEMPTS):
            await it.served.post(V1, HI)
        it.records.clear()
        sent = transport.sent
        await it.served.post(V1, HI)
        record = await it.one()

    assert (record.error_kind, transport.sent) == ("unavailable", sent)
