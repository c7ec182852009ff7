"""What is no HTTP at all is refused in the same form as everything else."""

from __future__ import annotations

import asyncio
import socket
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .errors import invalid_request, openai_body

SILENCE = 120
"""Seconds after which a client whose machine says nothing at all has left."""
OPTIONS = {
    "TCP_KEEPIDLE": SILENCE // 2,
    "TCP_KEEPINTVL": SILENCE // 8,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": SILENCE * 1000,
}


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with JSON for requests that cannot be parsed, and never a word into an answer that is running."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # it is one
        """Have the system look for clients that vanish without a word, where nothing is sent that would find them."""
        super().connection_made(transport)
        opened = transport.get_extra_info("socket")
        if opened is not None and opened.family in (socket.AF_INET, socket.AF_INET6):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in OPTIONS.items():
                if (option := getattr(socket, name, None)) is not None:
                    opened.setsockopt(socket.IPPROTO_TCP, option, value)

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read, and close: nothing behind it can be trusted to begin where it seems to."""
        running = getattr(self, "cycle", None)
        if running is None or running.response_complete or not running.response_started:
            body = openai_body(invalid_request(f"This is not valid HTTP: {msg}", None))
            head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(body)
            head += b"x-should-retry: false\r\nx-request-id: %b\r\nconnection: close\r\n\r\n" % uuid4().hex.encode()
            self.transport.write(head + body)
        self.transport.close()
