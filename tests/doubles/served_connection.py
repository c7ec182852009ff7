"""One connection of the server, on a virtual loop and without a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.server import ServerState
from virtual_loop import VirtualLoop
from wire import eventually

from sidecar.server.http1.http_limits import HTTP_LIMITS_STATE, HttpLimits
from sidecar.server.http1.http_protocol import HttpProtocol

KEEP_ALIVE_SECONDS = 5
GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
CHUNKED_POST = b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"


class MemoryTransport(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.closing = b"", False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        """Do nothing: tests decide what is read."""

    def resume_reading(self) -> None:
        """Do nothing: tests decide what is read."""

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


class ServedConnection:
    """One connection, and the application behind it, which answers once `may_answer` is set. It is set at first."""

    def __init__(
        self, app: Any = None, limits: HttpLimits | None = None, *, connections: set[Any] | None = None
    ) -> None:
        self.loop, self.transport, self.may_answer = VirtualLoop(), MemoryTransport(), asyncio.Event()
        self.may_answer.set()
        config = uvicorn.Config(
            self.answer if app is None else app,
            interface="asgi3",
            http=HttpProtocol,
            ws="none",
            log_config=None,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        state = ServerState()
        if connections is not None:
            state.connections = connections
        self.protocol = HttpProtocol(
            config,
            state,
            {} if limits is None else {HTTP_LIMITS_STATE: lambda: limits},
            _loop=self.loop,  # type: ignore[arg-type]  # the part of a loop that the protocol uses
        )
        self.protocol.connection_made(self.transport)

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer `ok`, as an ASGI application."""
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def request(self) -> None:
        """Send a request, and wait for its response."""
        self.protocol.data_received(GET)
        await self.answered()

    async def answered(self) -> None:
        """Wait for the end of the response, and forget its bytes."""
        await eventually(lambda: not self.protocol.tasks)
        assert self.transport.sent.endswith(b"\r\n\r\nok")
        self.transport.sent = b""
