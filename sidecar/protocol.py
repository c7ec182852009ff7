"""uvicorn's protocol, where it hears less of its clients than a call must know, or says what they cannot read."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from .errors import invalid_request, openai_body

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

    from .incoming import Receive, Scope

SILENCE = 120
"""Seconds after which a client whose machine says nothing at all has left."""
OPTIONS = {
    "TCP_KEEPIDLE": SILENCE // 2,
    "TCP_KEEPINTVL": SILENCE // 8,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": SILENCE * 1000,
}


SURPLUS = 16_777_216
"""Bytes behind a running request that are read and thrown away; whoever sends more is cut off."""


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with JSON for requests that cannot be parsed, and never a word into an answer that is running.

    No request waits behind another one: uvicorn would stop reading, and no longer hear the client leave.  The running
    answer becomes the connection's last, so that the client sends the next one again (RFC 9112, 9.3.2).
    """

    _surplus = -1
    """How many bytes behind the last request were thrown away; negative while there is none that is known as the last."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # it is one
        """Have the system look for clients that vanish without a word, where nothing is sent that would find them."""
        super().connection_made(transport)
        opened = transport.get_extra_info("socket")
        if opened is not None and opened.family in (socket.AF_INET, socket.AF_INET6):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in OPTIONS.items():
                if (option := getattr(socket, name, None)) is not None:
                    opened.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        """Read on behind the last request too: only so is its client's leaving heard."""
        if self._surplus < 0:
            super().data_received(data)
            return
        self._surplus += len(data)
        if self._surplus > SURPLUS:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """Let a request that comes while another one runs make that one the last."""
        if self._running():
            self._surplus = max(self._surplus, 0)
            self.cycle.keep_alive = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Begin to serve a request."""
        if self._surplus < 0:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body of the request that runs."""
        if self._surplus < 0:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request that runs is whole."""
        if self._surplus < 0:
            super().on_message_complete()

    def eof_received(self) -> None:
        """Count a client that has closed its side as gone, and do not wait until it has read what it will not read."""
        if not self._running():
            return
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self.flow.resume_writing()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _running(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        super()._start_asgi_task(cycle, _unchunked(cycle, app) if cycle.scope["http_version"] == "1.0" else app)

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read, and close: nothing behind it can be trusted to begin where it seems to."""
        if self._surplus >= 0:
            return
        running: RequestResponseCycle | None = self.cycle
        if running is None or running.response_complete or not running.response_started:
            body = openai_body(invalid_request(f"This is not valid HTTP: {msg}", None))
            head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(body)
            head += b"x-should-retry: false\r\nx-request-id: %b\r\nconnection: close\r\n\r\n" % uuid4().hex.encode()
            self.transport.write(head + body)
        self.transport.close()


def _unchunked(cycle: RequestResponseCycle, app: ASGI3Application) -> ASGI3Application:
    """Return *app* as clients of HTTP/1.0 can read it: what has no length ends where the connection does."""
    without_length = False

    async def serve(scope: Scope, receive: Receive, send: Any) -> None:
        async def send_plain(message: Any) -> None:
            nonlocal without_length
            if message["type"] == "http.response.start":
                without_length = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
                if without_length:
                    cycle.chunked_encoding = False
            elif without_length:
                # What uvicorn has no length for it would chunk; so each piece is announced to it as the whole.
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_plain)

    return serve
