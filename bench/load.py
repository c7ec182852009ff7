"""A closed-loop load client: connections that ask again as soon as they were answered.  Prints one JSON object."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import cast

import uvloop

TOKEN = b'" tok'


class Asking(asyncio.Protocol):
    """One kept connection."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.transport: asyncio.Transport | None = None
        self.tail, self.seen, self.ok = b"", False, False
        self.began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.ask()

    def ask(self) -> None:
        assert self.transport is not None
        if time.monotonic() >= self.load.end:
            self.transport.close()
            return
        self.tail, self.seen, self.ok, self.began = b"", False, False, time.monotonic()
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        if not self.ok:
            self.ok = data.startswith(b"HTTP/1.1 200")
            self.load.failed += not self.ok
        self.load.tokens += data.count(TOKEN)
        if not self.seen and TOKEN in data:
            self.seen = True
            self.load.first.append(time.monotonic() - self.began)
        if (self.tail + data[-5:]).endswith(b"0\r\n\r\n"):
            self.load.answered += self.ok
            self.ask()
        elif not self.ok and self.transport is not None:
            self.transport.close()
        self.tail = data[-5:]

    def connection_lost(self, _: Exception | None) -> None:
        self.load.open -= 1
        if not self.load.open and not self.load.over.done():
            self.load.over.set_result(None)


class Load:
    """All connections, and what came of them."""

    def __init__(self, request: bytes, connections: int, seconds: float) -> None:
        self.request, self.open, self.end = request, connections, time.monotonic() + seconds
        self.over = asyncio.get_running_loop().create_future()
        self.answered = self.failed = self.tokens = 0
        self.first: list[float] = []


async def run(host: str, port: int, request: bytes, connections: int, seconds: float) -> dict[str, float]:
    """Load HOST:PORT and return what was counted; times are in milliseconds."""
    load = Load(request, connections, seconds)
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Asking(load), host, port)
    await asyncio.wait_for(load.over, seconds + 30)
    first = sorted(load.first) or [0.0]
    return {
        "ok": load.answered,
        "failed": load.failed,
        "tokens": load.tokens,
        "first_p50_ms": round(first[len(first) // 2] * 1000, 3),
        "first_p99_ms": round(first[int(len(first) * 0.99)] * 1000, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("body", type=Path)
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    given = parser.parse_args()
    body = given.body.read_bytes()
    head = f"POST {given.path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        counted = runner.run(run(given.host, given.port, head.encode() + body, given.connections, given.seconds))
    print(json.dumps(counted))


if __name__ == "__main__":
    main()
