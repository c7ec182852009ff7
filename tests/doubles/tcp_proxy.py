"""A TCP proxy between the program and a server: it delays, cuts and swallows what passes."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

READ_BYTES = 65_536
RESET = struct.pack("ii", 1, 0)
"""The value of `SO_LINGER` that lets `close` send RST."""


class TcpProxy:
    """Passes bytes between each of its clients and the server on *port*."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.connections = 0
        """Clients so far."""
        self.delay = 0.0
        """Seconds that each piece of data is late, in each direction."""
        self.requests = b""
        """All that clients have sent."""
        self.loses_replies = 0
        """So many of the next pieces from the server are not passed on; the connection is cut instead."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Take no further connections."""
        assert self._server is not None
        self._server.close()

    def cut(self) -> None:
        """Reset all connections."""
        for writer in list(self._writers):
            raw = writer.get_extra_info("socket")
            with suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    def swallow(self) -> None:
        """Pass nothing on, and keep all connections open."""
        self._open.clear()

    def resume(self) -> None:
        """Pass on what arrives, and what has arrived."""
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(server_writer)
        for source, target, is_request in ((reader, server_writer, True), (server_reader, writer, False)):
            queue: asyncio.Queue[bytes] = asyncio.Queue()
            self._run(self._receive(source, queue, is_request=is_request))
            self._run(self._send(queue, target, is_request=is_request))

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _receive(self, source: asyncio.StreamReader, queue: asyncio.Queue[bytes], *, is_request: bool) -> None:
        data = b"x"
        while data:
            try:
                data = await source.read(READ_BYTES)
            except OSError:
                data = b""
            if is_request:
                self.requests += data
            if self.delay:
                asyncio.get_running_loop().call_later(self.delay, queue.put_nowait, data)
            else:
                queue.put_nowait(data)

    async def _send(self, queue: asyncio.Queue[bytes], target: asyncio.StreamWriter, *, is_request: bool) -> None:
        while data := await queue.get():
            await self._open.wait()
            if not is_request and self.loses_replies:
                self.loses_replies -= 1
                self.cut()
                return
            target.write(data)
        target.close()

    async def stop(self) -> None:
        self.refuse()
        self.cut()
        self.resume()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def tcp_proxy(port: int) -> AsyncIterator[TcpProxy]:
    """Run a proxy to the server on *port* while the block lasts."""
    proxy = TcpProxy(port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
