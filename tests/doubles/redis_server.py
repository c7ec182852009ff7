"""A Redis server of the tests: on a free port, without data on disk, ended by its process id."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
MISSING = "redis-server is not installed (Debian: apt-get install redis-server)"
FIRST_PORT, LAST_PORT, BUS_OFFSET = 12_000, 21_999, 10_000
"""Ports of servers and, above them, of the buses of cluster nodes. Both are below the ports that Linux gives to outgoing
connections, so that a server which is started later, or again, finds its port free."""
MAX_CANDIDATES = 1_000
LOGGED_LINES = 20
"""Lines of the log of a server that a failure shows."""


class RedisServer:
    """A server that can be stopped and started again: it keeps its port and loses its data."""

    def __init__(self, port: int, folder: Path, *options: str) -> None:
        assert SERVER is not None
        self.port, self.url = port, f"redis://127.0.0.1:{port}/0"
        self._log = folder / f"redis-{port}.log"
        self._command = [
            SERVER,
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(folder),
            *options,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers. A server that does not is ended. Raises `AssertionError`."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        try:
            self._wait_for_answer(self.process)
        except BaseException:
            self.stop()
            raise

    def _wait_for_answer(self, process: subprocess.Popen[bytes]) -> None:
        for _ in range(2000):
            if (code := process.poll()) is not None:
                raise AssertionError(f"redis-server ended at once with code {code}:\n{self.logged}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(16).startswith((b"+PONG", b"-NOAUTH", b"-MASTERDOWN")):
                        return
            except OSError:
                pass
            time.sleep(0.01)  # between two polls of a process that starts; their number is bounded
        raise AssertionError(f"redis-server does not answer:\n{self.logged}")

    @property
    def logged(self) -> str:
        """The last lines of its log."""
        with suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOGGED_LINES:])
        return ""

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def free_ports(count: int) -> list[int]:
    """Return *count* TCP ports; no process listens on them, nor on those of the cluster buses that belong to them."""
    chosen: list[int] = []
    chance = random.SystemRandom()  # other processes of tests, and hypothesis, may have the same seed
    for _ in range(MAX_CANDIDATES):
        port = chance.randint(FIRST_PORT, LAST_PORT)
        with suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + BUS_OFFSET))
            if port not in chosen:
                chosen.append(port)
        if len(chosen) == count:
            return chosen
    raise AssertionError(f"no {count} ports are free from {FIRST_PORT} to {LAST_PORT}")


def free_port() -> int:
    """Return one of `free_ports`."""
    return free_ports(1)[0]


@contextmanager
def redis_server(folder: Path, *options: str, port: int | None = None) -> Iterator[RedisServer]:
    """Run a server while the block lasts."""
    server = RedisServer(port or free_port(), folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def with_own_prefix(url: str) -> str:
    """Return *url* with a key prefix that no other test uses."""
    return f"{url}?prefix={uuid4().hex}"
