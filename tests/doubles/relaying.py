"""An upstream on a real socket that reads request bodies as a script says, of either framing, and answers with any bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from wire import TIMEOUT_SECONDS

LIMIT_BYTES = 65_536
"""Bytes that the double reads ahead: a script that does not read lets its peer wait."""


class Received:
    """One request at the upstream: its head, and its body as far as the script has read it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        self._reader, self._writer, self.head = reader, writer, head
        self.body = b""
        self.size = 0
        self.is_complete = False
        self.gone = asyncio.Event()
        """Set when the other side has closed the connection."""
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = first.split(" ")
        self.fields = [
            (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines if line)
        ]
        self._left = int(self.header("content-length") or 0)
        self._is_chunked = self.header("transfer-encoding") == "chunked"

    def header(self, name: str) -> str | None:
        return next((value for each, value in self.fields if each == name), None)

    async def piece(self) -> bytes:
        """Read the next piece of the body; empty at its end. Raises `IncompleteReadError` if it is cut."""
        if self._is_chunked:
            size = int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16)
            data = await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        else:
            data = await self._reader.read(min(LIMIT_BYTES, self._left)) if self._left else b""
            if self._left and not data:
                raise asyncio.IncompleteReadError(b"", self._left)
            self._left -= len(data)
        self.size += len(data)
        self.is_complete = not data
        return data

    async def whole(self, *, keep: bool = True) -> bytes:
        """Read the rest of the body; only its size is kept without *keep*."""
        pieces = []
        while data := await self.piece():
            if keep:
                pieces.append(data)
        self.body = b"".join(pieces)
        return self.body

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, status: int, body: bytes, *headers: str) -> None:
        named = {each.partition(":")[0].lower() for each in headers}
        lines = [f"HTTP/1.1 {status} X", *headers]
        lines += [] if "content-type" in named else ["content-type: application/json"]
        lines += [] if {"content-length", "transfer-encoding"} & named else [f"content-length: {len(body)}"]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def until_gone(self) -> None:
        while await self._reader.read(LIMIT_BYTES):
            pass
        self.gone.set()

    def close(self) -> None:
        self._writer.close()


Play: TypeAlias = Callable[[Received], Awaitable[None]]


class RelayUpstream:
    """Plays one script for each request, the last one for all further ones."""

    def __init__(self, scripts: list[Play]) -> None:
        self._scripts = scripts
        self.requests: list[Received] = []
        self.url = self.origin = ""
        self.arrived = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = None
        try:
            while True:
                received = Received(reader, writer, await reader.readuntil(b"\r\n\r\n"))
                self.requests.append(received)
                self.arrived.set()
                await (self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0])(received)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            if received is not None:
                received.gone.set()
            writer.close()


async def echoes(request: Received) -> None:
    """Read the whole body and answer with a short JSON object."""
    await request.whole()
    await request.answer(200, b'{"ok": true}')


@asynccontextmanager
async def relay_upstream(*scripts: Play) -> AsyncIterator[RelayUpstream]:
    """Run the upstream on a free port while the block lasts."""
    served = RelayUpstream(list(scripts) or [echoes])
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(served.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=LIMIT_BYTES)
    served.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    served.url = f"{served.origin}/v1"
    try:
        yield served
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), TIMEOUT_SECONDS)
