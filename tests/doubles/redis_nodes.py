"""Redis servers that belong together: processes that a test kills, suspends and asks, one command at a time."""

from __future__ import annotations

import random
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar

from redis.connection import Connection
from redis.exceptions import RedisError
from redis_server import RedisServer

Found = TypeVar("Found")
ASK_TIMEOUT_SECONDS = 2.0
FIRST_PORT, LAST_PORT, BUS_OFFSET = 12_000, 21_999, 10_000
"""Ports of nodes and, above them, of their cluster buses. Both are below the ports that Linux gives to outgoing connections,
so that a killed node finds its port free when it starts again."""
POLL_SECONDS = 0.01


class RedisNode(RedisServer):
    """A server without persistence. It keeps its port and its configuration when it is killed and started again."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def is_alive(self) -> bool:
        """Whether it runs and is not suspended."""
        return self.process is not None and self.process.poll() is None and not self.is_suspended

    is_suspended = False

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.stop()
        self.is_suspended = False

    def suspend(self) -> None:
        """Stop its process by SIGSTOP: its connections stay open, and it answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        self.is_suspended = True

    def resume(self) -> None:
        """Continue its process."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.is_suspended = False

    def ask(self, *command: str | bytes | int) -> Any:
        """Return the reply to *command*, sent on a connection of its own. Raises `RedisError`."""
        connect: Any = Connection  # the library has no types for it
        connection = connect(host="127.0.0.1", port=self.port, socket_timeout=ASK_TIMEOUT_SECONDS, protocol=2)
        try:
            connection.connect()
            connection.send_command(*command)
            return connection.read_response()
        finally:
            connection.disconnect()

    def lines(self, *command: str) -> list[str]:
        """Return the lines of a reply that is text."""
        return bytes(self.ask(*command)).decode().splitlines()

    def facts(self, *command: str) -> dict[str, str]:
        """Return a reply of lines `NAME:VALUE`."""
        pairs = (line.partition(":") for line in self.lines(*command))
        return {name: value for name, separator, value in pairs if separator}

    @property
    def wait_count(self) -> int:
        """How many WAIT commands it has executed: clients that wait for a replica lose no write when it is killed."""
        calls = re.match(r"calls=(\d+)", self.facts("INFO", "commandstats").get("cmdstat_wait", ""))
        return int(calls[1]) if calls else 0

    def until_waits(self) -> None:
        """Wait until its clients wait for a replica; it takes them a moment to notice a new one."""
        before = self.wait_count
        waited(lambda: self.wait_count > before + 1, f"no client of {self.address} waits for its replica")

    @property
    def primary_port(self) -> int | None:
        """The port of the primary that it is a replica of, if its data is loaded; None otherwise."""
        facts = self.facts("INFO", "replication")
        is_loaded = facts["role"] == "slave" and facts["master_link_status"] == "up"
        return int(facts["master_port"]) if is_loaded else None

    def feeds(self, replica: RedisNode) -> bool:
        """Whether each write goes to *replica*, which has all writes before it.

        A new replica gets no writes before it has acknowledged an offset, which is up to a second after it has loaded the data.
        """
        facts = self.facts("INFO", "replication")
        pairs = [
            dict(map(_pair, value.split(","))) for name, value in facts.items() if re.fullmatch("slave[0-9]+", name)
        ]
        return any(int(each["port"]) == replica.port and int(each["offset"]) > 0 for each in pairs)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def is_synchronized(replica: RedisNode, nodes: Sequence[RedisNode]) -> bool:
    """Return whether *replica* has the data of its primary, one of *nodes*, and gets each write."""
    port = replica.primary_port
    return any(node.port == port and node.is_alive and node.feeds(replica) for node in nodes)


def waited(found: Callable[[], Found | None], text: str, *, seconds: float = 30.0) -> Found:
    """Return the first result of *found* that is not None or False. Errors of servers count as None.

    Raises `AssertionError` with *text* after *seconds*.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(RedisError, OSError):
            if (result := found()) not in (None, False):
                return result
        time.sleep(POLL_SECONDS)
    raise AssertionError(text)


def node_ports(count: int) -> list[int]:
    """Return *count* ports; nothing listens on them, nor on those of their cluster buses."""
    chosen: list[int] = []
    candidates = random.sample(range(FIRST_PORT, LAST_PORT + 1), LAST_PORT + 1 - FIRST_PORT)
    while len(chosen) < count:
        port = candidates.pop()
        with suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + BUS_OFFSET))
            chosen.append(port)
    return chosen


@contextmanager
def node_folder() -> Iterator[Path]:
    """Create a folder for the configuration files that servers write; remove it at the end."""
    folder = Path(mkdtemp(prefix="redis-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
