"""One request and its response on a uvicorn connection, written without `send`.

uvicorn's `send` matches each header against two patterns, writes head and body separately, and is a coroutine per
write.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from sidecar.downstream.client_connection import ClientConnection, Head, OnDisconnect
from sidecar.downstream.request import announced_length

from .http_limits import MAX_SHORT_REST_BYTES

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, HTTPScope

    from sidecar.downstream.client_errors import ClientError
    from sidecar.wire.limit_headers import Header

STATUS_LINES = {status: line.removesuffix(b"\r\n") for status, line in STATUS_LINE.items()}
"""Status lines without their end. One without a reason keeps the space behind the status (RFC 9112, 4)."""
LENGTH_LINE, CONNECTION_LINE = b"\r\ncontent-length: ", b"\r\nconnection: "
RESETTING_LINGER = struct.pack("ii", 1, 0)
"""For `SO_LINGER`: closing the socket resets the connection."""
BODILESS_STATUSES = frozenset({204, 304})
"""Statuses whose responses have no body and no length (RFC 9112, 6.3)."""


class RequestCycle(RequestResponseCycle, ClientConnection):
    """One request and its response; writes the response directly to the transport. See `ClientConnection`.

    HTTP/1.0 has no chunked encoding: there, a response without a length ends with the connection.
    """

    logger = logging.getLogger("uvicorn.error")
    access_log = False
    message_event = asyncio.Event()
    """uvicorn sets it when data arrives. `receive` below does not wait for it, so one event serves all requests."""

    full = disconnected = response_started = response_complete = False
    more_body = True
    status = 0
    body: bytes | bytearray = b""  # type: ignore[assignment]  # uvicorn's is always bytearray
    chunked_encoding: bool | None = None
    expected_content_length = 0
    has_unread = False
    """Whether `receive` has something to return."""
    streams_body = False
    """Whether the body is read by `receive` while the disconnect is watched."""
    body_arrived: asyncio.Event | None = None
    """Set when `receive` can return; None while no task waits in it."""
    _asgi_head: Head | None = None
    """The head of an ASGI response whose body has not begun."""

    def __init__(  # uvicorn's assigns all of the above per request; class attributes are cheaper
        self,
        *,
        scope: HTTPScope,
        transport: asyncio.Transport,
        flow: FlowControl,
        default_headers: list[tuple[bytes, bytes]],
        expects_continue: bool,
        keep_alive: bool,
        on_response: Callable[[], None],
    ) -> None:
        self.scope, self.transport, self.flow = scope, transport, flow
        self.default_headers, self.on_response = default_headers, on_response
        self.waiting_for_100_continue, self.keep_alive = expects_continue, keep_alive
        self.full = flow.write_paused

    on_disconnect: OnDisconnect | None = None

    def add_headers(self, headers: list[Header]) -> None:
        """See `ClientConnection.add_headers`."""
        self.default_headers = [*self.default_headers, *headers]

    async def drain(self) -> None:
        """See `ClientConnection.drain`."""
        await self.flow.drain()

    def watch(self, on_disconnect: OnDisconnect) -> None:
        """See `ClientConnection.watch`."""
        if self.disconnected:
            on_disconnect()
            return
        self.on_disconnect = on_disconnect
        if self.flow.read_paused and not self.streams_body:
            self.flow.resume_reading()  # a long body paused it; a paused connection does not see the client's FIN

    def stream_body(self) -> None:
        """See `ClientConnection.stream_body`."""
        self.streams_body = True
        if self.flow.read_paused:
            self.flow.resume_reading()  # the next pause looks for the client's end, see `_pause_reading`

    def cut(self) -> None:
        """See `ClientConnection.cut`. Where only the end of the connection ends the response, it is reset instead."""
        if self.disconnected or self.response_complete:
            return
        self.disconnected, self.keep_alive = True, False
        if self.scope["http_version"] == "1.0" and (opened := self.transport.get_extra_info("socket")) is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETTING_LINGER)
            self.transport.abort()
        else:
            self.transport.close()
        self.wake_receiver()

    def unwatch(self) -> None:
        """See `ClientConnection.unwatch`."""
        self.on_disconnect = None

    def client_left(self) -> None:
        """Wake waiting tasks and run the callback of `watch`, once. Called when the client has disconnected."""
        self.full = False
        self.wake_receiver()
        if (on_disconnect := self.on_disconnect) is not None:
            self.on_disconnect = None
            on_disconnect()

    def end_with(self, error: ClientError, name: str) -> None:
        """Note that the server has refused the rest of the request with *error*, and end it; *name* is its request id."""
        self.status, self.refused_as, self.refused_id, self.disconnected = error.status, error.code, name, True
        self.client_left()

    def _can_keep_alive(self) -> bool:
        """Whether the connection can be kept behind an answer that is sent before the body has arrived.

        Not where the client may send the body or the next request, as with `Expect: 100-continue` (RFC 9110, 10.1.1),
        and not for a long body: what is left of a short one is discarded.
        """
        if self.waiting_for_100_continue:
            return False
        length = announced_length(dict(self.scope["headers"]))
        return length is not None and length <= MAX_SHORT_REST_BYTES

    def wake_receiver(self) -> None:
        """Wake the tasks that wait in `receive`, if there are any."""
        if (body_arrived := self.body_arrived) is not None:
            self.body_arrived = None
            body_arrived.set()

    def whole_body(self) -> bytes | None:
        """See `ClientConnection.whole_body`."""
        if self.more_body or self.disconnected or self.response_complete:
            return None
        body, self.body, self.has_unread = bytes(self.body), b"", False
        return body

    async def receive(self) -> ASGIReceiveEvent:
        """Return ASGI's next `http.request`, or `http.disconnect` if the client or the response has ended."""
        if self.waiting_for_100_continue and not self.disconnected and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            if not self.has_unread:
                if self.body_arrived is None:
                    self.body_arrived = asyncio.Event()
                await self.body_arrived.wait()
            self.has_unread = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), b""
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    def write_nowait(self, head: Head | None, body: bytes, *, more: bool) -> None:
        """See `ClientConnection.write_nowait`."""
        if self.disconnected:
            return
        start = b""
        if head is not None:
            if self.more_body and self.keep_alive:
                self.keep_alive = self._can_keep_alive()
            self.status, self.response_started, self.waiting_for_100_continue = head.status, True, False
            fields = [*self.default_headers, *head.headers]
            lines = [STATUS_LINES[head.status], *map(b": ".join, fields)]
            # Joining twice and searching takes half of the time of counting; `in` takes twice as long: it tries an integer first.
            together = b"".join(lines)
            if together.find(b"\n") >= 0 or together.find(b"\r") >= 0:
                msg = "a response header contains a line break"
                raise ValueError(msg)
            start = b"\r\n".join(lines)
            closes = start.find(CONNECTION_LINE) >= 0  # the only value that the sidecar sends is `close`
            self.keep_alive = self.keep_alive and not closes
            self.chunked_encoding = (
                start.find(LENGTH_LINE) < 0
                and self.scope["http_version"] != "1.0"
                and head.status not in BODILESS_STATUSES
            )
            start += b"\r\n" if self.keep_alive or closes else b"\r\nconnection: close\r\n"
            start += b"transfer-encoding: chunked\r\n\r\n" if self.chunked_encoding else b"\r\n"
        elif more and self.chunked_encoding:
            if body:
                self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
            return
        if self.scope["method"] == "HEAD":
            body, self.chunked_encoding = b"", False
        if self.chunked_encoding:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        self.transport.write(start + body)
        if not more:
            self.response_complete = True
            if self.body_arrived is not None:
                self.wake_receiver()
            self.on_response()

    async def send(self, message: Any) -> None:
        """Send one ASGI message; used by Litestar's routes. See `write_nowait` for the data routes."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if message["type"] == "http.response.start":
            fields = [(name.lower(), value) for name, value in message.get("headers", ())]
            self._asgi_head = Head(message["status"], fields)
        elif not self.response_complete:
            head, self._asgi_head = self._asgi_head, None
            self.write_nowait(head, message.get("body", b""), more=message.get("more_body", False))
