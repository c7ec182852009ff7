"""Turn a file of an earlier version into the present one: what is spent stays spent.

The migration needs the file for itself. A process of an earlier version that still has it open would not count together with
this one. Then the file is not migrated, and this process does not start.

All counters are copied by a few statements in the order of their new keys, so that each page is written once.
"""

from __future__ import annotations

import functools
import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from policies.api.claim import KEY_SEPARATOR, Sliding
from policies.stores.batching.group_commit import StoreBusy
from policies.stores.counting.ring import add_to_ring, cell_width, empty_ring, expires_at
from policies.stores.counting.rows import SLIDING_START, CounterRow

from .connecting import connect, create_tables, is_busy
from .failures import in_use_by_earlier
from .file_keys import swapped

OLDEST_VERSION = 1
"""Files of this version and later ones are migrated. Version 1 had times in seconds, later ones in microseconds."""
SECONDS_VERSION = 1
OLD_TABLES = ("taking", "hold", "owner", "crowd", "tidied", "slide")
CACHE_KIB = 65_536
"""Memory for pages that are not written yet."""
OPERATIONS_PER_CHECK = 100_000
"""Operations of SQLite's virtual machine between two calls of *is_cancelled*: some milliseconds."""
_log = logging.getLogger("sidecar.store")
_IN_MICROSECONDS = {
    SECONDS_VERSION: (
        "SELECT key, CAST(round(start * 1000000) AS INTEGER) AS start, CAST(round(ends * 1000000) AS INTEGER) AS ends,"
        " max(0, spent + held) AS spent, '' AS crowd FROM old_counter WHERE start >= 0"
        " UNION ALL SELECT key, -1, 0, total, '' FROM slide WHERE total > 0"
    )
}
_OLD_COUNTERS = (
    "SELECT key, start, ends, max(0, spent + held) AS spent, coalesce(crowd, '') AS crowd FROM old_counter"
    " WHERE start >= 0 OR (start = -1 AND spent > 0)"
)
_COPY_COUNTERS = """
INSERT OR REPLACE INTO counter SELECT swapped(key), start, iif(start = -1, sliding(0, key, spent), ends), spent, 0,
    iif(start = -1, sliding(1, key, spent), 0), iif(start = -1, sliding(2, key, spent), 0),
    iif(start = -1, sliding(3, key, spent), x''), crowd, 0
FROM ({old}) ORDER BY 1, 2
"""
_QUEUE_REMOVALS = "INSERT OR IGNORE INTO removal SELECT removable_at(start, iif(start = -1, sliding(0, key, spent), ends)), key, start FROM ({old})"
_COUNT_GROUPS = "INSERT INTO crowd SELECT crowd, count(*) FROM ({old}) WHERE crowd != '' GROUP BY crowd"


def migrate(path: Path, version: int, now: int, is_cancelled: Callable[[], bool] = lambda: False) -> None:
    """Migrate the file at *path* to *version*, in one transaction; *now* is in microseconds. Takes about 5 s per million rows.

    Reservations are charged: their processes have ended. What a sliding window counts is counted as taken now. Raises
    `StoreBusy` while another process has the file open, and `sqlite3.Error`, also where *is_cancelled* returns True.
    """
    file = connect(path)
    try:
        file.execute("PRAGMA wal_autocheckpoint = 0")
        file.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        file.execute("PRAGMA temp_store = MEMORY")  # a container may have no folder for temporary files
        file.execute("PRAGMA user_version")  # the first access: after it the exclusive mode can be left again
        file.execute("PRAGMA locking_mode = EXCLUSIVE")
        file.execute("BEGIN EXCLUSIVE")
        (found,) = file.execute("PRAGMA user_version").fetchone()
        if found < version:
            _log.warning("%s: converting the file from format %d, that of an earlier version", path, found)
            began = time.monotonic()
            file.set_progress_handler(is_cancelled, OPERATIONS_PER_CHECK)
            _migrate(file, found, now)
            file.set_progress_handler(None, 0)
            file.execute(f"PRAGMA user_version = {version}")
            _log.warning("%s: the file was converted in %.1f seconds", path, time.monotonic() - began)
        file.execute("COMMIT")
        # From here on others may use the file, while the WAL is moved into it.
        file.execute("PRAGMA locking_mode = NORMAL")
        file.execute("SELECT 1 FROM sqlite_schema").fetchone()
        file.execute("PRAGMA wal_checkpoint(PASSIVE)")
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
        raise StoreBusy(in_use_by_earlier(path)) from error
    finally:
        file.close()


def _migrate(file: sqlite3.Connection, found: int, now: int) -> None:
    file.create_function("swapped", 1, swapped.__wrapped__, deterministic=True)
    file.create_function("removable_at", 2, _removable_at, deterministic=True)
    file.create_function("sliding", 3, functools.partial(_sliding_column, now), deterministic=True)
    file.execute("ALTER TABLE counter RENAME TO old_counter")
    old = _IN_MICROSECONDS.get(found, _OLD_COUNTERS)
    for table in OLD_TABLES:
        if table != "slide":
            file.execute(f"DROP TABLE IF EXISTS {table}")
    create_tables(file)
    for statement in (_COPY_COUNTERS, _QUEUE_REMOVALS, _COUNT_GROUPS):
        file.execute(statement.format(old=old))
    file.execute("DROP TABLE IF EXISTS slide")
    file.execute("DROP TABLE old_counter")


@functools.lru_cache(1024)
def _removable_at(start: int, ends: int) -> int:
    return CounterRow("", start, ends).removable_at


def _sliding_column(now: int, column: int, key: str, spent: int) -> int | bytes:
    """Return a column of a sliding counter that has counted *spent* in the current cell: `ends`, `oldest`, `newest`, `ring`."""
    return _sliding_columns(now, key.rpartition(KEY_SEPARATOR)[2], spent)[column]


@functools.lru_cache(1024)
def _sliding_columns(now: int, window: str, spent: int) -> tuple[int, int, int, bytes]:
    width = cell_width(Sliding(float(window.removeprefix("sliding@"))))
    cell = now // width
    row = CounterRow("", SLIDING_START, expires_at(cell, width), newest=cell, ring=empty_ring())
    add_to_ring(row, spent)
    return row.ends, row.oldest, row.newest, bytes(row.ring)
