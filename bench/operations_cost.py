"""Measure the cost of a request of each API: CPU of the sidecar in microseconds, beside chat completions in one run.

The chain is the shipped one with limits that are never reached, the store SQLite. An upstream in a process of its own sends
canned answers. Each figure is the lowest of several rounds, which alternate between the APIs, on one connection.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from operation_samples import SAMPLES, OperationSample
from processes import PROXY, cpu_ns, started
from targets import sidecar_config

from sidecar.wire.operations.operation import Operation
from sidecar.wire.operations.registry import GOVERNED_OPERATIONS

PIECES_IN_STREAM = 64
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"


class Row(NamedTuple):
    """The requests of one API in one form."""

    operation: Operation
    stream: bool

    @property
    def sample(self) -> OperationSample:
        return SAMPLES[self.operation.request.name]

    def request(self, port: int) -> bytes:
        body = json.dumps(self.sample.body | ({"stream": True} if self.stream else {})).encode()
        return (
            f"POST {self.operation.path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode() + body

    def answer(self) -> bytes:
        sample = self.sample
        if not self.stream:
            body = json.dumps(sample.whole).encode()
            return HEAD % (b"application/json", len(body)) + body
        assert sample.piece is not None
        body = sample.opening + sample.piece(0) * PIECES_IN_STREAM + sample.closing
        return HEAD % (b"text/event-stream", len(body)) + body


def serve(ready: Connection) -> None:
    """Run the upstream: one canned answer for each API and form."""
    answers = {(f"POST /v1{row.operation.upstream_path} ".encode(), row.stream): row.answer() for row in rows()}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                body = await reader.readexactly(int(line.split(b":")[1]))
                asked = (head[: head.index(b"HTTP/")], b'"stream":true' in body)
                writer.write(answers[asked])
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def rows() -> list[Row]:
    return [
        Row(each, stream)
        for each in GOVERNED_OPERATIONS
        for stream in (False, True)
        if each.request.can_stream or not stream
    ]


def load(connection: socket.socket, request: bytes, count: int) -> None:
    """Send *request* *count* times, one after another, and read each response to its end."""
    for _ in range(count):
        connection.sendall(request)
        read = b""
        while True:
            read += connection.recv(262_144)
            head, _, body = read.partition(b"\r\n\r\n")
            if b"content-length: " in head:
                if len(body) == int(head.split(b"content-length: ")[1].split(b"\r\n")[0]):
                    break
            elif body.endswith(b"0\r\n\r\n"):
                break
        if not head.startswith(b"HTTP/1.1 200"):
            sys.exit(f"unexpected response: {read[:500]!r}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500, help="requests per API and round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    upstream = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    upstream.start()
    port = ours.recv()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sidecar.toml").write_text(sidecar_config())
        command = [sys.executable, "-m", "sidecar", "serve", "--config", "sidecar.toml", "--model", "m"]
        command += ["--upstream", f"http://127.0.0.1:{port}/v1", "--port", "0"]
        with started(command, PROXY, Path(folder)) as (pid, line):
            address = ("127.0.0.1", int(line.rpartition(":")[2]))
            best: dict[Row, float] = {}
            for _ in range(options.rounds + 1):  # the first one warms up
                for row in rows():
                    with socket.create_connection(address) as connection:
                        request = row.request(address[1])
                        load(connection, request, 20)
                        before = cpu_ns(pid)
                        load(connection, request, options.requests)
                        spent = (cpu_ns(pid) - before) / options.requests / 1000
                    best[row] = min(best.get(row, spent), spent)
    upstream.terminate()
    print("| API | form | CPU per request, µs | beside chat completions |\n| --- | --- | --- | --- |")
    for row, spent in best.items():
        chat = best[Row(GOVERNED_OPERATIONS[0], row.stream)]
        form = f"stream of {PIECES_IN_STREAM} pieces" if row.stream else "JSON"
        print(f"| {row.operation.request.name} | {form} | {spent:.0f} | {spent / chat:.2f} |")


if __name__ == "__main__":
    main()
