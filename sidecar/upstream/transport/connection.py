"""One connection to an upstream, and the answers that come over it: httptools reads what comes, and nothing lies in between.

- What came before a connection broke, or before its bytes made no sense, is handed out first.
- What an upstream sends while nobody has asked is the answer to nothing: its connection is closed.
- A body is read no further than its reader takes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import httptools
import httpx
from aiohttp.base_protocol import BaseProtocol
from multidict import CIMultiDict

from .response import Arrived, Arriving

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey


AHEAD = 65_536
"""Bytes of a body that may lie there for a reader; from then on the connection is not read.

What lies behind a slow reader is taken in one turn of the loop: this much, and one read.
"""
PIECES = 4_096
"""The same in pieces: each costs memory of its own."""
SILENT = 1_048_576
"""Bytes that may come without a piece of a body among them: heads, and what stands between chunks or behind the last."""
REST = 0.01
"""Seconds that a connection rests whose reading had stopped: what lies behind its answer, an end too, is to be seen first."""
TEXT = "utf-8", "surrogateescape"
"""How the values of headers are read."""
MAX_HEADERS = 512
MAX_LINE = 65_536
INFORMATIONAL, SWITCH, FINAL = 100, 101, 200


class Home(Protocol):
    """The pool that a connection goes back to."""

    def keep(self, key: ConnectionKey, handler: Handler) -> None:
        """Keep an open connection for the next request."""
        ...

    def drop(self, key: ConnectionKey, handler: Handler) -> None:
        """Close a connection."""
        ...


class Handler(BaseProtocol, Arriving):
    """One connection, and the answer that comes over it: see `received.Answer`.  `begin` before each request.

    `status` is 0 until the head of the answer has come, with its `fields`, names in lower case.  Who has closed the answer
    must not look at it again: it may be another's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.home: tuple[Home, ConnectionKey] | None = None
        """The connector that made it, and by which key it keeps it; set once it is open."""
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        """Take one piece of the body.  No function of ours: there are as many as chunks, often one for each token."""
        self._reader: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        # As lenient as aiohttp's own client: servers that end lines with LF alone are about.
        self._reader.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._lost = False
        self.should_close = False
        """For the connector: it cannot be kept."""
        self._closed: asyncio.Future[None] | None = None
        self._arrived: Arrived | None = None
        self._waiting: asyncio.Future[None] | None = None
        self.begin()
        self._asked = False

    def begin(self) -> None:
        """Make ready for an answer."""
        self._asked = True
        self.heard = self.ended = self._until_close = self._whole = self._stopped = False
        self.status = 0
        self.broken: httpx.HTTPError | None = None
        self.fields: list[tuple[bytes, bytes]] = []
        self._pieces.clear()
        self._silent = 0

    async def head(self) -> None:
        """Wait for the head of the answer.  Raises `httpx.HTTPError`."""
        while not self.status:
            if self.broken is not None:
                raise self.broken
            self._waiting = waiting = self._loop.create_future()
            await waiting

    @property
    def headers(self) -> Mapping[str, str]:
        """See `Answer.headers`."""
        return CIMultiDict((name.decode("latin-1"), value.decode(*TEXT)) for name, value in self.fields)

    def header(self, name: bytes) -> str:
        """See `Answer.header`."""
        for each, value in self.fields:
            if each == name:
                return value.decode(*TEXT)
        return ""

    async def read(self) -> bytes:
        """See `Answer.read`."""
        while not self._pieces and not self.ended:
            if self.broken is not None:
                raise self.broken
            self._waiting = waiting = self._loop.create_future()
            await waiting
        return self.taken()

    async def aclose(self) -> None:
        """See `Answer.aclose`."""
        transport = self.transport
        unread = not self.ended or self._reading_paused
        if self.home is None or unread or transport is None or transport.get_write_buffer_size():
            self.cut()
            return
        self._asked, self._arrived = False, None
        self._pieces.clear()
        connector, key = self.home
        if self._stopped:
            self._loop.call_later(REST, connector.keep, key, self)
        else:
            connector.keep(key, self)

    def cut(self) -> None:
        """Close at once, with whatever is still to be sent: to wait for that would keep what was left alive."""
        self._asked, self._arrived = False, None
        self.taken()
        if (transport := self.transport) is not None:
            transport.abort()
        if self.home is not None:
            connector, key = self.home
            connector.drop(key, self)

    def taken(self) -> bytes:
        """See `Arriving.taken`; what is taken is from now on with whoever called."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._reading_paused:
            self._reading_paused = False
            self._resume_transport_reading()
        return data

    def listen(self, arrived: Arrived | None) -> None:
        """See `Arriving.listen`."""
        self._arrived = arrived

    def data_received(self, data: bytes) -> None:
        """Take one network read."""
        if not self._asked or self._reader is None:
            self.should_close = True
            if self.transport is not None:
                self.transport.abort()
            return
        self.heard = True
        pieces = self._pieces
        before = len(pieces)
        try:
            self._reader.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._end()
        except httptools.HttpParserError:
            self._senseless("what came back is not HTTP")
        self._silent = 0 if len(pieces) > before else self._silent + len(data)
        if self._silent > SILENT:
            self._senseless("there is no end to the head")
        self._tell()
        # Behind its end it is read on: what comes there must be seen before the connection serves another call.
        if pieces and not self.ended and (len(pieces) > PIECES or sum(map(len, pieces)) > AHEAD):
            self._reading_paused = self._stopped = True
            self._pause_transport_reading()

    def _tell(self) -> None:
        if (arrived := self._arrived) is not None:
            arrived()
        elif (waiting := self._waiting) is not None and not waiting.done():
            waiting.set_result(None)

    def _senseless(self, words: str) -> None:
        self.should_close = True
        if not self.ended:
            self._break(httpx.RemoteProtocolError(words))
        if self.transport is not None:
            self.transport.abort()

    def _break(self, error: httpx.HTTPError) -> None:
        if self.broken is None:
            self.broken = error

    def _end(self) -> None:
        self.ended = self.should_close = True
        self.status = self.status or SWITCH

    def on_message_begin(self) -> None:
        """Begin an answer; one behind the one that was asked for is nobody's."""
        if self._whole:
            self.should_close = True
            msg = "another answer"
            raise ValueError(msg)
        self.fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field of the head; those behind a body say nothing to us."""
        if self.status:
            return
        if len(self.fields) >= MAX_HEADERS or len(name) + len(value) > MAX_LINE:
            msg = "too large a head"
            raise ValueError(msg)
        self.fields.append((name.strip().lower(), value))

    def on_headers_complete(self) -> None:
        """Note the head, unless it is one that another follows."""
        parser = self._reader
        assert parser is not None  # for the type: it is the one that calls
        status = parser.get_status_code()
        if status < INFORMATIONAL:
            msg = "no status"
            raise ValueError(msg)
        if status < FINAL and status != SWITCH:
            return
        self.status = status
        self.should_close = not parser.should_keep_alive()
        coding, has_length = b"", False
        for name, value in self.fields:
            if name == b"transfer-encoding":
                coding = value
            has_length = has_length or name == b"content-length"
        if coding:
            self._until_close = coding.rpartition(b",")[2].strip().lower() != b"chunked"
        else:
            self._until_close = not has_length

    def on_message_complete(self) -> None:
        """Note the end of the answer."""
        if self.status:
            self.ended = self._whole = True

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note that nothing more will come."""
        self._lost = self.should_close = True
        self._reader = None  # it holds us
        if self._asked and not self.ended:
            if self.status and self._until_close and exc is None and self.broken is None:
                self.ended = True
            else:
                error = httpx.ReadError("the connection was closed" if exc is None else str(exc))
                error.__cause__ = exc
                self._break(error)
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        super().connection_lost(exc)
        self._tell()

    def eof_received(self) -> None:
        """Let the transport close: whoever has said all is gone."""

    @property
    def closed(self) -> asyncio.Future[None] | None:
        """For the connector: what is done when the connection is closed, None where it is."""
        if self._closed is None and not self._lost:
            self._closed = self._loop.create_future()
        return self._closed

    def is_connected(self) -> bool:
        """For the connector: whether it may serve again."""
        return self.transport is not None and not self.transport.is_closing()

    def close(self) -> None:
        """For the connector: close in order."""
        if (transport := self.transport) is not None:
            self.transport = None
            transport.close()

    def abort(self) -> None:
        """Close at once, with whatever is still to be sent."""
        if (transport := self.transport) is not None:
            self.transport = None
            transport.abort()
