"""Turn a file of an earlier version into the present one: what is spent stays spent.

The migration needs the file for itself. A process of an earlier version that still has it open would not count together with
this one. Then the file is not migrated, and this process does not start.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from policies.api.claim import KEY_SEPARATOR, Sliding
from policies.api.window import MICROSECONDS_PER_SECOND
from policies.stores.batching.group_commit import StoreBusy
from policies.stores.counting.ring import add_to_ring, cell_width, empty_ring, expires_at
from policies.stores.counting.rows import SLIDING_START, CounterRow

from .connecting import connect, create_tables, is_busy
from .file_keys import swapped

OLDEST_VERSION = 1
"""Files of this version and later ones are migrated. Version 1 had times in seconds, later ones in microseconds."""
SECONDS_VERSION = 1
OLD_TABLES = ("counter", "taking", "hold", "owner", "crowd", "tidied", "slide")


def migrate(path: Path, version: int, now: int) -> None:
    """Migrate the file at *path* to *version*, in one transaction; *now* is in microseconds. Takes about 8 s per million rows.

    Reservations are charged: their processes have ended. What a sliding window counts is counted as taken now. Raises
    `StoreBusy` while another process has the file open, and `sqlite3.Error`.
    """
    file = connect(path)
    try:
        file.execute("PRAGMA locking_mode = EXCLUSIVE")
        file.execute("BEGIN EXCLUSIVE")
        (found,) = file.execute("PRAGMA user_version").fetchone()
        if found < version:
            _migrate(file, found, now)
            file.execute(f"PRAGMA user_version = {version}")
        file.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
        msg = (
            f"{path}: the file has the format of an earlier version, and another process has it open; stop all earlier"
            " sidecars, then start this one: it converts the file and keeps its counters"
        )
        raise StoreBusy(msg) from error
    finally:
        file.close()


def _migrate(file: sqlite3.Connection, found: int, now: int) -> None:
    scale = MICROSECONDS_PER_SECOND if found == SECONDS_VERSION else 1
    calendar = file.execute("SELECT key, start, ends, spent + held FROM counter WHERE start >= 0").fetchall()
    groups: dict[tuple[str, float], str] = {}
    if found > SECONDS_VERSION:
        known = "SELECT key, start, crowd FROM counter WHERE crowd IS NOT NULL"
        groups = {(key, start): group for key, start, group in file.execute(known)}
    sliding = file.execute("SELECT key, spent FROM counter WHERE start = -1 AND spent > 0").fetchall()
    if found == SECONDS_VERSION:
        sliding = file.execute("SELECT key, total FROM slide WHERE total > 0").fetchall()
    for table in OLD_TABLES:
        file.execute(f"DROP TABLE IF EXISTS {table}")
    create_tables(file)
    rows = [
        CounterRow(
            key, round(start * scale), round(ends * scale), spent=max(0, spent), group=groups.get((key, start), "")
        )
        for key, start, ends, spent in calendar
    ]
    rows += [_sliding_row(key, spent, groups.get((key, SLIDING_START), ""), now) for key, spent in sliding]
    file.executemany(
        "INSERT OR REPLACE INTO counter VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?)",
        [
            (swapped(row.key), row.start, row.ends, row.spent, row.oldest, row.newest, bytearray(row.ring), row.group)
            for row in rows
        ],
    )
    file.executemany("INSERT INTO removal VALUES (?, ?, ?)", [(row.removable_at, row.key, row.start) for row in rows])
    file.execute("INSERT INTO crowd SELECT crowd, count(*) FROM counter WHERE crowd != '' GROUP BY crowd")


def _sliding_row(key: str, spent: int, group: str, now: int) -> CounterRow:
    """Return a sliding counter that has counted *spent* in the current cell."""
    width = cell_width(Sliding(float(key.rpartition(KEY_SEPARATOR)[2].removeprefix("sliding@"))))
    cell = now // width
    row = CounterRow(key, SLIDING_START, expires_at(cell, width), newest=cell, ring=empty_ring(), group=group)
    add_to_ring(row, spent)
    return row
