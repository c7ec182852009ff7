"""Move the WAL of a SQLite file into the file, in a thread: on a slow disk each checkpoint takes two `fsync`, 30 ms and more.

1. Passive checkpoints block no writer. They are repeated until they have moved the whole WAL, which succeeds as soon as nothing
   is written for the time of one of them.
2. Then the WAL is restarted. That locks the file for less than a millisecond. Under constant load step 1 never succeeds; then
   the WAL is restarted only when it has grown to `MAX_WAL_PAGES`, and the file is locked for two `fsync`.
3. The first write to a restarted WAL waits for one `fsync` while it has the lock: else a loss of power could damage the file. So
   the thread makes this write. Operations of calls wait for it as for any lock, without blocking the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .connecting import connect

ROWS_PER_CHECKPOINT = 3_000
"""Rows that this process has changed since its last checkpoint. Each takes one page of the WAL, a new one or a removed one up to two."""
MAX_JOURNAL_BYTES = 8_388_608
"""Size to which SQLite cuts a larger WAL when it restarts it."""
MAX_WAL_PAGES = 2_048
"""Pages in the WAL, of 2 KiB each, with which it is restarted although that blocks writers for longer.

SQLite passes over all earlier entries of a page in the WAL when it adds the next one: with 8,192 pages a request cost 3 % more."""
MAX_PASSES, RESTART_ATTEMPTS = 5, 5
"""Passive checkpoints in a row, and attempts to restart the WAL while others read it; the next checkpoint tries again."""
RESTART_RETRY_SECONDS = 0.005


class Checkpoints:
    """Checkpoints of the file at *path*, at most one at a time, in a thread of their own. *sleep* is called in the thread."""

    def __init__(self, path: Path, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._path, self._sleep = path, sleep
        self._changes_before = 0
        """Changed rows of the connection up to the last checkpoint."""
        self._executor: ThreadPoolExecutor | None = None
        self._running: asyncio.Future[None] | None = None
        self.is_running = False
        """Whether a checkpoint is in progress."""

    def note_changes(self, total: int) -> None:
        """Note that the connection has changed *total* rows in all, and start a checkpoint if it is due. Does not wait."""
        if total < self._changes_before:  # another connection
            self._changes_before = 0
        if total - self._changes_before >= ROWS_PER_CHECKPOINT and not self.is_running:
            self._changes_before = total
            self.start()

    def start(self) -> None:
        """Start a checkpoint, unless one is in progress. Does not wait."""
        if self.is_running:
            return
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
            file.execute(f"PRAGMA journal_size_limit = {MAX_JOURNAL_BYTES}")
            if not is_all_moved(file):
                return
            for _ in range(RESTART_ATTEMPTS):
                (is_busy, _, _) = file.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
                if not is_busy:
                    file.execute("UPDATE generation SET id = id")
                    return
                self._sleep(RESTART_RETRY_SECONDS)


def is_all_moved(file: sqlite3.Connection) -> bool:
    """Move the WAL into the file; return whether nothing was written meanwhile, or the WAL is too large to wait for that."""
    pages_before = -1
    for _ in range(MAX_PASSES):
        (_, pages, moved) = file.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if pages == moved == pages_before:
            return True
        pages_before = pages  # what was written during a pass is in neither number
    return pages_before >= MAX_WAL_PAGES
