"""One HTTP/1.1 connection to an upstream server, and the response that arrives on it.  httptools parses.

- Bytes that arrived before a connection broke, or before the parser failed, are handed out first.
- Bytes that arrive while no request is open belong to no request: the connection is aborted.
- Reading pauses while `READ_AHEAD_BYTES` of a body wait for their reader.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias, cast

import httptools
import httpx

from .body_sender import BodySender, RequestWriter
from .response import Alive

READ_AHEAD_BYTES = 65_536
"""Bytes of a body that may wait for their reader before reading pauses.  One network read may exceed it."""
READ_AHEAD_PIECES = 4_096
"""The same limit in pieces (chunks), each of which has its own memory overhead."""
MAX_HEAD_BYTES = 131_072
"""Bytes that may arrive before the head is complete, informational heads included, beside one network read.

httptools copies a field that is not complete at each read; an hour of `102 Processing` each second has 97 kB.
"""
MAX_NON_BODY_BYTES = 1_048_576
"""Bytes that may arrive behind the head without any body byte: chunk extensions, trailers."""
REUSE_DELAY = 0.01
"""Seconds before a connection whose reading was paused is reused: unread bytes or an end behind the response show up first."""
MAX_HEADER_FIELDS = 512
MAX_FIELD_BYTES = 65_536
CHUNKED_CODING = b"chunked"
FIRST_STATUS, SWITCHING_PROTOCOLS, FIRST_FINAL_STATUS = 100, 101, 200

Callback: TypeAlias = "Callable[[Connection], None]"


class Connection(RequestWriter, asyncio.Protocol):
    """One connection and its current response, which each `request` begins anew.

    `status` is 0 until the head of the response has arrived.  *keep* is called to return the connection to its pool,
    *drop* exactly once when it is lost.
    """

    __slots__ = (
        "_drop",
        "_head",
        "_keep",
        "_message_complete",
        "_non_body_bytes",
        "_on_alive",
        "_parser",
        "_paused",
        "_pieces",
        "_requested",
        "_trailers",
        "_until_close",
        "_was_paused",
        "heard",
        "on_body",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, keep: Callback, drop: Callback) -> None:
        self._loop, self._keep, self._drop = loop, keep, drop
        self.transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        """Take one piece of the body.  A builtin, because it is called for every chunk, often once per token."""
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        # Some servers end lines with LF alone, and some send a length beside `Transfer-Encoding`, which overrides it.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_chunked_length=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        self.should_close = self._paused = False
        self._head: asyncio.Future[None] | None = None
        self._on_alive: Alive | None = None
        self._writable: asyncio.Future[None] | None = None
        self.sender: BodySender | None = None
        self._begin()
        self._requested = False

    def _begin(self) -> None:
        """Reset the state of the response, for a new request."""
        self._requested, self.on_data = True, None
        self.heard = self.ended = self._until_close = self._message_complete = self._was_paused = False
        self.status = 0
        self.broken = None
        self.fields = []
        self._pieces.clear()
        self._non_body_bytes = self._trailers = 0

    def request(self, data: bytes, on_alive: Alive | None = None) -> asyncio.Future[None]:
        """Send *data*, a whole request; return a future that is done when the head of the response has arrived.

        *on_alive* is called for each read before that.
        Where the connection breaks before that, the future is done too: then `status` is 0 and `broken` is set.
        """
        assert self.transport is not None  # for the type checker: the pool hands out open connections
        self._begin()
        self._on_alive = on_alive
        self._head = head = self._loop.create_future()
        self.transport.write(data)
        return head

    def take(self) -> bytes:
        """See `UpstreamResponse.take`."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._paused:
            self._paused = False
            if (transport := self.transport) is not None and not transport.is_closing():
                transport.resume_reading()
        return data

    async def aclose(self) -> None:
        """See `UpstreamResponse.aclose`."""
        if (sender := self.sender) is not None:
            self.sender = None
            if not sender.is_done:
                sender.cancel()
                self.abort()
                return
        transport = self.transport
        if transport is None or not self.ended or self._paused or transport.get_write_buffer_size():
            self.abort()
            return
        self._requested, self.on_data = False, None
        self._pieces.clear()
        if self._was_paused:
            self._loop.call_later(REUSE_DELAY, self._keep, self)
        else:
            self._keep(self)

    def abort(self) -> None:
        """Close at once and discard unsent bytes: a server that does not read must not keep the socket open."""
        self._requested = self._paused = False
        self.on_data = None
        self._pieces.clear()
        if (transport := self.transport) is not None:
            transport.abort()

    def close(self) -> None:
        """Close an idle connection, after a TLS shutdown where there is one."""
        if (transport := self.transport) is not None:
            transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`.  Abort if bytes arrived before, behind a TLS handshake in a tunnel."""
        self.transport = cast("asyncio.Transport", transport)
        if self.should_close:
            transport.abort()  # type: ignore[attr-defined]  # as above

    def data_received(self, data: bytes) -> None:
        """Parse one network read, then push what it brought of the body."""
        parser = self._parser
        if not self._requested or parser is None:
            self.should_close = True
            if self.transport is not None:
                self.transport.abort()
            return
        self.heard = True
        pieces = self._pieces
        before = len(pieces)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.ended = self.should_close = True
            self.status = self.status or SWITCHING_PROTOCOLS
        except httptools.HttpParserError:
            self._reject("the response is not valid HTTP")
        if len(pieces) > before:
            self._non_body_bytes = 0
        else:
            self._non_body_bytes += len(data)
            limit = MAX_NON_BODY_BYTES if self.status else MAX_HEAD_BYTES
            if self._non_body_bytes > limit:
                self._reject(f"the response has more than {limit} bytes of heads or trailers")
        if (on_data := self.on_data) is not None:
            on_data(self.take())
            return
        self._wake()
        # Reading continues behind the end: what arrives there must be seen before the connection is reused.
        if pieces and not self.ended and (len(pieces) > READ_AHEAD_PIECES or sum(map(len, pieces)) > READ_AHEAD_BYTES):
            self._pause()

    def _pause(self) -> None:
        transport = self.transport
        if not self._paused and transport is not None and not transport.is_closing():
            self._paused = self._was_paused = True
            transport.pause_reading()

    def _reject(self, problem: str) -> None:
        self.break_off(httpx.RemoteProtocolError(problem))

    def on_message_begin(self) -> None:
        """Refuse a second response to one request (httptools callback)."""
        if self._message_complete:
            self.should_close = True
            msg = "a second response to one request"
            raise ValueError(msg)
        self.fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field of the head; count and ignore trailers (httptools callback)."""
        if self.status:
            self._trailers += 1
            if self._trailers > MAX_HEADER_FIELDS:
                msg = "the response has too many trailers"
                raise ValueError(msg)
            return
        if len(self.fields) >= MAX_HEADER_FIELDS or len(name) + len(value) > MAX_FIELD_BYTES:
            msg = "the head of the response is too large"
            raise ValueError(msg)
        self.fields.append((name.strip().lower(), value))

    def on_headers_complete(self) -> None:
        """Take the head, unless it is an informational one (httptools callback)."""
        parser = self._parser
        assert parser is not None  # for the type checker: the parser is the caller
        status = parser.get_status_code()
        if status < FIRST_STATUS:
            msg = f"invalid status {status}"
            raise ValueError(msg)
        if status < FIRST_FINAL_STATUS and status != SWITCHING_PROTOCOLS:
            return
        self.status = status
        self.should_close = not parser.should_keep_alive()
        coding, has_length = b"", False
        for name, value in self.fields:
            if name == b"transfer-encoding":
                coding = value
            has_length = has_length or name == b"content-length"
        if coding:
            # RFC 9112, 6.3: the length is ignored, and the connection is closed: its next bytes may be smuggled.
            self.should_close = self.should_close or has_length
            self._until_close = (
                coding != CHUNKED_CODING and coding.rpartition(b",")[2].strip().lower() != CHUNKED_CODING
            )
        else:
            self._until_close = not has_length

    def on_message_complete(self) -> None:
        """Note the end of the response (httptools callback)."""
        if self.status:
            self.ended = self._message_complete = True

    def connection_lost(self, exc: BaseException | None) -> None:
        """End or break the response, and leave the pool."""
        self.transport, self.should_close = None, True
        self._parser = None  # the parser refers to this object: break the cycle
        self.resume_writing()
        self._drop(self)
        if self._requested and not self.ended:
            if self.status and self._until_close and exc is None and self.broken is None:
                self.ended = True
            elif self.broken is None:
                self.broken = httpx.ReadError("the connection was closed" if exc is None else str(exc))
                self.broken.__cause__ = exc
        if (on_data := self.on_data) is not None:
            on_data(self.take())
        else:
            self._wake()

    def _wake(self) -> None:
        """End the wait for the head if it has arrived, or cannot arrive any more."""
        if (head := self._head) is None or head.done():
            return
        if self.status or self.broken is not None:
            self._on_alive = None
            head.set_result(None)
        elif self._on_alive is not None:
            self._on_alive()
