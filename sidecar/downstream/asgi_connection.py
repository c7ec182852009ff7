"""Adapter for servers that offer plain ASGI only: writes become awaited `send` calls of one task."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

from .client_connection import CONNECTION_EXTENSION, ClientConnection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.wire.limit_headers import Header

    from .client_connection import Head, OnDisconnect, Receive, Scope, Send

ServeRequest: TypeAlias = "Callable[[Scope, ClientConnection], Awaitable[None]]"

HIGH_WATER_BYTES = 65_536
"""The connection is full while more than this many bytes wait for the server."""


class AsgiConnection(ClientConnection):
    """A `ClientConnection` over ASGI: one task sends the writes, another one waits for the client's disconnect."""

    __slots__ = (
        "_closed",
        "_headers",
        "_on_disconnect",
        "_pending",
        "_send",
        "_sent",
        "_size",
        "_streams",
        "_watcher",
        "_writer",
        "full",
        "receive",
        "status",
    )

    def __init__(self, receive: Receive, send: Send) -> None:
        self.receive, self._send = receive, send
        self.full = self._closed = self._streams = False
        self.status = 0
        self._pending: deque[dict[str, Any]] = deque()
        self._headers: list[Header] = []
        self._size = 0
        self._writer: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._sent: asyncio.Event | None = None
        self._on_disconnect: OnDisconnect | None = None

    def write_nowait(self, head: Head | None, body: bytes, *, more: bool) -> None:
        """See `ClientConnection.write_nowait`."""
        if self._closed:
            return
        if head is not None:
            self.status = head.status
            self._pending.append(
                {"type": "http.response.start", "status": head.status, "headers": [*self._headers, *head.headers]}
            )
        self._pending.append({"type": "http.response.body", "body": body, "more_body": more})
        self._size += len(body)
        self.full = self._size > HIGH_WATER_BYTES
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    def add_headers(self, headers: list[Header]) -> None:
        """See `ClientConnection.add_headers`."""
        self._headers += headers

    async def drain(self) -> None:
        """See `ClientConnection.drain`."""
        while self.full:
            if self._sent is None:
                self._sent = asyncio.Event()
            self._sent.clear()
            await self._sent.wait()

    async def finish(self) -> None:
        """Wait until the server has accepted all writes. The last call for a request."""
        if (writer := self._writer) is None:
            return
        try:
            await asyncio.wait((writer,))
        except asyncio.CancelledError:
            writer.cancel()
            raise

    def watch(self, on_disconnect: OnDisconnect) -> None:
        """See `ClientConnection.watch`."""
        self._on_disconnect = on_disconnect
        if self._closed:
            on_disconnect()
        elif not self._streams:
            self._start_watcher()

    def stream_body(self) -> None:
        """See `ClientConnection.stream_body`. While the body arrives, its reader gets the client's disconnect."""
        receive = self.receive
        self._streams = True

        async def receive_watching() -> Any:
            message = await receive()
            if message["type"] == "http.disconnect":
                self._disconnect()
            elif not message.get("more_body") and self._streams:
                self._streams, self.receive = False, receive
                if self._on_disconnect is not None:
                    self._start_watcher()
            return message

        self.receive = receive_watching

    def cut(self) -> None:
        """See `ClientConnection.cut`. A server closes the connection of an application that ends without the last part."""
        self._closed = True
        self._pending.clear()

    def _start_watcher(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._wait_for_disconnect())

    def unwatch(self) -> None:
        """See `ClientConnection.unwatch`."""
        self._on_disconnect = None
        if (watcher := self._watcher) is not None:
            self._watcher = None
            watcher.cancel()

    async def _write(self) -> None:
        try:
            while self._pending:
                message = self._pending.popleft()
                await self._send(message)
                self._size -= len(message.get("body", b""))
                if self.full and self._size <= HIGH_WATER_BYTES:
                    self._set_writable()
        except Exception:  # noqa: BLE001  # servers raise various errors from `send` if the client has disconnected
            self._disconnect()
        finally:
            self._writer = None

    async def _wait_for_disconnect(self) -> None:
        with contextlib.suppress(Exception):  # a server whose `receive` fails has lost its client
            while (await self.receive())["type"] != "http.disconnect":
                pass
        self._disconnect()

    def _disconnect(self) -> None:
        self._closed = True
        self._pending.clear()
        if (writer := self._writer) is not None and writer is not asyncio.current_task():
            writer.cancel()  # `send` may block although the client is gone
        self._set_writable()
        if (on_disconnect := self._on_disconnect) is not None:
            self._on_disconnect = None
            on_disconnect()

    def _set_writable(self) -> None:
        self.full = False
        if self._sent is not None:
            self._sent.set()


async def over_asgi(route: ServeRequest, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one request with *route*: over the server's own connection if *scope* has one, else over the adapter.

    Called once per request. Errors and the cancellation of *route* are raised after the adapter has sent all writes.
    """
    own: ClientConnection | None = scope.get("extensions", {}).pop(CONNECTION_EXTENSION, None)
    if own is not None:
        await route(scope, own)
        return
    connection = AsgiConnection(receive, send)
    try:
        await route(scope, connection)
    finally:
        await connection.finish()
