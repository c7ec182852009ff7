"""Connections to upstreams.  What aiohttp's own do not do: tell whoever reads a body that its bytes made no sense."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from ssl import SSLContext
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

KEEPALIVE = 30.0


class Handler(ResponseHandler):
    """One connection.

    aiohttp 3.14 closes it on a malformed chunk and leaves the body's reader waiting for ever: its parser forgets the body
    before it raises.
    """

    def set_exception(self, exc: BaseException, *more: Any) -> None:
        """Fail what is being read as well."""
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("The answer's framing is broken."))
        super().set_exception(exc, *more)


REACHED: ContextVar[Callable[[], None]] = ContextVar("REACHED")
"""What a task that sends a request wants called when it has its connection: from then on upstream may work."""


class Connector(aiohttp.TCPConnector):
    """As many connections as there are calls; *trust* says which certificates are good, None for the system's."""

    def __init__(self, trust: SSLContext | None = None) -> None:
        super().__init__(limit=0, keepalive_timeout=KEEPALIVE, ssl=trust or True)
        self._factory = partial(Handler, loop=self._loop)  # type: ignore[assignment]  # one of them

    async def connect(self, *arguments: Any, **more: Any) -> Connection:
        """Return a connection, and tell whoever waits for it."""
        connection = await super().connect(*arguments, **more)
        if (reached := REACHED.get(None)) is not None:
            reached()
        return connection
