"""Load client that holds many streams open: idle ones, or slow ones that it does not read for a while.

It prints "open" when all are open, and waits for a line on standard input. Then it closes `idle` streams, or reads
`slow` ones to their end, and prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import cast

import uvloop
from load import Answering, request_of
from processes import many_files

RECEIVE_BUFFER_BYTES = 65_536
"""Receive buffer of a slow client's socket, in bytes."""
MAX_CONNECTING = 100
"""Connections that are opened concurrently."""


class HeldStream(asyncio.Protocol):
    """The client side of one open stream."""

    def __init__(self, request: bytes, *, slow: bool) -> None:
        self._request, self._slow = request, slow
        self._answer = Answering()
        self.transport: asyncio.Transport | None = None
        self.tokens = 0
        self.open, self.gone = asyncio.Event(), asyncio.Event()

    @property
    def whole(self) -> bool:
        """Whether the whole answer arrived."""
        return self._answer.over and not self._answer.refused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)
        if self._slow:
            self.transport.pause_reading()
            self.open.set()

    def data_received(self, data: bytes) -> None:
        """Count tokens."""
        self.tokens += self._answer.take(data)
        if self.tokens:
            self.open.set()
        if self._answer.over or self._answer.refused:
            self.gone.set()

    def connection_lost(self, _: Exception | None) -> None:
        """Wake the tasks that wait for this stream."""
        self.open.set()
        self.gone.set()


async def hold(port: int, request: bytes, streams: int, *, slow: bool) -> dict[str, float]:
    """Hold *streams* open; return the counts of streams and tokens."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(MAX_CONNECTING)

    async def one() -> HeldStream:
        async with gate:
            opened = socket.socket()
            opened.setblocking(False)
            if slow:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            await loop.sock_connect(opened, ("127.0.0.1", port))
            _, held = await loop.create_connection(lambda: HeldStream(request, slow=slow), sock=opened)
            await held.open.wait()
            return held

    all_held = await asyncio.gather(*(one() for _ in range(streams)))
    print("open", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    if slow:
        for held in all_held:
            if held.transport is not None:
                held.transport.resume_reading()
        await asyncio.gather(*(held.gone.wait() for held in all_held))
    good = sum(held.whole if slow else held.tokens > 0 and not held.gone.is_set() for held in all_held)
    for held in all_held:
        if held.transport is not None:
            held.transport.abort()
    return {"ok": good, "failed": streams - good, "tokens": sum(held.tokens for held in all_held)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("idle", "slow"))
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("body", type=Path, help="file with the request body")
    parser.add_argument("streams", type=int)
    parser.add_argument("--header", action="append", default=[])
    given = parser.parse_args()
    many_files()
    request = request_of(given.path, given.body.read_bytes(), given.header)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(hold(given.port, request, given.streams, slow=given.kind == "slow"))))


if __name__ == "__main__":
    main()
