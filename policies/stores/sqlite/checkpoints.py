"""Move the WAL of a SQLite file into the file, in a thread: on a slow disk each checkpoint takes two `fsync`, 30 ms and more.

A passive checkpoint blocks no writer, but under constant load the WAL would grow for ever. So a second one restarts the WAL. It
locks the file for less than a millisecond, and writers try again, as for any lock. One small write follows in the thread,
because the first write to a restarted WAL waits for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .connecting import connect

TRANSACTIONS_PER_CHECKPOINT = 1_000
"""Transactions of this process after which the WAL, of two to four pages each, is moved into the file."""
RESTART_ATTEMPTS = 5
"""Attempts to restart the WAL while other connections read it or write to it; the next checkpoint tries again."""


class Checkpoints:
    """Checkpoints of the file at *path*, at most one at a time, in a thread of their own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._transactions = 0
        self._executor: ThreadPoolExecutor | None = None
        self._running: asyncio.Future[None] | None = None
        self.is_running = False
        """Whether a checkpoint is in progress."""

    def add_transaction(self) -> None:
        """Count a transaction of the event loop's thread, and start a checkpoint if it is due. Does not wait."""
        self._transactions += 1
        if self._transactions >= TRANSACTIONS_PER_CHECKPOINT and not self.is_running:
            self._transactions = 0
            self._executor = self._executor or ThreadPoolExecutor(1, "sqlite-checkpoint")
            self._running = asyncio.get_running_loop().run_in_executor(self._executor, self._checkpoint)
            self.is_running = True
            self._running.add_done_callback(self._ended)

    def _ended(self, _: asyncio.Future[None]) -> None:
        self.is_running = False

    async def aclose(self) -> None:
        """Wait for the checkpoint in progress, and end the thread."""
        if self._running is not None:
            await asyncio.wait([self._running])
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

    def _checkpoint(self) -> None:
        """Move the WAL into the file. A failure is left to the next transaction, which meets its cause.

        The connection is closed each time: a file that was replaced must not stay open.
        """
        with contextlib.suppress(sqlite3.Error), contextlib.closing(connect(self._path, create=False)) as file:
            file.execute("PRAGMA synchronous = NORMAL")
            file.execute("PRAGMA wal_checkpoint(PASSIVE)")
            for _ in range(RESTART_ATTEMPTS):
                (is_busy, _, _) = file.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
                if not is_busy:
                    file.execute("UPDATE generation SET id = id")
                    return
