"""Deadlines of heads and bodies, and the end of a connection behind an answer that was sent early."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asked_requests import Refusals, asking, refusal
from served_connection import CHUNKED_POST, GET, KEEP_ALIVE_SECONDS, ServedConnection
from wire import eventually

from sidecar.downstream.buffered_bodies import REPORT_SECONDS
from sidecar.server.http1.http_limits import (
    LEAST_BODY_RATE,
    LINGER_SECONDS,
    MAX_HEAD_BYTES,
    MAX_LINGER_SECONDS,
    MAX_SHORT_REST_BYTES,
    SHUTDOWN_LINGER_SECONDS,
    HttpLimits,
)

pytestmark = pytest.mark.anyio

BODY_SECONDS = 30.0


def post(length: int, *fields: bytes) -> bytes:
    """Return the head of a request whose body has *length* bytes."""
    return b"\r\n".join((b"POST / HTTP/1.1", b"host: x", b"content-length: %d" % length, *fields, b"", b""))


async def test_slow_body_is_408() -> None:
    """A body below 1 kB/s over `body_timeout` is 408; its application gets a disconnect, and one record is written."""
    records = Refusals()
    served, asked = asking(HttpLimits(body_timeout=BODY_SECONDS, record=records.add))
    served.protocol.data_received(post(50_000))
    for _ in range(29):
        await asyncio.sleep(0)
        served.protocol.data_received(b"x" * (LEAST_BODY_RATE - 100))
        served.loop.advance(1)
    assert served.transport.sent == b""
    served.loop.advance(1.01)
    await eventually(lambda: not served.protocol.tasks)

    assert refusal(served) == (408, "request_timeout")
    assert (asked, records) == ([], [])


async def test_steady_body_is_served() -> None:
    """A body that keeps the rate is served, however long it takes."""
    served, asked = asking(HttpLimits(body_timeout=BODY_SECONDS))
    served.protocol.data_received(post(200 * LEAST_BODY_RATE))
    for _ in range(200):
        await asyncio.sleep(0)
        served.protocol.data_received(b"x" * LEAST_BODY_RATE)
        served.loop.advance(0.99)
    await served.answered()

    assert [len(body) for _, body in asked] == [200 * LEAST_BODY_RATE]


async def test_unread_body_is_not_slow() -> None:
    """A body that the server itself does not read is not refused as slow."""
    served = ServedConnection()
    served.may_answer.clear()
    served.protocol.data_received(post(200_000) + b"x" * 100_000)
    assert served.protocol.flow.read_paused
    served.loop.advance(BODY_SECONDS * 10)

    assert served.transport.sent == b""
    served.may_answer.set()
    await eventually(lambda: not served.protocol.tasks)


async def test_bodies_in_reads_of_their_own_need_few_timers() -> None:
    """Requests whose head and body arrive separately share the timer of their connection."""
    served, asked = asking(HttpLimits(body_timeout=KEEP_ALIVE_SECONDS))
    for _ in range(50):
        served.protocol.data_received(post(2))
        await asyncio.sleep(0)
        served.protocol.data_received(b"hi")
        await served.answered()
        served.loop.advance(KEEP_ALIVE_SECONDS / 5)

    assert len(asked) == 50
    assert served.loop.timers_made <= 1 + 50 / 4


async def early(scope: Any, _receive: Any, send: Any) -> None:
    """Answer without reading the body."""
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize(
    ("head", "answers"),
    [
        (post(MAX_SHORT_REST_BYTES), 2),
        (post(MAX_SHORT_REST_BYTES + 1), 1),
        (CHUNKED_POST, 1),
        (post(5, b"expect: 100-continue"), 1),
    ],
    ids=["short", "long", "chunked", "expects 100"],
)
async def test_early_answer_closes_unless_the_rest_is_short(head: bytes, answers: int) -> None:
    """An answer before the body closes the connection, also one before `100 Continue`; a short body is discarded."""
    served = ServedConnection(early)
    served.protocol.data_received(head)
    await eventually(lambda: not served.protocol.tasks)
    answer = served.transport.sent
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert (b"connection: close" in answer) == (answers == 1)
    served.protocol.data_received(b"x" * MAX_SHORT_REST_BYTES + GET)
    await eventually(lambda: not served.protocol.tasks)
    served.loop.advance(LINGER_SECONDS * 0.99)
    assert not served.transport.closing

    assert served.transport.sent.count(b"HTTP/1.1 401 ") == answers
    if answers == 1:
        served.loop.advance(LINGER_SECONDS * 0.02)
        assert not served.transport.closing  # the client has sent something
        served.loop.advance(LINGER_SECONDS)
        assert served.transport.closing


async def test_upload_that_goes_on_is_read_for_a_bounded_time() -> None:
    """A client that goes on to send a refused body is read for 30 s in all, and one that stops for 5 s is not."""
    served = ServedConnection(early)
    served.protocol.data_received(post(MAX_SHORT_REST_BYTES + 1))
    await eventually(lambda: not served.protocol.tasks)
    for _ in range(int(MAX_LINGER_SECONDS)):
        assert not served.transport.closing
        served.protocol.data_received(b"x")
        served.loop.advance(1.01)

    assert served.transport.closing


async def test_stop_refuses_requests_that_have_not_arrived() -> None:
    """At the stop of the process, an unfinished head or body gets 503, and its connection is closed a second later."""
    records = Refusals()
    limits = HttpLimits(record=records.add)
    for unfinished in (GET[:9], post(9)):
        served, asked = asking(limits)
        served.protocol.data_received(unfinished)
        await asyncio.sleep(0)
        served.protocol.shutdown()
        await eventually(lambda served=served: not served.protocol.tasks)  # type: ignore[misc]  # bound to its round
        assert served.transport.sent.startswith(b"HTTP/1.1 503 ")
        served.loop.advance(SHUTDOWN_LINGER_SECONDS * 1.01)
        assert served.transport.closing
        assert asked == []
    lingering = ServedConnection(early)
    lingering.protocol.data_received(CHUNKED_POST)
    await eventually(lambda: not lingering.protocol.tasks)
    lingering.protocol.shutdown()

    assert lingering.transport.closing
    assert records == [(503, "draining", "")]


async def test_rest_that_never_arrives_does_not_keep_the_connection() -> None:
    """A connection whose early answer was sent is closed if the rest of the body does not arrive."""
    served = ServedConnection(early)
    served.protocol.data_received(post(100))
    await eventually(lambda: not served.protocol.tasks)
    served.loop.advance(KEEP_ALIVE_SECONDS * 1.01)
    served.loop.advance(LINGER_SECONDS * 1.01)

    assert served.transport.closing
    assert served.transport.sent.count(b"HTTP/1.1") == 1


async def test_nonsense_behind_a_request_does_not_cut_its_answer() -> None:
    """Bytes that are no request, behind a complete one, are ignored: its answer is the last of the connection."""
    served, asked = asking()
    served.may_answer.clear()
    served.protocol.data_received(GET)
    await asyncio.sleep(0)
    served.protocol.data_received(b"\0\0nonsense\r\n\r\n")
    served.may_answer.set()
    await eventually(lambda: not served.protocol.tasks)

    assert len(asked) == 1
    assert served.transport.sent.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in served.transport.sent
    assert served.transport.sent.endswith(b"\r\n\r\nok")


async def test_invalid_body_is_400() -> None:
    """A body that is not valid HTTP is 400; its application gets a disconnect."""
    served, asked = asking()
    served.protocol.data_received(CHUNKED_POST)
    await asyncio.sleep(0)
    served.protocol.data_received(b"nonsense\r\n")
    await eventually(lambda: not served.protocol.tasks)

    assert refusal(served) == (400, "invalid_request")
    assert asked == []


async def test_connections_beyond_the_limit_get_503() -> None:
    """Connections beyond `max_connections` get 503 and a record; the state is reported once, and once when it ends."""
    records = Refusals()
    states: list[bool] = []
    now = [0.0]
    limits = HttpLimits(max_connections=2, record=records.add, on_full=states.append, clock=lambda: now[0])
    kept = [ServedConnection(limits=limits) for _ in range(2)]
    for each in kept[1:]:
        each.protocol.connections.clear()
    shared = kept[0].protocol.connections
    shared.update(each.protocol for each in kept)
    extra = [_joining(shared, limits) for _ in range(3)]
    assert [refusal(each) for each in extra] == [(503, "overloaded")] * 3
    assert records == [(503, "overloaded", "")] * 3
    assert states == [True]
    for each in (*extra, *kept):
        each.protocol.connections = shared
        each.protocol.connection_lost(None)
        assert states == ([True] if now[0] < REPORT_SECONDS else [True, False])
        now[0] += REPORT_SECONDS / 2

    assert states == [True, False]


def _joining(shared: set[Any], limits: HttpLimits) -> ServedConnection:
    """Return a connection that is made while those in *shared* are open."""
    return ServedConnection(limits=limits, connections=shared)


@pytest.mark.parametrize("first", [b"xxxx", b""], ids=["in a part of the read", "in the read"])
async def test_head_behind_an_answered_body_is_bounded(first: bytes) -> None:
    """A head that begins in the same read as the end of an answered request's body is bounded as every head."""
    served = ServedConnection(early)
    served.protocol.data_received(post(5) + first)
    await eventually(lambda: not served.protocol.tasks)
    assert b"connection: close" not in served.transport.sent
    served.transport.sent = b""
    fields = b"".join(b"a: " + b"x" * 16_000 + b"\r\n" for _ in range(15))
    served.protocol.data_received(b"x" * (5 - len(first)) + GET[:-2] + fields + b"\r\n")
    await eventually(lambda: not served.protocol.tasks)

    assert refusal(served) == (431, "head_too_large")


async def test_requests_behind_an_answered_body_are_served() -> None:
    """A long read with the end of an answered request's body and the next request is not refused."""
    served = ServedConnection(early)
    served.protocol.data_received(post(MAX_SHORT_REST_BYTES))
    await eventually(lambda: not served.protocol.tasks)
    head = GET[:-2] + b"a: " + b"x" * (MAX_HEAD_BYTES // 2) + b"\r\n\r\n"
    served.protocol.data_received(b"x" * MAX_SHORT_REST_BYTES + head)
    await eventually(lambda: not served.protocol.tasks)

    assert served.transport.sent.count(b"HTTP/1.1 401 ") == 2


async def test_long_body_timeout_does_not_prolong_idle_time() -> None:
    """An idle connection is closed after the keep-alive time, also behind a body that might have taken longer."""
    served, asked = asking(HttpLimits(body_timeout=KEEP_ALIVE_SECONDS * 10))
    served.loop.advance(KEEP_ALIVE_SECONDS * 0.99)
    served.protocol.data_received(post(2))
    served.loop.advance(KEEP_ALIVE_SECONDS * 0.99)
    served.protocol.data_received(b"hi")
    await served.answered()
    served.loop.advance(KEEP_ALIVE_SECONDS * 1.01)

    assert len(asked) == 1
    assert served.transport.closing
