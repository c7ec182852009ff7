"""An upstream and a client on real sockets: tests script and read every byte."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ssl import SSLContext
from typing import Any, TypeAlias

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TIMEOUT_SECONDS = 30.0
"""Seconds after which a test that waits for something fails; long, for machines that are busy with other programs."""
UNCHANGED_ITERATIONS = 5000
"""Event loop iterations after which a count that does not change has settled: no socket accepts more bytes."""


class Connection:
    """One request at the upstream, and the connection to answer it on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, body: bytes) -> None:
        self._reader, self._writer = reader, writer
        self.head, self.raw_body = head, body
        self.gone = asyncio.Event()

    @property
    def body(self) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads(self.raw_body)
        return decoded

    def header(self, name: str) -> str | None:
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name:
                return value.strip()
        return None

    @property
    def is_probe(self) -> bool:
        """Whether it is a request for the list of models that belongs to no call."""
        line = self.head.partition(b"\r\n")[0]
        return line.startswith(b"GET ") and b"/models" in line and self.header("x-request-id") is None

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def chunk(self, data: bytes) -> None:
        await self.send(chunk(data))

    async def stream(self, *texts: str, finish: str | None = "stop", done: bool = True) -> None:
        """Stream *texts* as OpenAI does."""
        await self.send(HEAD)
        await self.chunk(sse({"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}))
        for text in texts:
            await self.chunk(token(text))
        if finish:
            await self.chunk(sse({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}))
        if done:
            await self.chunk(b"data: [DONE]\n\n")
            await self.send(b"0\r\n\r\n")

    async def answer(self, status: int, body: bytes, *headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(body)}", *headers]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def hang(self) -> None:
        """Send nothing until the other side closes; then set `gone`."""
        while await self._reader.read(65536):
            pass
        self.gone.set()

    def uses(self, writer: asyncio.StreamWriter) -> bool:
        """Whether its answer goes to *writer*."""
        return self._writer is writer

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """End the connection by RST."""
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Script: TypeAlias = Callable[[Connection], Awaitable[None]]


async def refuses_list(connection: Connection) -> None:
    """Answer that the models cannot be listed, so that the first upstream gets the calls."""
    await connection.answer(503, b"")


def lists_models(*names: str) -> Script:
    """Return a script that lists the models *names*."""

    async def script(connection: Connection) -> None:
        await connection.answer(200, json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode())

    return script


class Upstream:
    """The server: plays one script for each request, the last one for all further requests."""

    def __init__(self, scripts: list[Script], *, has_probes: bool = True) -> None:
        self._scripts, self._has_probes = scripts, has_probes
        self.requests: list[Connection] = []
        """Those of calls; the requests by which the sidecar itself reads the models of several upstreams are not among them."""
        self.lists: Script = refuses_list
        """The script of these requests."""
        self.probes: list[Connection] = []
        self.arrived = asyncio.Event()
        self.url = ""
        self.open = 0
        self.server: asyncio.Server

    def play(self, *scripts: Script) -> None:
        """Replace the scripts of the requests that are still to come."""
        self._scripts[:] = scripts

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")), 0
                )
                connection = Connection(reader, writer, head, await reader.readexactly(length))
                if self._has_probes and connection.is_probe:
                    self.probes.append(connection)
                    await self.lists(connection)
                    continue
                self.requests.append(connection)
                self.arrived.set()
                script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
                await script(connection)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            for connection in (*self.requests, *self.probes):
                if connection.uses(writer):
                    connection.gone.set()
            writer.close()


@asynccontextmanager
async def upstream(*scripts: Script, tls: SSLContext | None = None, has_probes: bool = True) -> AsyncIterator[Upstream]:
    """Run an upstream on a free port while the block lasts, by HTTPS with *tls*.

    Without *has_probes*, requests for the list of models that belong to no call get the scripts of the others.
    """
    served = Upstream(list(scripts), has_probes=has_probes)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(served.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    served.server = server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    served.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield served
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked HTTP body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def sse(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def token(text: str) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


async def eventually(met: Callable[[], bool]) -> None:
    """Wait until *met* returns True; fail after `TIMEOUT_SECONDS`."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not met():
            await asyncio.sleep(0)


async def until_unchanged(count: Callable[[], int]) -> int:
    """Wait until *count* is above 0 and no longer changes, as when all buffers are full; return it.

    Such a state has no event: the iterations are bounded by `TIMEOUT_SECONDS`.
    """
    last = unchanged = 0
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while unchanged < UNCHANGED_ITERATIONS:
            now = count()
            last, unchanged = now, unchanged + 1 if now and now == last else 0
            await asyncio.sleep(0)
    return last


class Client:
    """One client connection to the sidecar."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def post(self, path: str, body: Any, *headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = [x.lower().split(":")[0] for x in headers]
        lines = [f"POST {path} HTTP/1.1", *headers]
        if "host" not in named:
            lines.insert(1, "host: localhost")
        if "content-type" not in named:
            lines.append("content-type: application/json")
        if "content-length" not in named and "transfer-encoding" not in named:
            lines.append(f"content-length: {len(raw)}")
        self.writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + raw)
        await self.writer.drain()

    async def until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await self.reader.readuntil(mark)

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        headers = {name.lower(): value for name, value in headers.items()}
        return int(lines[0].split()[1]), headers

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read one complete response."""
        status, headers = await self.head()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            if status == 204:
                return status, headers, b""
            if "content-length" in headers:
                return status, headers, await self.reader.readexactly(int(headers["content-length"]))
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readline()
            await self.reader.readline()
            return status, headers, body

    async def until_end(self) -> bytes:
        """Return all bytes until the other side closes."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await self.reader.read()

    def pause_reading(self) -> None:
        """Read nothing from the socket until `resume_reading`."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]  # the transport of a socket also reads

    def resume_reading(self) -> None:
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """End the connection by RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
