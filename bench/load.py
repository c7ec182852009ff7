"""Closed-loop load client: each connection sends its next request when the last answer ends. Prints one JSON object."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import cast

import uvloop

TOKEN_MARK = b'" tok'
HEAD_END, ANSWER_END = b"\r\n\r\n", b"0\r\n\r\n"
MAX_PARTIAL_BYTES = 4
"""Bytes of the longest incomplete start of a token or of the end of an answer."""


class Answering:
    """Reads one answer: its status, its number of tokens, and whether it is complete."""

    __slots__ = ("_begun", "_left", "_tail", "over", "refused")

    def __init__(self) -> None:
        self._begun, self._tail, self._left = False, b"", -1
        self.refused = self.over = False

    def take(self, data: bytes) -> int:
        """Read the next *data*; return the number of tokens that it completed."""
        if not self._begun:
            head, found, data = (self._tail + data).partition(HEAD_END)
            if not found:
                self._tail = head
                return 0
            self._begin(head)
        if self._left >= 0:
            self._left -= len(data)
        tokens = data.count(TOKEN_MARK)
        if self._tail:
            tokens += (self._tail + data[:MAX_PARTIAL_BYTES]).count(TOKEN_MARK)
        last = data if len(data) > MAX_PARTIAL_BYTES else self._tail + data
        self._tail = last[-MAX_PARTIAL_BYTES:]
        self.over = self._left == 0 or (self._left < 0 and last.endswith(ANSWER_END))
        return tokens

    def _begin(self, head: bytes) -> None:
        self._begun, self._tail = True, b""
        self.refused = not head.startswith(b"HTTP/1.1 200")
        _, named, after = head.lower().partition(b"\r\ncontent-length:")
        if named:
            self._left = int(after.partition(b"\r\n")[0])


class Load:
    """All connections of the load, and their counts."""

    def __init__(self, port: int, request: bytes, seconds: float) -> None:
        self.request, self._port = request, port
        self.end = time.monotonic() + seconds
        self.answered = self.failed = self.tokens = self.open = 0
        self.first: list[float] = []
        self.over = asyncio.Event()

    async def run(self, connections: int, spread: float) -> None:
        """Open *connections* evenly over *spread* seconds, and wait until each one has its last answer."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.open = connections
        for at in range(connections):
            if (wait := began + spread * at / connections - loop.time()) > 0:
                await asyncio.sleep(wait)
            await self.connect()
        await self.over.wait()

    async def connect(self) -> None:
        """Open one connection, which sends its first request at once."""
        await asyncio.get_running_loop().create_connection(lambda: LoadConnection(self), "127.0.0.1", self._port)

    def closed(self) -> None:
        """Count a connection as closed."""
        self.open -= 1
        if not self.open:
            self.over.set()


class LoadConnection(asyncio.Protocol):
    """One connection that sends requests one after the other."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._answer: Answering | None = None
        self._began = 0.0
        self._seen = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._send_request()

    def _send_request(self) -> None:
        assert self._transport is not None
        self._began = time.monotonic()
        if self._began >= self._load.end:
            self._transport.close()
            return
        self._answer, self._seen = Answering(), False
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        """Count tokens, and send the next request when the answer has ended."""
        load, answer = self._load, self._answer
        if answer is None:
            return
        tokens = answer.take(data)
        if tokens:
            load.tokens += tokens
            if not self._seen:
                self._seen = True
                load.first.append(time.monotonic() - self._began)
        if answer.refused and self._transport is not None:
            self._transport.close()
        elif answer.over:
            load.answered += 1
            self._answer = None
            self._send_request()

    def connection_lost(self, _: Exception | None) -> None:
        """Open a new connection, unless an answer was lost or the time is over."""
        load = self._load
        load.failed += self._answer is not None
        if self._answer is None and time.monotonic() < load.end:
            again = asyncio.get_running_loop().create_task(load.connect())
            again.add_done_callback(lambda task: load.closed() if task.exception() else None)
        else:
            load.closed()


async def loaded(load: Load, connections: int, spread: float) -> dict[str, float]:
    """Run *load*, and return its counts and times."""
    began = time.monotonic()
    async with asyncio.timeout(load.end - began + 60):
        await load.run(connections, spread)
    took = time.monotonic() - began
    first = sorted(load.first) or [0.0]
    return {
        "ok": load.answered,
        "failed": load.failed,
        "tokens": load.tokens,
        "per_second": round(load.answered / took, 1),
        "first_p50_ms": round(first[len(first) // 2] * 1000, 3),
        "first_p99_ms": round(first[int(len(first) * 0.99)] * 1000, 3),
    }


def request_of(path: str, body: bytes, headers: list[str]) -> bytes:
    """Return the bytes of a POST to *path*."""
    lines = [
        f"POST {path} HTTP/1.1",
        "host: localhost",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    return "\r\n".join([*lines, *headers]).encode() + HEAD_END + body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("body", type=Path, help="file with the request body")
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--spread", type=float, default=0.0, help="seconds over which the connections are opened")
    parser.add_argument("--header", action="append", default=[])
    given = parser.parse_args()
    request = request_of(given.path, given.body.read_bytes(), given.header)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        load = Load(given.port, request, given.seconds)
        print(json.dumps(runner.run(loaded(load, given.connections, given.spread))))


if __name__ == "__main__":
    main()
