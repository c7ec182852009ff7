"""One connection of the server by itself, on a clock of the test's: how long it is kept, and what is received on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from serving import settings_of, sidecar
from uvicorn.server import ServerState
from wire import PATIENCE, Connection, eventually, upstream

from sidecar.server.http_protocol import HttpProtocol

pytestmark = pytest.mark.anyio

KEPT = 5
ASKED = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
POSTED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


class Timer:
    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when, self.call, self.cancelled = when, call, False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """A loop whose time passes only when the test says so."""

    def __init__(self) -> None:
        self.now, self.made, self.timers = 1000.0, 0, list[Timer]()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        self.made += 1
        self.timers.append(Timer(self.now + delay, call))
        return self.timers[-1]

    def create_task(self, what: Any) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(what)

    @property
    def pending(self) -> list[Timer]:
        self.timers = [timer for timer in self.timers if not timer.cancelled]
        return self.timers

    def pass_by(self, seconds: float) -> None:
        until = self.now + seconds
        while due := [timer for timer in self.pending if timer.when <= until]:
            first = min(due, key=lambda timer: timer.when)
            self.timers.remove(first)
            self.now = first.when
            first.call()
        self.now = until


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent, self.closing = b"", False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def get_write_buffer_size(self) -> int:
        return 0


class Served:
    """One connection, and the application behind it: it says nothing until it `may`."""

    def __init__(self, app: Any = None) -> None:
        self.clock, self.transport, self.may = Clock(), Transport(), asyncio.Event()
        self.may.set()
        config = uvicorn.Config(
            app or self.app,
            interface="asgi3",
            http=HttpProtocol,
            ws="none",
            log_config=None,
            timeout_keep_alive=KEPT,
        )
        self.protocol = HttpProtocol(config, ServerState(), {}, _loop=self.clock)  # type: ignore[arg-type]  # enough of one
        self.protocol.connection_made(self.transport)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        await self.may.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def ask(self) -> None:
        self.protocol.data_received(ASKED)
        await self.answered()

    async def answered(self) -> None:
        await eventually(lambda: not self.protocol.tasks)
        assert self.transport.sent.endswith(b"\r\n\r\nok")
        self.transport.sent = b""


async def test_used_again_and_again() -> None:
    """A connection that is used again and again is kept, by one timer for as long as it may be idle."""
    served = Served()
    for _ in range(50):
        await served.ask()
        served.clock.pass_by(KEPT / 5)
        assert len(served.clock.pending) == 1

    assert not served.transport.closing
    assert served.clock.made <= 1 + 50 / 4


async def test_idle() -> None:
    """A connection is closed when nothing has come for the whole time since its last answer, and not before."""
    served = Served()
    await served.ask()
    served.clock.pass_by(KEPT * 0.6)
    await served.ask()
    served.clock.pass_by(KEPT * 0.99)
    assert not served.transport.closing
    served.clock.pass_by(KEPT * 0.02)

    assert served.transport.closing
    assert served.clock.pending == []


async def test_a_long_answer() -> None:
    """An answer is not cut because it takes longer than an idle connection is kept; the time counts from its end."""
    served = Served()
    await served.ask()
    served.may.clear()
    served.protocol.data_received(ASKED)
    served.clock.pass_by(KEPT * 3)
    assert (served.transport.closing, served.clock.pending) == (False, [])
    served.may.set()
    await served.answered()
    served.clock.pass_by(KEPT * 0.99)
    assert not served.transport.closing
    served.clock.pass_by(KEPT * 0.02)

    assert served.transport.closing


async def test_what_has_begun_to_come() -> None:
    """The head of a request gets as long as an idle connection, from its first byte; then that is closed, whatever drips in."""
    served, dripping = Served(), Served()
    await served.ask()
    served.clock.pass_by(KEPT * 0.9)
    served.protocol.data_received(ASKED[:5])
    served.clock.pass_by(KEPT * 0.9)
    served.protocol.data_received(ASKED[5:])
    await served.answered()
    assert not served.transport.closing

    for byte in ASKED[:4]:
        dripping.protocol.data_received(bytes([byte]))
        dripping.clock.pass_by(KEPT * 0.3)
    assert dripping.transport.closing


@pytest.mark.parametrize("behind", [b"", b"\r\n", b"G"], ids=["nothing", "a line", "a byte"])
async def test_what_is_no_request(behind: bytes) -> None:
    """What comes behind an answer and is no whole head does not keep the connection."""
    served = Served()
    await served.ask()
    served.protocol.data_received(behind)
    served.clock.pass_by(KEPT * 1.01)
    served.clock.pass_by(KEPT * 0.01)

    assert served.transport.closing


async def test_never_asked() -> None:
    """A connection on which nothing is asked is closed as an idle one is."""
    served = Served()
    served.clock.pass_by(KEPT * 0.99)
    assert not served.transport.closing
    served.clock.pass_by(KEPT * 0.02)

    assert (served.transport.closing, served.clock.pending) == (True, [])


async def test_a_slow_body() -> None:
    """A request whose head has come is served, however long its body takes."""
    served = Served()
    head, body = ASKED[:-4] + b"\r\ncontent-length: 4\r\n\r\n", b"body"
    served.may.clear()
    served.protocol.data_received(head)
    for byte in body:
        served.clock.pass_by(KEPT)
        served.protocol.data_received(bytes([byte]))
    served.may.set()
    await served.answered()

    assert not served.transport.closing


@pytest.mark.parametrize("why", [None, ConnectionResetError()], ids=["closed", "broken"])
@pytest.mark.parametrize("again", [False, True], ids=["idle", "asked again"])
async def test_lost(why: Exception | None, *, again: bool) -> None:
    """Nothing holds a connection that is gone, however it went and whatever was running."""
    served = Served()
    await served.ask()
    if again:
        served.may.clear()
        served.protocol.data_received(ASKED)
    served.transport.closing = True
    served.protocol.connection_lost(why)
    assert served.clock.pending == []
    served.may.set()
    await eventually(lambda: not served.protocol.tasks)

    assert served.clock.pending == []


async def test_the_server_ends() -> None:
    """An idle connection is closed when the server ends, and one with an answer behind that."""
    served, busy = Served(), Served()
    await served.ask()
    served.protocol.shutdown()
    busy.may.clear()
    busy.protocol.data_received(ASKED)
    busy.protocol.shutdown()
    assert (served.transport.closing, busy.transport.closing) == (True, False)
    busy.may.set()
    await busy.answered()

    assert busy.transport.closing
    busy.clock.pass_by(KEPT * 2)
    assert busy.clock.pending == []


class Brief(HttpProtocol):
    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.timeout_keep_alive = 0.05  # type: ignore[assignment]  # a loop takes it


async def test_idle_on_a_socket(tmp_path: Path) -> None:
    """The client of an idle connection hears that it is closed."""

    async def never(connection: Connection) -> None:
        await connection.hang()

    async with (
        upstream(never) as up,
        sidecar(settings_of(tmp_path, up.url), protocol=Brief) as served,
    ):
        client = await served.client()
        client.writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        status, headers, _ = await client.answer()
        rest = await asyncio.wait_for(client.reader.read(), PATIENCE)

    assert (status, "connection" in headers, rest) == (200, False, b"")


async def test_received_in_pieces() -> None:
    """Who receives is woken by what comes, and gets all that came since in one piece, in its order."""
    got: list[tuple[bytes, bool]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            got.append((message["body"], more))
        await Served.app(served, scope, receive, send)

    served = Served(app)
    served.protocol.data_received(POSTED)
    await asyncio.sleep(0)
    served.protocol.data_received(b"1\r\na\r\n")
    await eventually(lambda: len(got) == 1)
    for piece in (b"b", b"c", b"d"):
        served.protocol.data_received(b"1\r\n%b\r\n" % piece)
    await eventually(lambda: len(got) == 2)
    served.protocol.data_received(b"1\r\ne\r\n0\r\n\r\n")
    await served.answered()

    assert got == [(b"a", True), (b"bcd", True), (b"e", False)]


@pytest.mark.parametrize("end", ["left", "answered"])
async def test_many_who_receive(end: str) -> None:
    """All who wait to receive hear of the end: that the client has left, or that it has its answer."""
    kinds: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["more_body"] is False
        waiting = [asyncio.create_task(receive()) for _ in range(3)]
        await Served.app(served, scope, receive, send)
        kinds.extend([(await each)["type"] for each in waiting])

    served = Served(app)
    served.may.clear()
    served.protocol.data_received(ASKED)
    await eventually(lambda: served.protocol.cycle is not None and served.protocol.cycle.body_arrived is not None)
    if end == "left":
        served.transport.closing = True
        served.protocol.connection_lost(None)
    served.may.set()
    await eventually(lambda: not served.protocol.tasks)

    assert kinds == ["http.disconnect"] * 3
