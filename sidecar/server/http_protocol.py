"""uvicorn's protocol, where it hears less of its clients than a call must know, or says what they cannot read."""

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

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope

VANISHED_CLIENT_SECONDS = 120
"""Seconds after which a client whose machine says nothing at all has left."""
KEEPALIVE_OPTIONS = {
    "TCP_KEEPIDLE": VANISHED_CLIENT_SECONDS // 2,
    "TCP_KEEPINTVL": VANISHED_CLIENT_SECONDS // 8,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": VANISHED_CLIENT_SECONDS * 1000,
}


UPGRADE_HEADERS = frozenset({b"upgrade", b"http2-settings"})
"""What offers another protocol; the `connection` that names them offers nothing without."""
MAX_SURPLUS_BYTES = 16_777_216
"""Bytes behind a running request that are read and thrown away; whoever sends more is cut off."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with JSON for requests that cannot be parsed, and never a word into an answer that is running.

    No request waits behind another one: uvicorn would stop reading, and no longer hear the client leave.  The running
    answer becomes the connection's last, so that the client sends the next one again (RFC 9112, 9.3.2).

    What each request goes through is written out here: a function that runs once for a call costs more than its work.
    """

    cycle: RequestCycle | None  # type: ignore[assignment]  # uvicorn's has none either at first, and does not say so
    _surplus = -1
    """How many bytes behind the last request were thrown away; negative while there is none that is known as the last."""
    _offered = False
    """Whether the request that was read last offers another protocol."""
    _idle: float | None = None
    """Since when nothing is asked for, or the head of a request is coming; None while one is served."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # it is one
        """Have the system look for clients that vanish without a word, where nothing is sent that would find them."""
        super().connection_made(transport)
        self._rest()
        opened = transport.get_extra_info("socket")
        if opened is not None and opened.family in (socket.AF_INET, socket.AF_INET6):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEPALIVE_OPTIONS.items():
                if (option := getattr(socket, name, None)) is not None:
                    opened.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        """Read on behind the last request too: only so is its client's leaving heard."""
        if self._surplus >= 0:
            self._surplus += len(data)
            if self._surplus > MAX_SURPLUS_BYTES:
                self.transport.abort()
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offered:
            if self._surplus < 0 and self._offered:
                self._stay(data[offered.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _stay(self, rest: bytes) -> None:
        """Pass over an offer to speak otherwise (RFC 9110, 7.8); the parser has taken it for an end, and begins anew."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % field for field in self.headers if field[0] not in UPGRADE_HEADERS]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def on_message_begin(self) -> None:
        """Let a request that comes while another one runs make that one the last."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._surplus = max(self._surplus, 0)
            cycle.keep_alive = False
        else:
            self._idle = self.loop.time()
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        """Begin to serve a request: as uvicorn does, without what is not for us (a most of connections)."""
        if self._surplus >= 0:
            return
        parser, url = self.parser, self.url
        method, version = parser.get_method(), parser.get_http_version()
        self._offered = parser.should_upgrade() and method != b"CONNECT"
        if self._offered:
            return
        self._idle = None
        raw_path, _, query = url.partition(b"?")
        if url[:1] != b"/" or url[:2] == b"//" or b"#" in url:  # of another form (RFC 9112, 3.2)
            parsed = httptools.parse_url(url)
            raw_path, query = parsed.path, parsed.query or b""
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
            expects=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        scope["extensions"] = {CONNECTION_EXTENSION: cycle}  # type: ignore[dict-item]  # an object of ours
        task = self.loop.create_task(cycle.run_asgi(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body of the request that runs, while somebody waits for it: what comes later stops nothing."""
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
        cycle.news = True
        if cycle.waking is not None:
            cycle.wake()

    def on_message_complete(self) -> None:
        """Note that the request that runs is whole."""
        cycle = self.cycle
        if cycle is None or self._surplus >= 0 or self._offered or cycle.response_complete:
            return
        cycle.more_body, cycle.news = False, True
        if cycle.waking is not None:
            cycle.wake()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        self._rest()

    def _rest(self) -> None:
        self._idle = self.loop.time()
        if self.timeout_keep_alive_task is None:
            wait = self.timeout_keep_alive
            self.timeout_keep_alive_task = self.loop.call_later(wait, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close what was idle for long enough, also where a request has begun and does not go on.

        One timer looks after many requests: it goes off for an earlier one, and is set for what is left behind the last.
        Where one is served, its answer sets the next timer.
        """
        self.timeout_keep_alive_task = None
        if self._idle is None or self.transport.is_closing():
            return
        left = self._idle + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        """Tell the answer that runs, too."""
        super().pause_writing()
        if (cycle := self.cycle) is not None:
            cycle.full = not cycle.disconnected

    def resume_writing(self) -> None:
        """Tell the answer that runs, too."""
        super().resume_writing()
        if (cycle := self.cycle) is not None:
            cycle.full = False

    def eof_received(self) -> None:
        """Count a client that has closed its side as gone, and do not wait until it has read what it will not read."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return
        cycle.disconnected = True
        self.flow.resume_writing()
        cycle.client_left()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the call that runs, and let nothing hold what is gone."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves it where the connection broke
        if (cycle := self.cycle) is not None:
            cycle.client_left()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read, and close: nothing behind it can be trusted to begin where it seems to."""
        if self._surplus >= 0:
            return
        running = self.cycle
        if running is None or running.response_complete or not running.response_started:
            body = openai_body(invalid_request(f"This is not valid HTTP: {msg}", None))
            head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(body)
            head += b"x-should-retry: false\r\nx-request-id: %b\r\nconnection: close\r\n\r\n" % uuid4().hex.encode()
            self.transport.write(head + body)
        self.transport.close()
