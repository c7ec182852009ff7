"""Thousands of connections at one worker, real processes and sockets: nothing is lost, and memory stays bounded."""

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
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read as Linux tells it"),
]

FILES = 5000
"""Descriptors of the sidecar and of this process: two for each stream, and some."""
PATIENCE = 20.0
PATH = "/v1/chat/completions"
CONFIG = '[[policy]]\nuse = "rate"\nrequests = 1_000_000\n[[policy]]\nuse = "budget"\ntokens = 9_000_000_000_000\n'
HI = {"model": "m", "stream": True, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
FIRST, SECOND = token(" first"), token(" second")
FINISH = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
END = b"data: [DONE]\n\n"
ASKED = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """Let this process open many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        pytest.skip(f"the system allows {hard} open files a process, {FILES} are needed: raise `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Half(asyncio.Protocol):
    """One connection of an upstream that answers with its first token, and with the rest when it is told to."""

    def __init__(self, waiting: list[Half]) -> None:
        self._waiting = waiting
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert data.endswith(b"}")
        self._write(HEAD, FIRST)
        self._waiting.append(self)

    def go_on(self) -> None:
        self._write(b"", SECOND + FINISH, END)
        assert self._transport is not None
        self._transport.write(b"0\r\n\r\n")

    def _write(self, before: bytes, *chunks: bytes) -> None:
        assert self._transport is not None
        self._transport.write(before + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks))


class Reader(asyncio.Protocol):
    """One client, which keeps all that it gets."""

    def __init__(self) -> None:
        self.got = b""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        body = json.dumps(HI).encode()
        transport.write(ASKED % (PATH.encode(), len(body), body))

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_lost(self, _: Exception | None) -> None:
        self.lost = True

    @property
    def whole(self) -> bool:
        head, _, body = self.got.partition(b"\r\n\r\n")
        parts = (b"HTTP/1.1 200", head), *((event, body) for event in (FIRST, SECOND, FINISH, END))
        return body.endswith(b"0\r\n\r\n") and all(part in where for part, where in parts)


@asynccontextmanager
async def halves() -> AsyncIterator[tuple[str, list[Half]]]:
    """Run an upstream of `Half` answers; gives its address, and those that wait."""
    waiting: list[Half] = []
    server = await asyncio.get_running_loop().create_server(lambda: Half(waiting), "127.0.0.1", 0, backlog=4096)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", waiting
    finally:
        server.close()


async def readers(port: int, count: int) -> list[Reader]:
    """Connect and ask, all at once."""
    loop = asyncio.get_running_loop()
    made = await asyncio.gather(*(loop.create_connection(Reader, "127.0.0.1", port) for _ in range(count)))
    return [reader for _, reader in made]


async def until_all(readers: list[Reader], met: Callable[[Reader], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        for reader in readers:
            while not met(reader):
                assert not reader.lost, reader.got
                await asyncio.sleep(0.005)


@contextmanager
def serving(folder: Path, url: str) -> Iterator[Program]:
    """Run a sidecar as a shell starts it: with a thousand files, until it asks the system for more."""
    (folder / "s.toml").write_text(f"[[upstream]]\nbase_url = '{url}'\n{CONFIG}")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    try:
        with program("serve", "--config", "s.toml", "--port", "0", folder=folder) as served:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            yield served
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_burst(tmp_path: Path) -> None:
    """A thousand clients that connect and ask at the same moment all get their whole answer."""
    async with halves() as (url, waiting):
        with serving(tmp_path, url) as served:
            clients = await readers(served.port, 1000)
            await until_all(clients, lambda client: FIRST in client.got)
            for half in waiting:
                half.go_on()
            await until_all(clients, lambda client: client.whole)

            assert len(waiting) == 1000
            for client in clients:
                client.transport.abort()


async def test_many(tmp_path: Path) -> None:
    """One worker holds 2,000 streams open in 180 MB, and each comes to its end."""
    async with halves() as (url, waiting):
        with serving(tmp_path, url) as served:
            clients: list[Reader] = []
            for _ in range(20):
                clients += await readers(served.port, 100)
                await until_all(clients[-100:], lambda client: FIRST in client.got)
            assert len(waiting) == 2000
            assert resident_mb(served.popen.pid) <= 180
            for half in waiting:
                half.go_on()
            await until_all(clients, lambda client: client.whole)

            assert resident_mb(served.popen.pid) <= 180
            for client in clients:
                client.transport.abort()


async def rest_of(client: Client) -> bytes:
    """Read a chunked body to its end."""
    pieces = []
    async with asyncio.timeout(PATIENCE):
        while size := int(await client.reader.readline(), 16):
            pieces.append(await client.reader.readexactly(size))
            await client.reader.readline()
    return b"".join(pieces)


PIECES, EVENTS = 1500, 100
TAKEN = 12_000_000
"""Bytes that may be under way to a client that does not read: what both systems keep, and one read of ours."""


async def test_slow_reader(tmp_path: Path) -> None:
    """A client that does not read holds up its upstream, at a bounded cost; when it reads, it gets every byte."""
    sent, stalled = hashlib.sha256(), asyncio.Event()
    taken = 0

    async def endless(connection: Connection) -> None:
        nonlocal taken
        await connection.send(HEAD)
        for number in range(PIECES):
            piece = b"".join(token(f" {number}-{event} {'x' * 90}") for event in range(EVENTS))
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
            async with asyncio.timeout(PATIENCE):
                await stalled.wait()
            assert taken < TAKEN
            assert resident_mb(served.popen.pid) - before < TAKEN / 1e6
            got = await rest_of(client)
            client.close()

    assert taken > 2 * TAKEN
    assert got.endswith(END)
    assert hashlib.sha256(got.removesuffix(END)).digest() == sent.digest()
