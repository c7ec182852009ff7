"""One request cycle: how ASGI applications receive its body, and which heads it refuses to write."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from event_loops import ON_BOTH_LOOPS
from served_connection import CHUNKED_POST, GET, ServedConnection
from wire import eventually

from sidecar.downstream.client_connection import CONNECTION_EXTENSION, Head

pytestmark = pytest.mark.anyio


@ON_BOTH_LOOPS
async def test_body_chunks_that_arrive_together_are_received_together() -> None:
    """Receiving wakes on new data, and returns all data that arrived since the last call, in order."""
    received: list[tuple[bytes, bool]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            received.append((message["body"], more))
        await ServedConnection.answer(served, scope, receive, send)

    served = ServedConnection(app)
    served.protocol.data_received(CHUNKED_POST)
    await asyncio.sleep(0)
    served.protocol.data_received(b"1\r\na\r\n")
    await eventually(lambda: len(received) == 1)
    for piece in (b"b", b"c", b"d"):
        served.protocol.data_received(b"1\r\n%b\r\n" % piece)
    await eventually(lambda: len(received) == 2)
    served.protocol.data_received(b"1\r\ne\r\n0\r\n\r\n")
    await served.answered()

    assert received == [(b"a", True), (b"bcd", True), (b"e", False)]


@ON_BOTH_LOOPS
@pytest.mark.parametrize("end", ["disconnected", "answered"])
async def test_all_receivers_see_the_end(end: str) -> None:
    """All tasks that wait to receive get `http.disconnect` when the client disconnects or the response ends."""
    kinds: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["more_body"] is False
        waiting = [asyncio.create_task(receive()) for _ in range(3)]
        await ServedConnection.answer(served, scope, receive, send)
        kinds.extend([(await each)["type"] for each in waiting])

    served = ServedConnection(app)
    served.may_answer.clear()
    served.protocol.data_received(GET)
    await eventually(lambda: served.protocol.cycle is not None and served.protocol.cycle.body_arrived is not None)
    if end == "disconnected":
        served.transport.closing = True
        served.protocol.connection_lost(None)
    served.may_answer.set()
    await eventually(lambda: not served.protocol.tasks)

    assert kinds == ["http.disconnect"] * 3


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: x", b"a\nb", b"a\rb"])
async def test_header_value_of_two_lines_is_refused(value: bytes) -> None:
    """A header value with a line break cannot add another header: nothing is written."""
    errors: list[ValueError] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection = scope["extensions"][CONNECTION_EXTENSION]
        try:
            connection.write_nowait(Head(200, [(b"x-request-id", value)]), b"", more=True)
        except ValueError as error:
            errors.append(error)

    served = ServedConnection(app)
    served.protocol.data_received(GET)
    await eventually(lambda: not served.protocol.tasks)

    assert [str(error) for error in errors] == ["a response header contains a line break"]
    assert served.transport.sent == b""
