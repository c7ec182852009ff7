"""Move the WAL of a SQLite file into the file, in a thread: on a slow disk each checkpoint takes two `fsync`, 30 ms and more.

A passive checkpoint blocks no writer, but under constant load the WAL would grow for ever. So a second one restarts the WAL:
it locks the file for less than a millisecond, and writers try again, as for any lock. One small write follows in the thread, because
the first write to a restarted WAL waits for the disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .connecting import connect

TRANSACTIONS_PER_CHECKPOINT = 1_000
"""Transactions of this process after which the WAL, of two to four pages each, is moved into the file."""
RESTART_ATTEMPTS = 5


class Checkpoints:
    """Checkpoints of the file at *path*, at most one at a time, in a thread of their own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._transactions = 0
        self._file: sqlite3.Connection | None = None
        self._inode = 0
        self._executor: ThreadPoolExecutor | None = None
        self._running: asyncio.Future[None] | None = None
        self.is_running = False
        """Whether a checkpoint is in progress."""

    def add_transaction(self, inode: int) -> None:
        """Count a transaction of the event loop's thread, and start a checkpoint if it is due. Does not wait.

        *inode* is that of the file, which may have been replaced.
        """
        self._transactions += 1
        if self._transactions >= TRANSACTIONS_PER_CHECKPOINT and not self.is_running:
            self._transactions = 0
            self._executor = self._executor or ThreadPoolExecutor(1, "sqlite-checkpoint")
            self._running = asyncio.get_running_loop().run_in_executor(self._executor, self._checkpoint, inode)
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
        self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _checkpoint(self, inode: int) -> None:
        """Move the WAL into the file. A failure is left to the next transaction, which meets its cause."""
        try:
            if self._file is None or inode != self._inode:
                self._close()
                self._file, self._inode = connect(self._path, create=False), inode
                self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute("PRAGMA wal_checkpoint(PASSIVE)")
            for _ in range(RESTART_ATTEMPTS):
                (is_busy, _, _) = self._file.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
                if not is_busy:
                    self._file.execute("UPDATE generation SET id = id")
                    return
        except sqlite3.Error:
            self._close()
