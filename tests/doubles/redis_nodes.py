"""Redis servers that belong together: processes that a test kills, suspends and asks, one command at a time."""

from __future__ import annotations

import os
import re
import shutil
import signal
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
REPLICATION_OPTIONS = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
ASK_TIMEOUT_SECONDS = 5.0
WAITED_SECONDS = 90.0
"""How long to wait for what servers do by themselves, such as elections. They give up and try again, and the machine may be busy."""
POLL_SECONDS = 0.03
ACKNOWLEDGED_WAITS, ACKNOWLEDGED_SECONDS = 4, 0.4
"""A client that sends this many WAIT commands within this time gets acknowledgements: without one it pauses for longer."""


class RedisNode(RedisServer):
    """A server without persistence. It keeps its port and its configuration when it is killed and started again."""

    def __init__(self, port: int, folder: Path, *options: str) -> None:
        self._synced = folder / f"{port}.rdb"
        super().__init__(port, folder, "--dbfilename", self._synced.name, *options)

    def start(self) -> None:
        """Start it without data: a replica leaves what it got from its primary in a file."""
        self._synced.unlink(missing_ok=True)
        super().start()

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

    def stop(self) -> None:
        super().stop()
        self.is_suspended = False

    def suspend(self) -> None:
        """Stop its process by SIGSTOP, and return when it has stopped: its connections stay open, and it answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)
        self.is_suspended = True

    def resume(self) -> None:
        """Continue its process."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.is_suspended = False

    def revive(self) -> None:
        """Start or continue it, if it does not run."""
        if self.is_suspended:
            self.resume()
        if not self.is_alive:
            self.stop()
            self.start()

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

    @property
    def waiting_clients(self) -> set[str]:
        """The ids of the connections whose last command was WAIT."""
        return {line.split()[0] for line in self.lines("CLIENT", "LIST") if " cmd=wait " in line}

    def until_waits(self, clients: int = 1) -> None:
        """Wait until so many clients wait for a replica that acknowledges. It takes them some seconds to notice a new one.

        A server that is killed before forgets writes, which no client can prevent.
        """
        before, since, waiting = self.wait_count, time.monotonic(), set[str]()

        def is_acknowledged() -> bool:
            nonlocal before, since, waiting
            waiting |= self.waiting_clients
            count, now = self.wait_count, time.monotonic()
            if now - since > ACKNOWLEDGED_SECONDS:
                before, since, waiting = count, now, set()
            return count >= before + ACKNOWLEDGED_WAITS * clients and len(waiting) >= clients

        text = f"the clients of {self.address} do not wait for its replica"
        waited(is_acknowledged, text, seen=lambda: (self.wait_count, self.lines("CLIENT", "LIST")))

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


def waited(
    found: Callable[[], Found | None],
    text: str,
    *,
    seconds: float = WAITED_SECONDS,
    seen: Callable[[], object] | None = None,
) -> Found:
    """Return the first result of *found* that is not None or False. Errors of servers count as None.

    Raises `AssertionError` after *seconds*, with *text*, what *seen* returns then, and the last error.
    """
    last: Exception | None = None
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if (result := found()) not in (None, False):
                return result
        except (RedisError, OSError) as error:
            last = error
        time.sleep(POLL_SECONDS)
    with suppress(RedisError, OSError):
        text = text if seen is None else f"{text}; seen: {seen()}"
    raise AssertionError(f"{text} (waited for {seconds:g} s; last error: {last!r})")


@contextmanager
def node_folder() -> Iterator[Path]:
    """Create a folder for the configuration files that servers write; remove it at the end."""
    folder = Path(mkdtemp(prefix="redis-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
