"""A tunnel through an HTTP proxy: the request CONNECT, and its reply."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from sidecar.config.proxies import Proxy

MAX_REPLY_BYTES = 16_384
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\r?\n)")
_HEAD_END_BYTES = 4


class Tunnel(asyncio.Protocol):
    """The connection to a proxy while it opens a tunnel."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._data = b""
        self._reply: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._surplus = False

    async def connect(self, proxy: Proxy, host: str, port: int) -> asyncio.Transport:
        """Ask the proxy for *host* and *port*; return the transport, on which the server's bytes follow.

        Raise `OSError` if the proxy refuses, closes, or sends a reply that is invalid or too long.
        """
        transport = self.transport
        assert transport is not None  # for the type checker: it is connected
        server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {server} HTTP/1.1", f"host: {server}"]
        if proxy.authorization:
            lines.append(f"proxy-authorization: {proxy.authorization}")
        transport.write("\r\n".join([*lines, "", ""]).encode("ascii"))
        status = await self._reply
        if not 200 <= status < 300:  # noqa: PLR2004  # the class of success
            raise OSError(f"the proxy refused CONNECT with status {status}")
        if self._surplus:
            raise OSError("the proxy sent bytes before the TLS handshake")
        return transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Collect the reply up to the end of its head."""
        if self._reply.done():
            self._surplus = True
            return
        start = max(0, len(self._data) - _HEAD_END_BYTES)
        self._data += data
        if (end := _HEAD_END.search(self._data, start)) is None:
            if len(self._data) > MAX_REPLY_BYTES:
                self._fail(OSError(f"the proxy's reply to CONNECT has more than {MAX_REPLY_BYTES} bytes"))
            return
        if (status := _STATUS_LINE.match(self._data)) is None:
            self._fail(OSError("the proxy's reply to CONNECT is not valid HTTP"))
            return
        self._surplus = end.end() < len(self._data)
        self._reply.set_result(int(status[1]))

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.Protocol`."""
        error = OSError(f"the proxy closed the connection{f': {exc}' if exc else ''}")
        error.__cause__ = exc
        self._fail(error)

    def _fail(self, error: OSError) -> None:
        if not self._reply.done():
            self._reply.set_exception(error)
            self._reply.exception()  # also retrieved where nothing waits for it
