"""A Redis server of the tests: on a free port, without files on disk, ended by its process id."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
MISSING = "redis-server is not installed (Debian: apt-get install redis-server)"


class RedisServer:
    """A server that can be stopped and started again: it keeps its port and loses its data."""

    def __init__(self, port: int, folder: Path, *options: str) -> None:
        assert SERVER is not None
        self.port, self.url = port, f"redis://127.0.0.1:{port}/0"
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
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        for _ in range(2000):
            if self.process.poll() is not None:
                raise AssertionError("redis-server ended at once")
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(16).startswith((b"+PONG", b"-NOAUTH", b"-MASTERDOWN")):
                        return
            except OSError:
                pass
            time.sleep(0.01)  # between two polls of a process that starts; their number is bounded
        raise AssertionError("redis-server does not answer")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def free_port() -> int:
    """Return a TCP port on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def redis_server(folder: Path, *options: str, port: int | None = None) -> Iterator[RedisServer]:
    """Run a server while the block lasts."""
    server = RedisServer(port or free_port(), folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def with_own_prefix(url: str) -> str:
    """Return *url* with a key prefix that no other test uses."""
    return f"{url}?prefix={uuid4().hex}"
