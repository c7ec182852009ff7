"""uvicorn's HTTP protocol, extended to detect client disconnects during pipelined or paused reads.

Requests that cannot be parsed are answered with JSON instead of plain text.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING
from urllib.parse import unquote
from uuid import uuid4

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sidecar.downstream.client_connection import CONNECTION_EXTENSION
from sidecar.downstream.client_errors import invalid_request, openai_body

from .request_cycle import RequestCycle
from .request_origin import with_authority
from .shortcut import BAD_REQUEST_STATE

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope

VANISHED_CLIENT_SECONDS = 120
"""A client whose host has not answered TCP for this long counts as disconnected."""
KEEPALIVE_OPTIONS = {
    "TCP_KEEPIDLE": VANISHED_CLIENT_SECONDS // 2,
    "TCP_KEEPINTVL": VANISHED_CLIENT_SECONDS // 8,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": VANISHED_CLIENT_SECONDS * 1000,
}
"""TCP options of each client connection, set where the platform has them."""
UPGRADE_HEADERS = frozenset({b"upgrade", b"http2-settings"})
"""Headers that offer another protocol. `Connection` can stay: without these it offers nothing."""
MAX_SURPLUS_BYTES = 16_777_216
"""Bytes after a running request that are read and discarded; a client that sends more is disconnected."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol for one client connection; each request becomes a `RequestCycle`.

    Pipelined requests are not queued: uvicorn would stop reading, and could not detect that the client disconnects.
    Instead the running response becomes the last one of its connection, so the client sends the next request again (RFC
    9112, 9.3.2).

    `on_headers_complete` inlines uvicorn's helper functions: a call that runs once per request costs more than its
    body.
    """

    cycle: RequestCycle | None  # type: ignore[assignment]  # uvicorn declares it without None, which it is at first
    _surplus = -1
    """Bytes discarded after the last request of the connection; negative while more requests are accepted."""
    _offers_upgrade = False
    """Whether the request that is being read offers another protocol."""
    _idle_since: float | None = None
    """Since when no request is being served, in seconds of the loop's clock; None while one is."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # asyncio passes a Transport
        """Turn on TCP keepalive: between writes only the kernel can detect a client that vanished without a FIN."""
        super().connection_made(transport)
        self._start_idle()
        opened = transport.get_extra_info("socket")
        if opened is not None and opened.family in (socket.AF_INET, socket.AF_INET6):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEPALIVE_OPTIONS.items():
                if (option := getattr(socket, name, None)) is not None:
                    opened.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        """Parse requests.

        After the last one, keep reading and discard the data: otherwise its disconnect goes unnoticed.
        """
        if self._surplus >= 0:
            self._surplus += len(data)
            if self._surplus > MAX_SURPLUS_BYTES:
                self.transport.abort()
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._surplus < 0 and self._offers_upgrade:
                self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse the request again without its offer of another protocol (RFC 9110, 7.8), which ends the parser."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % field for field in self.headers if field[0] not in UPGRADE_HEADERS]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def on_message_begin(self) -> None:
        """Start to read a request. If another one is running, that one becomes the last of the connection."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._surplus = max(self._surplus, 0)
            cycle.keep_alive = False
        else:
            self._idle_since = self.loop.time()
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        """Start to serve a request, as uvicorn does, but without upgrades and its limit on concurrent connections."""
        if self._surplus >= 0:
            return
        parser, url = self.parser, self.url
        method, version = parser.get_method(), parser.get_http_version()
        self._offers_upgrade = parser.should_upgrade() and method != b"CONNECT"
        if self._offers_upgrade:
            return
        self._idle_since = None
        raw_path, _, query = url.partition(b"?")
        if url[:1] != b"/" or url[:2] == b"//" or url.find(b"#") >= 0:  # absolute form, among others (RFC 9112, 3.2)
            parsed = httptools.parse_url(url)
            raw_path, query = parsed.path, parsed.query or b""
            if parsed.schema:
                self.headers = with_authority(self.headers, parsed.host, parsed.port)
        path = raw_path.decode("ascii")
        scope: HTTPScope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "method": method.decode("ascii"),
            "scheme": self.scheme or "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": self.root_path,
            "headers": self.headers,
            "client": self.client,
            "server": self.server,
            "state": self.app_state.copy(),
        }
        self.cycle = cycle = RequestCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            default_headers=self.server_state.default_headers,
            expects_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        scope["extensions"] = {CONNECTION_EXTENSION: cycle}  # type: ignore[dict-item]  # not the dict that ASGI declares
        task = self.loop.create_task(cycle.run_asgi(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_body(self, body: bytes) -> None:
        """Store a part of the running request's body; it is discarded once the route has read the body it needs."""
        cycle = self.cycle
        if cycle is None or self._surplus >= 0 or cycle.on_disconnect is not None or cycle.response_complete:
            return
        if not cycle.body:
            cycle.body = body
        else:
            if isinstance(cycle.body, bytes):
                cycle.body = bytearray(cycle.body)
            cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.has_unread = True
        if cycle.body_arrived is not None:
            cycle.wake_receiver()

    def on_message_complete(self) -> None:
        """Mark the body of the running request as complete."""
        cycle = self.cycle
        if cycle is None or self._surplus >= 0 or self._offers_upgrade:
            return
        cycle.more_body = False
        if cycle.response_complete:
            return
        cycle.has_unread = True
        if cycle.body_arrived is not None:
            cycle.wake_receiver()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        self._start_idle()

    def _start_idle(self) -> None:
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            timeout = self.timeout_keep_alive
            self.timeout_keep_alive_task = self.loop.call_later(timeout, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was idle for `timeout_keep_alive` seconds, also during an incomplete request head.

        One timer serves many requests: if it fires while the connection is not due yet, it is set again for the rest of
        the time. While a request is served no timer is needed: the end of its response sets the next one.
        """
        self.timeout_keep_alive_task = None
        if self._idle_since is None or self.transport.is_closing():
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        """Mark the running response as `full`."""
        super().pause_writing()
        if (cycle := self.cycle) is not None:
            cycle.full = not cycle.disconnected

    def resume_writing(self) -> None:
        """Mark the running response as not `full`."""
        super().resume_writing()
        if (cycle := self.cycle) is not None:
            cycle.full = False

    def eof_received(self) -> None:
        """Treat a client that has closed its side as disconnected, and drop bytes that it has not read."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return
        cycle.disconnected = True
        self.flow.resume_writing()
        cycle.client_left()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the disconnect to the running call, and cancel the keep-alive timer so that it keeps nothing alive."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves the timer running if the connection broke
        if (cycle := self.cycle) is not None:
            cycle.client_left()

    def send_400_response(self, msg: str) -> None:
        """Answer 400 and close: after a parse error the start of the next request is unknown. *msg* is the cause."""
        if self._surplus >= 0:
            return
        running = self.cycle
        answered = running is not None and running.response_complete and running.more_body  # the body of this request
        if not answered and (running is None or running.response_complete or not running.response_started):
            body = openai_body(invalid_request(f"The request is not valid HTTP: {msg}", None))
            head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(body)
            name = uuid4().hex
            head += b"x-should-retry: false\r\nx-request-id: %b\r\nconnection: close\r\n\r\n" % name.encode()
            self.transport.write(head + body)
            if running is not None and not running.response_complete:
                running.end_with_bad_request()  # the running request leaves the record
            elif (record := self.app_state.get(BAD_REQUEST_STATE)) is not None:
                record(name)
        self.transport.close()
