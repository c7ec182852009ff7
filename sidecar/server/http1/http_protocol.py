"""uvicorn's HTTP protocol, extended to bound what clients send and to detect their disconnects.

Disconnects are detected also during pipelined or paused reads. Requests that cannot be parsed, that exceed a limit or
that arrive too slowly are answered with JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from sidecar.downstream.buffered_bodies import HEADS_OWNER
from sidecar.downstream.client_connection import CONNECTION_EXTENSION
from sidecar.downstream.client_errors import ClientError, invalid_request, unread_requests_full

from .client_protocol import RECEIVES_BODY, RECEIVES_HEAD, RECEIVES_NOTHING, ClientProtocol
from .http_limits import (
    HEAD_SECONDS,
    MAX_HEAD_BYTES,
    MAX_HEAD_FIELDS,
    MAX_OVERHEAD_RATIO,
    MAX_SURPLUS_BYTES,
    MAX_URL_BYTES,
    coding_fault,
    long_head,
    long_url,
    many_fields,
    much_overhead,
    no_websockets,
    other_version,
)
from .request_cycle import RequestCycle
from .request_target import InvalidTarget, unusual_target, with_host
from .upgrade import head_without_upgrade, is_websocket

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope

ANSWERED_READ_BYTES = 4_096
"""Bytes that are parsed at a time while the rest of the body of an answered request arrives."""
USUAL_VERSION = "1.1"
HTTP_VERSIONS = (USUAL_VERSION, "1.0")
_NOTED_FIELDS = frozenset({b"expect", b"transfer-encoding"})


class HttpProtocol(ClientProtocol):
    """uvicorn's HTTP protocol for one client connection; each request becomes a `RequestCycle`.

    Pipelined requests are not queued: uvicorn would stop reading, and could not detect that the client disconnects.
    Instead the running response becomes the last one of its connection, so the client sends the next request again (RFC
    9112, 9.3.2).

    `on_headers_complete` inlines uvicorn's helper functions: a call that runs once per request costs more than its
    body.
    """

    _offers_upgrade = False
    """Whether the request that is being read offers another protocol."""
    _head_bytes = 0
    """Bytes read since the end of the last request; 0 while a body is read."""
    _body_reads = _body_start = 0
    """Bytes read for the current body behind those that came with its head; data bytes of all bodies before that."""
    _data_reads = _data_bytes = 0
    """`_body_reads` and `_body_bytes` when data has arrived last. Behind that the parser may be keeping trailers."""
    _codings: tuple[bytes, ...] = ()
    """The values of `Transfer-Encoding` of the request that is being read."""
    _fault: ClientError | None = None
    """Why a callback of the parser has stopped it."""

    def data_received(self, data: bytes) -> None:
        """Parse requests.

        After the last one, keep reading and discard the data: otherwise its disconnect goes unnoticed.
        """
        if self._surplus >= 0:
            self._surplus += len(data)
            if self._surplus > MAX_SURPLUS_BYTES:
                self.transport.abort()
            return
        if self._receives == RECEIVES_BODY:
            if len(data) > ANSWERED_READ_BYTES and self.cycle is not None and self.cycle.response_complete:
                self._parse_behind_answer(data)
                return
            self._body_reads += len(data)
        else:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._parse_long_read(data)
                return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._surplus < 0 and self._offers_upgrade:
                self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            if self._surplus < 0:
                self._refuse(self._fault or invalid_request("The request is not valid HTTP.", None))
            return
        if self._receives and self._surplus < 0:
            self._await_rest()

    def _parse_behind_answer(self, data: bytes) -> None:
        """Parse *data*, in which the body of an answered request may end, and the next head begin.

        Bytes of that head in the same part do not count in its limit, so the parts are small.
        """
        for start in range(0, len(data), ANSWERED_READ_BYTES):
            self.data_received(data[start : start + ANSWERED_READ_BYTES])

    def _parse_long_read(self, data: bytes) -> None:
        """Parse *data*, which exceeds the limit of a head: its head must end within the limit.

        So the parser never gets more of a head, whose parts it keeps and copies at each read.
        """
        self._head_bytes -= len(data)
        room = MAX_HEAD_BYTES - self._head_bytes
        if room:
            self.data_received(data[:room])
        if self._surplus >= 0:
            return
        if self._head_bytes:  # the head has not ended
            self._refuse(long_head(self.url if self._receives == RECEIVES_HEAD else b""))
        else:
            self.data_received(data[room:])

    def _await_rest(self) -> None:
        """Limit the time, and the memory or overhead, of a head or body that is not complete. Called per read."""
        if self._receives == RECEIVES_HEAD:
            if self._waits_since is None:
                self._wait(min(HEAD_SECONDS, self.timeout_keep_alive))
            held = self._head_bytes - self._held_bytes
            if len(self.headers) > MAX_HEAD_FIELDS:
                self._refuse(many_fields("request head has"))
            elif not self._limits.buffered.take(held, HEADS_OWNER):
                self._refuse(unread_requests_full())
            else:
                self._held_bytes += held
        elif self._waits_since is None:  # the first read of the body
            self._body_reads, self._body_start = 0, self._body_bytes
            self._data_reads, self._data_bytes = 0, self._body_bytes
            self._body_mark = self._body_bytes
            self._wait(self._limits.body_timeout)
        else:
            arrived = self._body_bytes - self._body_start
            if self._body_bytes > self._data_bytes:
                self._data_reads, self._data_bytes = self._body_reads, self._body_bytes
            if (
                self._body_reads - arrived > MAX_HEAD_BYTES + MAX_OVERHEAD_RATIO * arrived
                or self._body_reads - self._data_reads > MAX_HEAD_BYTES
            ):
                self._refuse(much_overhead())
            elif len(self.headers) > MAX_HEAD_FIELDS:
                self._refuse(many_fields("trailers have"))

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse the request again without its offer of another protocol, which ends the parser; refuse a WebSocket."""
        if is_websocket(self.parser, self.headers):
            self._refuse(no_websockets())
            return
        head = head_without_upgrade(self.parser, self.url, self.headers)
        self._head_bytes = 0
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(head + rest)

    def on_message_begin(self) -> None:
        """Start to read a request. If another one is running, that one becomes the last of the connection."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._surplus = max(self._surplus, 0)
            cycle.keep_alive = False
            msg = "a request behind a running one"
            raise ValueError(msg)  # ends the parser: what follows is discarded
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._receives, self._waits_since, self._codings = RECEIVES_HEAD, None, ()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field of the head, or of the trailers, which are ignored."""
        name = name.lower()
        if name in _NOTED_FIELDS and self._receives == RECEIVES_HEAD:
            if name == b"transfer-encoding":
                self._codings += (value,)
            elif value.lower() == b"100-continue":
                self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Start to serve a request, as uvicorn does, but without upgrades and its limit on concurrent connections."""
        if self._surplus >= 0:
            return
        parser, url = self.parser, self.url
        method, version = parser.get_method(), parser.get_http_version()
        self._offers_upgrade = parser.should_upgrade() and method != b"CONNECT"
        if self._offers_upgrade:
            return
        headers = self.headers
        self._receives, self._waits_since, self._head_bytes = RECEIVES_BODY, None, 0
        if self._held_bytes:
            self._release_head()
        if version != USUAL_VERSION or self._codings or len(headers) > MAX_HEAD_FIELDS or len(url) > MAX_URL_BYTES:
            self._check_head(version)
        raw_path, _, query = url.partition(b"?")
        if url[:1] != b"/" or url.find(b"#") >= 0 or method == b"CONNECT":
            raw_path, query, headers = self._unusual_target(method, headers)
        path = raw_path.decode("ascii")
        self.headers = []  # for trailers, which are no part of the head
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
            "headers": headers,
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

    def _check_head(self, version: str) -> None:
        """Stop the parser if the head exceeds a limit, or its body or version of HTTP is not supported."""
        if version not in HTTP_VERSIONS:
            self._stop(other_version())
        if len(self.headers) > MAX_HEAD_FIELDS:
            self._stop(many_fields("request head has"))
        if len(self.url) > MAX_URL_BYTES:
            self._stop(long_url())
        if self._codings and (fault := coding_fault(self._codings, version)) is not None:
            self._stop(fault)

    def on_body(self, body: bytes) -> None:
        """Store a part of the running request's body; it is discarded once the route has read the body it needs."""
        cycle = self.cycle
        self._body_bytes += len(body)
        if cycle is None or self._surplus >= 0 or cycle.response_complete:
            return
        if cycle.on_disconnect is not None and not cycle.streams_body:
            return
        if not cycle.body:
            cycle.body = body
        else:
            if isinstance(cycle.body, bytes):
                cycle.body = bytearray(cycle.body)
            cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self._pause_reading(cycle)
        cycle.has_unread = True
        if cycle.body_arrived is not None:
            cycle.wake_receiver()

    def on_message_complete(self) -> None:
        """Mark the body of the running request as complete."""
        cycle = self.cycle
        if cycle is None or self._surplus >= 0 or self._offers_upgrade:
            return
        if self.headers and len(self.headers) > MAX_HEAD_FIELDS:
            self._stop(many_fields("trailers have"))
        self._receives, self._waits_since = RECEIVES_NOTHING, None
        cycle.more_body = False
        if cycle.response_complete:
            self._start_idle()
            return
        cycle.has_unread = True
        if cycle.body_arrived is not None:
            cycle.wake_receiver()

    def _unusual_target(
        self, method: bytes, headers: list[tuple[bytes, bytes]]
    ) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
        """Return path, query and headers of a request whose target is not a plain path."""
        try:
            path, query, authority = unusual_target(self.url, method)
        except InvalidTarget as error:
            self._stop(invalid_request(str(error), None))
        return path, query, with_host(headers, authority) if authority else headers

    def _stop(self, fault: ClientError) -> NoReturn:
        """Stop the parser, inside one of its callbacks, and refuse the request."""
        self._fault = fault
        raise ValueError(fault.code)
