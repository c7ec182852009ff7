"""An upstream that records every byte of each connection, and answers complete requests with pieces of the test."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from scripts import whole_answer
from strict_http import Message, NotStrict, read_message

Answer = Callable[[Message], Sequence[bytes]]


def with_length(body: bytes, status: bytes = b"200 OK", *lines: bytes) -> bytes:
    """Return a JSON response with its length and the header *lines*."""
    head = [b"HTTP/1.1 " + status, b"content-type: application/json", b"content-length: %d" % len(body), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def ordinary(_: Message) -> Sequence[bytes]:
    """Return a complete answer without `stream`."""
    return [with_length(whole_answer("ordinary"))]


class RecordingUpstream:
    """All bytes that reached it, one buffer per connection, and the requests in them.

    `answer` is what it sends for a request; `faults` has bytes that are no request by a strict parser.
    """

    def __init__(self) -> None:
        self.answer: Answer = ordinary
        self.connections: list[bytearray] = []
        self.requests: list[Message] = []
        self.used: list[int] = []
        """The connection of each request."""
        self.faults: list[str] = []
        self.url = ""
        self.end = ""
        """How it ends the connection behind its next answer: `fin` closes its side, `reset` resets it."""
        self.greeting = b""
        """What it sends on each new connection, before any request."""
        self.ended: set[int] = set()
        """The connections that have ended."""
        self._writers: dict[int, asyncio.StreamWriter] = {}

    @property
    def data(self) -> bytes:
        """All bytes that have arrived."""
        return b"".join(self.connections)

    def clear(self) -> None:
        """Forget all bytes and requests, and answer as at first."""
        self.answer = ordinary
        self.clear_requests()

    def clear_requests(self) -> None:
        """Forget all bytes and requests; open connections stay open, and keep their numbers."""
        for each in self.connections:
            each.clear()
        self.requests, self.used, self.faults = [], [], []

    def send(self, connection: int, data: bytes) -> None:
        """Send *data* on *connection* although no request waits for it."""
        self._writers[connection].write(data)

    def drop_all(self) -> None:
        """Close all open connections."""
        for writer in self._writers.values():
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Record and answer one connection until it is closed."""
        number, seen, rest = len(self.connections), bytearray(), b""
        self.connections.append(seen)
        self._writers[number] = writer
        try:
            writer.write(self.greeting)
            while data := await reader.read(65_536):
                seen += data
                rest += data
                while (message := self._next(rest)) is not None:
                    rest = rest[message.size :]
                    self.requests.append(message)
                    self.used.append(number)
                    if await self._answer(message, writer):
                        rest = b""
                        await reader.read()
                        return
        except OSError:
            pass
        finally:
            self.ended.add(number)
            del self._writers[number]
            if rest:
                self.faults.append(f"incomplete: {rest[:80]!r}")
            writer.close()

    async def _answer(self, message: Message, writer: asyncio.StreamWriter) -> bool:
        """Answer *message*; return whether the connection serves no further request."""
        end, self.end = self.end, ""
        for piece in self.answer(message):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if end == "fin":
            writer.write_eof()
        elif end == "reset":
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        return bool(end)

    def _next(self, data: bytes) -> Message | None:
        try:
            message = read_message(data, request=True)
        except NotStrict as error:
            self.faults.append(str(error))
            return None
        return message if message is not None and message.ended else None


@asynccontextmanager
async def recording_upstream() -> AsyncIterator[RecordingUpstream]:
    """Run it on a free port while the block lasts."""
    recording = RecordingUpstream()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(recording.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    recording.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield recording
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
