"""How long other processes wait for the write lock of a SQLite file, and how large its WAL becomes.

A process of its own takes the lock every few milliseconds. It is this file as a program, with the path of the SQLite file.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MOST_WAIT_MS = 20.0
PAUSE_SECONDS = 0.002
"""Between two attempts to take the lock."""
SPIN_SECONDS = 0.0002
"""Between two attempts while the file is locked: SQLite itself would wait in larger steps."""


class Waits(NamedTuple):
    """The waits for the lock, in milliseconds."""

    number: int
    longest: float
    over: int
    wal_mb: float
    """The largest size of the WAL meanwhile."""


def sample_waits(path: str) -> None:
    """Take the lock of *path* again and again until stdin is closed; print a line of JSON for each line of stdin."""
    file = sqlite3.connect(path, timeout=0, isolation_level=None)
    os.set_blocking(0, False)
    waits: list[float] = []
    wal, largest = Path(f"{path}-wal"), 0
    while True:
        with contextlib.suppress(FileNotFoundError):
            largest = max(largest, wal.stat().st_size)
        try:
            line = os.read(0, 1)
        except BlockingIOError:
            pass
        else:
            if not line:
                return
            over = sum(each > MOST_WAIT_MS for each in waits)
            print(json.dumps([len(waits), max(waits, default=0.0), over, largest / 1e6]), flush=True)
            waits.clear()
            largest = 0
        waits.append(_wait(file))
        time.sleep(PAUSE_SECONDS)


def _wait(file: sqlite3.Connection) -> float:
    began = time.perf_counter()
    while True:
        try:
            file.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            time.sleep(SPIN_SECONDS)
        else:
            waited = time.perf_counter() - began
            file.execute("ROLLBACK")
            return waited * 1000


class Sampler:
    """The process that takes the lock."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.longest = self.wal_mb = 0.0

    def waits(self) -> Waits:
        """Return the waits since the last call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Waits(*json.loads(self._process.stdout.readline()))

    def report(self, name: str, began: float, *, counts: bool = True) -> None:
        """Print the line of one phase, which began at *began* (monotonic seconds); without *counts* its waits may be longer."""
        seconds = time.monotonic() - began
        waits = self.waits()
        columns = f"{seconds:8.2f} {waits.number:8,} {waits.longest:11.1f} {waits.over:8} {waits.wal_mb:8.1f}"
        print(f"{name:34} {columns}", flush=True)
        self.wal_mb = max(self.wal_mb, waits.wal_mb)
        if counts:
            self.longest = max(self.longest, waits.longest)


@contextlib.contextmanager
def sampling(path: Path) -> Iterator[Sampler]:
    """Run the process that takes the lock while the block lasts."""
    command = [sys.executable, __file__, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Sampler(process)
    finally:
        process.communicate()


if __name__ == "__main__":
    sample_waits(sys.argv[1])
