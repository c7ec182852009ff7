"""Connections to upstreams: aiohttp makes and keeps them."""

from __future__ import annotations

from functools import partial
from ssl import SSLContext
from time import monotonic
from typing import TYPE_CHECKING

import aiohttp

from .connection import Handler

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey

KEEPALIVE = 30.0


class Connector(aiohttp.TCPConnector):
    """As many connections as there are calls; *trust* says which certificates are good, None for the system's."""

    def __init__(self, trust: SSLContext | None = None) -> None:
        super().__init__(limit=0, keepalive_timeout=KEEPALIVE, ssl=trust or True)
        self._factory = partial(Handler, self._loop)  # type: ignore[arg-type, assignment]  # it has all that is asked

    async def opened(self, request: aiohttp.ClientRequest, timeout: aiohttp.ClientTimeout) -> Handler:
        """Return a new connection.  Raises `TimeoutError`, `aiohttp.ClientError` or `OSError`."""
        connection = await self.connect(request, [], timeout)
        handler: Handler = connection.protocol  # type: ignore[assignment]  # it makes no others
        connection._protocol = None  # noqa: SLF001  # else it counts as never given back; one for each answer costs nine calls
        handler.home = self, request.connection_key
        return handler

    def kept(self, key: ConnectionKey) -> Handler | None:
        """Return a connection that was kept, as `connect` would after building a key and two coroutines; None for none."""
        kept = self._conns.get(key)
        if not kept:
            return None
        now = monotonic()
        while kept:
            handler: Handler
            handler, since = kept.pop()  # type: ignore[assignment]  # it makes no others
            transport = handler.transport
            if transport is not None and not transport.is_closing() and now - since <= KEEPALIVE:
                self._acquired.add(handler)  # type: ignore[arg-type]  # as above
                return handler
            handler.close()
        return None

    def keep(self, key: ConnectionKey, handler: Handler) -> None:
        """Keep an open connection for the next request, if that may be sent over it."""
        if handler.should_close or self._closed or self._cleanup_handle is None:
            self._release(key, handler)  # type: ignore[arg-type]  # as above
            return
        self._acquired.discard(handler)
        self._conns[key].append((handler, monotonic()))  # type: ignore[arg-type]  # as above

    def drop(self, key: ConnectionKey, handler: Handler) -> None:
        """Close a connection."""
        self._release(key, handler, should_close=True)  # type: ignore[arg-type]  # as above
