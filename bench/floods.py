"""Measure floods of unfinished and refused requests: the sidecar's memory, what its clients get, and when they are gone.

Prints one line for each flood. The sidecar runs in its own process with the shipped settings; it needs no upstream.
"""

from __future__ import annotations

import os
import selectors
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from process import Program, program

HEADS = int(os.environ.get("HEADS", "200"))
HEAD_BYTES = int(os.environ.get("HEAD_BYTES", "2_000_000"))
BODIES, BODY_BYTES = 30, 16_000_000
IDLE_BODIES = int(os.environ.get("IDLE_BODIES", "3_000"))
UPLOADS, UPLOAD_BYTES = 60, 2_000_000
GONE_SECONDS = 60.0
PIECE_BYTES = 16_384
MEGABYTE = 1_000_000

PATH = b"/v1/chat/completions"
POST = b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


class Flood:
    """Clients that each send their bytes as fast as the sidecar reads them, and keep the start of what they get."""

    def __init__(self, port: int, requests: Iterable[bytes]) -> None:
        self._selector = selectors.DefaultSelector()
        self.answers: list[bytes] = []
        self.open = 0
        for request in requests:
            opened = socket.create_connection(("127.0.0.1", port))
            opened.setblocking(False)
            self._selector.register(
                opened, selectors.EVENT_READ | selectors.EVENT_WRITE, [memoryview(request), b"", False]
            )
            self.open += 1

    def run(self, seconds: float, program: Program) -> tuple[float, int]:
        """Send and read until all connections are closed or *seconds* have passed; return the time and the most memory."""
        begun, most = time.monotonic(), resident(program)
        while self.open and time.monotonic() - begun < seconds:
            found = self._selector.select(0.2)
            for key, mask in found:
                if mask & selectors.EVENT_WRITE:
                    self._write(key)
                if mask & selectors.EVENT_READ:
                    self._read(key)
            most = max(most, resident(program))
        return time.monotonic() - begun, most

    def _write(self, key: selectors.SelectorKey) -> None:
        try:
            sent = key.fileobj.send(key.data[0][:PIECE_BYTES])  # type: ignore[union-attr]  # a socket
        except BlockingIOError:
            return
        except OSError:
            self._end(key)
            return
        key.data[0] = key.data[0][sent:]
        if not key.data[0]:
            self._selector.modify(key.fileobj, selectors.EVENT_READ, key.data)

    def _read(self, key: selectors.SelectorKey) -> None:
        if key.data[2]:
            return
        try:
            data = key.fileobj.recv(65_536)  # type: ignore[union-attr]  # a socket
        except BlockingIOError:
            return
        except OSError:
            data = b""
        key.data[1] = (key.data[1] + data)[:4_096]
        if not data:
            self._end(key)

    def _end(self, key: selectors.SelectorKey) -> None:
        if key.data[2]:
            return
        key.data[2] = True
        self._selector.unregister(key.fileobj)
        key.fileobj.close()  # type: ignore[union-attr]  # a socket
        self.answers.append(key.data[1])
        self.open -= 1

    def close(self) -> None:
        """Close the open connections."""
        for key in list(self._selector.get_map().values()):
            self._end(key)


def resident(running: Program) -> int:
    """Return the resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{running.popen.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(running: Program) -> float:
    """Return the CPU time of a process so far."""
    fields = Path(f"/proc/{running.popen.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def statuses(answers: Iterable[bytes]) -> str:
    """Return how many clients got which status."""
    counts = Counter(answer[9:12].decode() or "none" for answer in answers)
    return ", ".join(f"{status} x {count}" for status, count in sorted(counts.items()))


def upload_first(port: int, count: int, size: int) -> list[bytes]:
    """Return the answers to uploads of clients that write all of their body before they read."""
    answers = []
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port)) as client:
            answer = b""
            try:
                client.sendall(POST % (b"/api/chat", size) + bytes(size))
                while data := client.recv(65_536):
                    answer += data
            except OSError:
                answer = b""
            answers.append(answer)
    return answers


def flood(name: str, requests: Iterable[bytes], seconds: float) -> None:
    """Run one flood on a sidecar of its own, and print what it did."""
    with tempfile.TemporaryDirectory() as folder, _serving(folder) as running:
        before, used = resident(running), cpu_seconds(running)
        clients = Flood(running.port, requests)
        took, most = clients.run(seconds, running)
        left = clients.open
        clients.close()
        grown = (most - before) / MEGABYTE
        print(
            f"{name}: +{grown:.0f} MB at most, {cpu_seconds(running) - used:.1f} s of CPU, "
            f"{left} still open after {took:.0f} s; got {statuses(clients.answers)}",
            flush=True,
        )


def _serving(folder: str) -> AbstractContextManager[Program]:
    return program("serve", "--upstream", "http://127.0.0.1:9/v1", "--port", "0", folder=Path(folder))


def main() -> None:
    """Run all floods."""
    head = b"GET / HTTP/1.1\r\nhost: localhost\r\na: " + b"x" * HEAD_BYTES
    flood(f"{HEADS} heads of {HEAD_BYTES / MEGABYTE:g} MB", [head] * HEADS, 30)
    fields = b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"a: b\r\n" * (HEAD_BYTES // 6)
    flood(f"{HEADS} heads of {HEAD_BYTES // 6} fields", [fields] * HEADS, 30)
    body = POST % (PATH, BODY_BYTES + 1) + bytes(BODY_BYTES)
    flood(f"{BODIES} unfinished bodies of {BODY_BYTES / MEGABYTE:g} MB", [body] * BODIES, 20)
    idle = POST % (PATH, 100) + b"{"
    flood(f"{IDLE_BODIES} bodies of one byte", [idle] * IDLE_BODIES, GONE_SECONDS)
    with tempfile.TemporaryDirectory() as folder, _serving(folder) as running:
        answers = upload_first(running.port, UPLOADS, UPLOAD_BYTES)
    print(
        f"{UPLOADS} uploads of {UPLOAD_BYTES / MEGABYTE:g} MB to /api/chat, written before reading: got {statuses(answers)}"
    )


if __name__ == "__main__":
    main()
