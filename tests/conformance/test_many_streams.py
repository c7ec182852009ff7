"""Thousands of connections to one worker process: every stream completes, and memory stays bounded."""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from probe import resident_mb
from process import Program, program
from wire import HEAD, Client, Connection, sse, token, upstream

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc"),
]

MAX_OPEN_FILES = 5000
"""File descriptors of the sidecar and of this process: two per stream, and a reserve."""
TIMEOUT_SECONDS = 20.0
"""Seconds after which a thousand connections that are not served fail a test."""
PATH = "/v1/chat/completions"
CONFIG = '[[policy]]\nuse = "rate"\nrequests = 1_000_000\n[[policy]]\nuse = "budget"\ntokens = 9_000_000_000_000\n'
HI = {"model": "m", "stream": True, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
FIRST, SECOND = token(" first"), token(" second")
FINISH = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
END = b"data: [DONE]\n\n"
REQUEST = b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """Raise the limit of open files for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MAX_OPEN_FILES:
        pytest.skip(f"the system allows {hard} open files a process, {MAX_OPEN_FILES} are needed: raise `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, MAX_OPEN_FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class HalfAnswer(asyncio.Protocol):
    """One connection of an upstream that sends its first token at once, and the rest on `finish`."""

    def __init__(self, waiting: list[HalfAnswer]) -> None:
        self._waiting = waiting
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert data.endswith(b"}")
        self._write(HEAD, FIRST)
        self._waiting.append(self)

    def finish(self) -> None:
        self._write(b"", SECOND + FINISH, END)
        assert self._transport is not None
        self._transport.write(b"0\r\n\r\n")

    def _write(self, before: bytes, *chunks: bytes) -> None:
        assert self._transport is not None
        self._transport.write(before + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks))


class Reader(asyncio.Protocol):
    """One client that keeps all bytes that it receives."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        body = json.dumps(HI).encode()
        transport.write(REQUEST % (PATH.encode(), len(body), body))

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, _: Exception | None) -> None:
        self.lost = True

    @property
    def complete(self) -> bool:
        head, _, body = self.received.partition(b"\r\n\r\n")
        parts = (b"HTTP/1.1 200", head), *((event, body) for event in (FIRST, SECOND, FINISH, END))
        return body.endswith(b"0\r\n\r\n") and all(part in where for part, where in parts)


@asynccontextmanager
async def half_answers() -> AsyncIterator[tuple[str, list[HalfAnswer]]]:
    """Run an upstream of half answers; yield its address, and the answers that are not finished."""
    waiting: list[HalfAnswer] = []
    server = await asyncio.get_running_loop().create_server(lambda: HalfAnswer(waiting), "127.0.0.1", 0, backlog=4096)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", waiting
    finally:
        server.close()


async def readers(port: int, count: int) -> list[Reader]:
    """Open *count* connections and send a request on each, all at once."""
    loop = asyncio.get_running_loop()
    made = await asyncio.gather(*(loop.create_connection(Reader, "127.0.0.1", port) for _ in range(count)))
    return [reader for _, reader in made]


async def until_all(readers: list[Reader], met: Callable[[Reader], bool]) -> None:
    """Wait until *met* is True for each reader; fail if one loses its connection."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        for reader in readers:
            while not met(reader):
                assert not reader.lost, reader.received
                await asyncio.sleep(0.005)  # between two polls, bounded by the timeout above


@contextmanager
def serving(folder: Path, url: str) -> Iterator[Program]:
    """Run a sidecar with a shell's limit of 1,024 open files, which it raises itself."""
    (folder / "s.toml").write_text(f"[[upstream]]\nbase_url = '{url}'\n{CONFIG}")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    try:
        with program("serve", "--config", "s.toml", "--port", "0", folder=folder) as served:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            yield served
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_burst_of_a_thousand_clients_is_served(tmp_path: Path) -> None:
    """A thousand clients that connect and ask at the same moment all receive a complete answer."""
    async with half_answers() as (url, waiting):
        with serving(tmp_path, url) as served:
            clients = await readers(served.port, 1000)
            await until_all(clients, lambda client: FIRST in client.received)
            for half in waiting:
                half.finish()
            await until_all(clients, lambda client: client.complete)

            assert len(waiting) == 1000
            for client in clients:
                client.transport.abort()


async def test_worker_holds_2000_streams_in_180_mb(tmp_path: Path) -> None:
    """One worker holds 2,000 open streams in 180 MB, and completes each of them."""
    async with half_answers() as (url, waiting):
        with serving(tmp_path, url) as served:
            clients: list[Reader] = []
            for _ in range(20):
                clients += await readers(served.port, 100)
                await until_all(clients[-100:], lambda client: FIRST in client.received)
            assert len(waiting) == 2000
            assert resident_mb(served.popen.pid) <= 180
            for half in waiting:
                half.finish()
            await until_all(clients, lambda client: client.complete)

            assert resident_mb(served.popen.pid) <= 180
            for client in clients:
                client.transport.abort()


async def body_of(client: Client) -> bytes:
    """Read a chunked body to its end."""
    pieces = []
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while size := int(await client.reader.readline(), 16):
            pieces.append(await client.reader.readexactly(size))
            await client.reader.readline()
    return b"".join(pieces)


PIECES, EVENTS_PER_PIECE = 2000, 100
MAX_BUFFERED_BYTES = 16_000_000
"""Bytes that may be in transit to a client that does not read: kernel buffers of two connections, and one read of the sidecar."""
MAX_GROWTH_MB = 12


async def test_slow_client_slows_its_upstream(tmp_path: Path) -> None:
    """A client that does not read stops its upstream at bounded memory; when it reads, it receives every byte."""
    sent, stalled = hashlib.sha256(), asyncio.Event()
    taken = 0

    async def endless(connection: Connection) -> None:
        nonlocal taken
        await connection.send(HEAD)
        for number in range(PIECES):
            piece = b"".join(token(f" {number}-{event} {'x' * 90}") for event in range(EVENTS_PER_PIECE))
            sent.update(piece)
            try:
                async with asyncio.timeout(None if stalled.is_set() else 0.5):
                    await connection.chunk(piece)
            except TimeoutError:
                stalled.set()
            taken += len(piece)
        sent.update(FINISH)
        await connection.chunk(FINISH + END)
        await connection.send(b"0\r\n\r\n")

    async with upstream(endless) as up:
        with serving(tmp_path, up.url) as served:
            client = await Client.to(served.port)
            await client.post(PATH, HI)
            await client.head()
            before = resident_mb(served.popen.pid)
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await stalled.wait()
            assert taken < MAX_BUFFERED_BYTES
            assert resident_mb(served.popen.pid) - before < MAX_GROWTH_MB
            received = await body_of(client)
            client.close()

    assert taken > 2 * MAX_BUFFERED_BYTES
    assert received.endswith(END)
    assert hashlib.sha256(received.removesuffix(END)).digest() == sent.digest()
