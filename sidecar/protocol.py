"""uvicorn's protocol, where it hears less of its clients than a call must know, or says what they cannot read."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import unquote
from uuid import uuid4

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .cycle import Cycle
from .errors import invalid_request, openai_body

SILENCE = 120
"""Seconds after which a client whose machine says nothing at all has left."""
OPTIONS = {
    "TCP_KEEPIDLE": SILENCE // 2,
    "TCP_KEEPINTVL": SILENCE // 8,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": SILENCE * 1000,
}


OFFERS = frozenset({b"upgrade", b"http2-settings"})
"""What offers another protocol; the `connection` that names them offers nothing without."""
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
            self._unset_keepalive_if_required()
            self._feed(data)
            return
        self._surplus += len(data)
        if self._surplus > SURPLUS:
            self.transport.abort()

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offered:
            if self._surplus < 0 and self._offered():
                self._stay(data[offered.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _offered(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _stay(self, rest: bytes) -> None:
        """Pass over an offer to speak otherwise (RFC 9110, 7.8); the parser has taken it for an end, and begins anew."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % field for field in self.headers if field[0] not in OFFERS]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def on_message_begin(self) -> None:
        """Let a request that comes while another one runs make that one the last."""
        if self._running():
            self._surplus = max(self._surplus, 0)
            self.cycle.keep_alive = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Begin to serve a request: as uvicorn does, without what is not for us (a most of connections)."""
        scope, parser = self.scope, self.parser
        if self._surplus >= 0 or self._offered():
            return
        version = parser.get_http_version()
        raw_path, query = _parts(self.url)
        path = raw_path.decode("ascii")
        scope["method"], scope["http_version"] = parser.get_method().decode("ascii"), version
        scope["path"], scope["raw_path"] = unquote(path) if "%" in path else path, raw_path
        scope["query_string"] = query
        self.cycle = Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self._start_asgi_task(self.cycle, self.app)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body of the request that runs, while somebody waits for it: what comes later stops nothing."""
        if self._surplus < 0 and self.cycle.gone is None:  # type: ignore[attr-defined]  # it is one of ours
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request that runs is whole."""
        if self._surplus < 0 and not self._offered():
            super().on_message_complete()

    def eof_received(self) -> None:
        """Count a client that has closed its side as gone, and do not wait until it has read what it will not read."""
        if not self._running():
            return
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self.flow.resume_writing()
        self._left()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the call that runs."""
        super().connection_lost(exc)
        self._left()

    def _left(self) -> None:
        cycle = self.cycle
        if isinstance(cycle, Cycle):
            cycle.left()

    def _running(self) -> bool:
        cycle: Cycle | None = self.cycle  # type: ignore[assignment]  # we make no others
        return cycle is not None and not cycle.response_complete

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read, and close: nothing behind it can be trusted to begin where it seems to."""
        if self._surplus >= 0:
            return
        running: Cycle | None = self.cycle  # type: ignore[assignment]  # as above
        if running is None or running.response_complete or not running.response_started:
            body = openai_body(invalid_request(f"This is not valid HTTP: {msg}", None))
            head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(body)
            head += b"x-should-retry: false\r\nx-request-id: %b\r\nconnection: close\r\n\r\n" % uuid4().hex.encode()
            self.transport.write(head + body)
        self.transport.close()


def _parts(url: bytes) -> tuple[bytes, bytes]:
    """Return the path and the query of a request's target, of whichever form (RFC 9112, 3.2)."""
    if url.startswith(b"/") and b"#" not in url and not url.startswith(b"//"):
        path, _, query = url.partition(b"?")
        return path, query
    parsed = httptools.parse_url(url)
    return parsed.path, parsed.query or b""
