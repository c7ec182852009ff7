"""The lifetime of a client connection: its timeouts, its refusals and its end."""

from __future__ import annotations

import asyncio
import select
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sidecar.downstream.buffered_bodies import HEADS_OWNER
from sidecar.downstream.client_errors import ClientError, draining, invalid_request
from sidecar.downstream.request import new_request_id, request_id
from sidecar.downstream.route import REQUEST_ID_HEADER

from .http_limits import (
    HTTP_LIMITS_STATE,
    LEAST_BODY_RATE,
    LINGER_SECONDS,
    MAX_LINGER_SECONDS,
    MAX_REFUSED_CONNECTIONS,
    SHUTDOWN_LINGER_SECONDS,
    HttpLimits,
    slow_head,
)
from .request_cycle import RequestCycle
from .server_refusal import refusal_bytes

VANISHED_CLIENT_SECONDS = 120
"""A client whose host has not answered TCP for this long counts as disconnected."""
KEEPALIVE_OPTIONS = {
    "TCP_KEEPIDLE": VANISHED_CLIENT_SECONDS // 2,
    "TCP_KEEPINTVL": VANISHED_CLIENT_SECONDS // 8,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": VANISHED_CLIENT_SECONDS * 1000,
}
"""TCP options of each client connection, set where the platform has them."""
UNREAD_CHECK_SECONDS = 0.02
"""How often a connection whose reading is paused is checked for its end."""
_HANGUP_EVENT = getattr(select, "POLLRDHUP", select.POLLHUP)
RECEIVES_NOTHING, RECEIVES_HEAD, RECEIVES_BODY = range(3)
"""Parts of a request that a connection reads; only the first one is false."""


class ClientProtocol(HttpToolsProtocol):
    """One client connection, without the parsing of its requests.

    One timer serves all waits for the client (idle, a head, a body, the end of a refused request) and many requests: if
    it fires before the current wait is due, it is set again for the rest.
    """

    cycle: RequestCycle | None  # type: ignore[assignment]  # uvicorn declares it without None, which it is at first
    _limits: HttpLimits
    _surplus = -1
    """Bytes discarded after the last request of the connection; negative while more requests are accepted."""
    _receives = RECEIVES_NOTHING
    """The part of a request that is being read."""
    _body_bytes = _body_mark = 0
    """Bytes of data in all bodies of the connection, now and at the start of the wait."""
    _held_bytes = 0
    """Bytes of an incomplete head that count in the total of unread requests."""
    _lingered_bytes = 0
    """The surplus at the start of the wait for the end of a refused request."""
    _lingers_until = 0.0
    """Until when the end of a refused request is waited for."""
    _waits_since: float | None = None
    """Since when the client is waited for, in seconds of the loop's clock; None while a request is served."""
    _unread_timer: asyncio.TimerHandle | None = None
    """Fires while reading is paused, to detect the end of the connection."""
    _wait_seconds = 0.0
    """How long the current wait may take."""
    _timer_due = 0.0
    """When the timer fires, if it is set."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # asyncio passes a Transport
        """Start to wait for a request; refuse the connection where the process has too many.

        TCP keepalive is turned on: between writes only the kernel can detect a client that vanished without a FIN.
        """
        super().connection_made(transport)
        configured = self.app_state.get(HTTP_LIMITS_STATE)
        self._limits = (configured and configured()) or HttpLimits()
        self._start_idle()
        opened = transport.get_extra_info("socket")
        if opened is not None and opened.family in (socket.AF_INET, socket.AF_INET6):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEPALIVE_OPTIONS.items():
                if (option := getattr(socket, name, None)) is not None:
                    opened.setsockopt(socket.IPPROTO_TCP, option, value)
        if len(self.connections) > self._limits.max_connections:
            self._refuse_connection()

    def _refuse_connection(self) -> None:
        limits, opened = self._limits, len(self.connections)
        limits.refused_connections.refused()
        if opened > limits.max_connections + MAX_REFUSED_CONNECTIONS:
            self.transport.abort()
        else:
            self._refuse(limits.too_many_connections())

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the disconnect to the running call, and cancel the timer, which refers to the connection."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves the timer running if the connection broke
        self._release_head()
        if self._limits.refused_connections.is_open:
            self._limits.refused_connections.accepted()
        if (cycle := self.cycle) is not None:
            cycle.client_left()

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

    def _pause_reading(self, cycle: RequestCycle) -> None:
        """Stop reading the body of *cycle*, of which enough waits for its route."""
        self.flow.pause_reading()
        if cycle.streams_body:
            self._watch_unread()

    def _watch_unread(self) -> None:
        """Detect the end of a connection that is not read, because its body is ahead of the upstream."""
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(UNREAD_CHECK_SECONDS, self._check_unread)

    def _check_unread(self) -> None:
        self._unread_timer = None
        cycle = self.cycle
        if cycle is None or cycle.disconnected or not self.flow.read_paused or self.transport.is_closing():
            return
        opened = self.transport.get_extra_info("socket")
        if opened is not None and has_hung_up(opened.fileno()):
            self.eof_received()
            self.transport.abort()
        else:
            self._watch_unread()

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

    def on_response_complete(self) -> None:
        """Wait for the next request, or close the connection behind the last one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.keep_alive:
            if self.cycle.more_body or self._surplus >= 0:
                self._linger()
            else:
                self.transport.close()
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        self._start_idle()

    def _start_idle(self) -> None:
        """Wait for the next request. Inlines `_wait`: a timer that is set fires earlier than this wait ends."""
        self._waits_since = now = self.loop.time()
        self._wait_seconds = self.timeout_keep_alive
        if self.timeout_keep_alive_task is None:
            self._set_timer(now, self._wait_seconds)

    def _wait(self, seconds: float) -> None:
        """Start to wait for the client, for at most *seconds*."""
        now = self.loop.time()
        self._waits_since, self._wait_seconds = now, seconds
        self._set_timer(now, seconds)

    def _set_timer(self, now: float, seconds: float) -> None:
        """Let the timer fire in *seconds* or earlier, within the keep-alive time in any case: see `_start_idle`."""
        seconds = min(seconds, self.timeout_keep_alive)
        if self.timeout_keep_alive_task is not None:
            if self._timer_due <= now + seconds:
                return
            self.timeout_keep_alive_task.cancel()
        self._timer_due = now + seconds
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """End the current wait if it is due; called by the timer.

        While a request is served no timer is needed: the end of its response sets the next one.
        """
        self.timeout_keep_alive_task = None
        if self._waits_since is None or self.transport.is_closing():
            return
        now = self.loop.time()
        left = self._waits_since + self._wait_seconds - now
        if left > 0:
            self._set_timer(now, left)
        elif self._surplus >= 0:
            self._linger_on(now)
        elif self._receives == RECEIVES_NOTHING:
            self.transport.close()
        elif self._receives == RECEIVES_HEAD:
            self._refuse(slow_head(self._wait_seconds))
        elif self.flow.read_paused or self._body_bytes - self._body_mark >= LEAST_BODY_RATE * self._wait_seconds:
            self._body_mark = self._body_bytes
            self._wait(self._wait_seconds)
        else:
            self._refuse(self._limits.slow_body())

    def shutdown(self) -> None:
        """Close the connection behind its running response; refuse a request that has not arrived. Called at the stop."""
        if self._surplus >= 0 and self._waits_since is not None:
            self.transport.close()
        elif self._receives and self._surplus < 0:
            self._refuse(draining())
            self._wait(SHUTDOWN_LINGER_SECONDS)
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """See uvicorn; *msg* is the cause."""
        self._refuse(invalid_request(msg, None))

    def _refuse(self, error: ClientError) -> None:
        """Answer the request that is being read with *error*, unless it is answered; then close the connection.

        Bytes that are no request, behind one that is complete, are ignored: its answer is the last of the connection.
        """
        cycle = self.cycle
        is_open = cycle is not None and not cycle.response_complete
        if cycle is not None and is_open and not cycle.more_body:
            self._surplus, cycle.keep_alive = 0, False
            return
        if cycle is not None and cycle.more_body and (cycle.response_complete or cycle.response_started):
            self._linger()
            return
        headers = cycle.scope["headers"] if cycle is not None and is_open else self.headers or ()
        name = request_id(dict(headers).get(REQUEST_ID_HEADER), new_request_id)
        self.transport.write(refusal_bytes(error, name))
        if cycle is not None and is_open:
            cycle.end_with(error, name)  # its route leaves the record
        elif self._limits.record is not None:
            self._limits.record(name, error, self.client[0] if self.client else "")
        self._linger()

    def _linger(self) -> None:
        """Close the connection once the client has closed its side, or has sent nothing for `LINGER_SECONDS`.

        What it sends is discarded, for at most `MAX_LINGER_SECONDS`.
        """
        self._surplus, self.headers = max(self._surplus, 0), []
        self._lingered_bytes, self._lingers_until = self._surplus, self.loop.time() + MAX_LINGER_SECONDS
        self._release_head()
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._wait(LINGER_SECONDS)

    def _linger_on(self, now: float) -> None:
        """Wait again for a client that is still sending."""
        if self._surplus == self._lingered_bytes or now >= self._lingers_until:
            self.transport.close()
            return
        self._lingered_bytes = self._surplus
        self._wait(LINGER_SECONDS)

    def _release_head(self) -> None:
        if held := self._held_bytes:
            self._held_bytes = 0
            self._limits.buffered.release(held, HEADS_OWNER)


def has_hung_up(descriptor: int) -> bool:
    """Whether the peer of a socket has closed its side, also behind bytes that have not been read. Takes a microsecond."""
    poller = select.poll()
    poller.register(descriptor, _HANGUP_EVENT)
    return bool(poller.poll(0))
