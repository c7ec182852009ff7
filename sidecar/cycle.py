"""One request and its answer on uvicorn's connection, where `send` costs more than what it does.

uvicorn checks each field of a head by two patterns, writes head and body apart, and waits in a coroutine for each piece.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from .outgoing import Head, Straight

LENGTH, CONNECTION = b"content-length", b"connection"


class Cycle(RequestResponseCycle, Straight):
    """uvicorn's, which can be written to straight away, and speaks HTTP/1.0 to whom speaks that.

    HTTP/1.0 knows no chunks: what has no length ends where the connection does.
    """

    @property
    def begun(self) -> bool:
        """See `Straight.begun`."""
        return self.response_started

    @property
    def full(self) -> bool:
        """See `Straight.full`."""
        return self.flow.write_paused and not self.disconnected

    async def drained(self) -> None:
        """See `Straight.drained`."""
        await self.flow.drain()

    def watch(self, gone: Callable[[], None]) -> None:
        """See `Straight.watch`."""
        self.gone = gone
        if self.disconnected:
            gone()
        else:
            self.flow.resume_reading()  # a long body has stopped it, and only who reads hears the end

    def whole_body(self) -> bytes | None:
        """See `Straight.whole_body`."""
        if self.more_body or self.disconnected or self.response_complete:
            return None
        body, self.body = bytes(self.body), bytearray()
        self.message_event.clear()
        return body

    def left(self) -> None:
        """Say that the client has left."""
        if (gone := self.gone) is not None:
            self.gone = None
            gone()

    def put(self, head: Head | None, body: bytes, *, more: bool) -> None:
        """See `Straight.put`."""
        if self.disconnected:
            return
        if head is None and more and self.chunked_encoding:
            if body:
                self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
            return
        parts = [] if head is None else self._begun(head)
        if self.scope["method"] == "HEAD":
            body, self.chunked_encoding = b"", False
        if not self.chunked_encoding:
            parts.append(body)
        elif body:
            parts += (b"%x\r\n" % len(body), body, b"\r\n")
        if self.chunked_encoding and not more:
            parts.append(b"0\r\n\r\n")
        self.transport.write(b"".join(parts))
        if not more:
            self._complete()

    def _begun(self, head: Head) -> list[bytes]:
        self.response_started, self.waiting_for_100_continue = True, False
        lines = [STATUS_LINE[head.status].rstrip()]
        closes = has_length = False
        for name, value in (*self.default_headers, *head.headers):
            lines.append(b"%b: %b" % (name, value))
            has_length = has_length or name == LENGTH
            closes = closes or name == CONNECTION  # the only one that we send says `close`
        self.keep_alive = self.keep_alive and not closes
        if not self.keep_alive and not closes:
            lines.append(b"connection: close")
        self.chunked_encoding = not has_length and self._has_chunks
        if self.chunked_encoding:
            lines.append(b"transfer-encoding: chunked")
        whole = b"\r\n".join(lines)
        if not whole.count(b"\n") == whole.count(b"\r") == len(lines) - 1:
            msg = "a header has more than one line"
            raise ValueError(msg)
        return [whole, b"\r\n\r\n"]

    @property
    def _has_chunks(self) -> bool:
        return self.scope["http_version"] != "1.0"

    def _complete(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    async def send(self, message: Any) -> None:
        """See ASGI; what goes out to HTTP/1.0 without a length is announced to uvicorn piece by piece as the whole."""
        if not self._has_chunks:
            if message["type"] == "http.response.start":
                if all(name.lower() != LENGTH for name, _ in message.get("headers", ())):
                    self.chunked_encoding = False
            elif self.expected_content_length == 0:
                self.expected_content_length = len(message.get("body", b""))
        await super().send(message)
