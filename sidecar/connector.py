"""Connections to upstreams: aiohttp's, and what those do not do.

- Whoever reads a body is told that its bytes made no sense, and gets what came before them.
- What an upstream sends while nobody has asked is the answer to nothing: its connection is closed.
"""

from __future__ import annotations

from functools import partial
from ssl import SSLContext
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import TimerNoop

KEEPALIVE = 30.0
READ_SIZE = 2**18
MAX_LINE = 65_536
MAX_HEADERS = 512
HEAD_END = b"\r\n\r\n"


class Handler(ResponseHandler):
    """One connection.  `begin` before each request, `rest` behind each answer."""

    _asked = _kept = False
    heard = False
    """Whether anything has come since the request."""

    def begin(self) -> bool:
        """Make ready for an answer; return whether the connection was kept from an earlier one."""
        self._asked, self.heard = True, False
        kept, self._kept, self._payload = self._kept, True, None
        self.set_response_params(
            timer=TimerNoop(),
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=READ_SIZE,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
        )
        return kept

    def rest(self) -> None:
        """Expect nothing until the next request."""
        self._asked = False

    def data_received(self, data: bytes) -> None:
        """Take what came; a head is given to the parser alone.

        aiohttp's parser raises before it hands out what it has read, so a fault behind the head in the same read would take
        the head with it, and all text in between.
        """
        if not self._asked:
            self.force_close()
            if self.transport is not None:
                self.transport.abort()
            return
        self.heard = True
        if self._payload is None and (end := data.find(HEAD_END)) >= 0 and len(data) > end + len(HEAD_END):
            end += len(HEAD_END)
            super().data_received(data[:end])
            data = data[end:]
        super().data_received(data)

    def set_exception(self, exc: BaseException, *more: Any) -> None:
        """Fail what is being read as well: aiohttp 3.14 leaves a body's reader waiting for ever at a malformed chunk."""
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("The answer's framing is broken."))
        super().set_exception(exc, *more)


class Connector(aiohttp.TCPConnector):
    """As many connections as there are calls; *trust* says which certificates are good, None for the system's."""

    def __init__(self, trust: SSLContext | None = None) -> None:
        super().__init__(limit=0, keepalive_timeout=KEEPALIVE, ssl=trust or True)
        self._factory = partial(Handler, loop=self._loop)  # type: ignore[assignment]  # one of them
