"""Turn a file of an earlier version into the present one: what is spent stays spent.

The migration needs the file for itself. A process of an earlier version that still has it open would not count together with
this one. Then the file is not migrated, and this process does not start.

Counters are read in the order of the new rows, and written some thousand at a time, so that each page is written once. SQLite sorts
the old ones in memory: a million takes about 200 MB.
"""

from __future__ import annotations

import itertools
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

from policies.api.window import MICROSECONDS_PER_SECOND
from policies.stores.batching.group_commit import StoreBusy
from policies.stores.counting.limits import cell_width_of, expires_at
from policies.stores.counting.ring import add_to_ring
from policies.stores.counting.rows import SLIDING_START, CounterRow, seconds_up

from .connecting import connect, create_tables, is_busy
from .documents import Document, Names, reading_own_rows, split_key, write_documents
from .failures import in_use_by_earlier

OLDEST_VERSION = 1
"""Files of this version and later ones are migrated. Version 1 had times in seconds, later ones in microseconds."""
SECONDS_VERSION = 1
OLD_TABLES = ("taking", "hold", "owner", "crowd", "tidied")
CACHE_KIB = 65_536
"""Memory for pages that are not written yet."""
OPERATIONS_PER_CHECK = 100_000
"""Operations of SQLite's virtual machine between two calls of *is_cancelled*: some milliseconds."""
IDENTITIES_AT_ONCE = 500
"""Identities whose counters are written together; *is_cancelled* is called before that."""
OldCounter: TypeAlias = tuple[str, str, int, int, int, str]
"""The identity of a counter, its key, the start and end of its window, what it has spent, and its group, "" for none."""
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
_BY_IDENTITY = "SELECT identity(key), key, start, ends, spent, crowd FROM ({old}) ORDER BY 1, start"


def migrate(path: Path, version: int, now: int, is_cancelled: Callable[[], bool] = lambda: False) -> None:
    """Migrate the file at *path* to *version*, in one transaction; *now* is in microseconds. Takes about 9 s per million rows.

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
            with reading_own_rows():
                _migrate(file, found, now, is_cancelled)
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


def _migrate(file: sqlite3.Connection, found: int, now: int, is_cancelled: Callable[[], bool]) -> None:
    file.create_function("identity", 1, _identity, deterministic=True)
    file.execute("ALTER TABLE counter RENAME TO old_counter")
    for table in OLD_TABLES:
        file.execute(f"DROP TABLE IF EXISTS {table}")
    create_tables(file)
    counters = file.execute(_BY_IDENTITY.format(old=_IN_MICROSECONDS.get(found, _OLD_COUNTERS)))
    names, sizes = Names(), Counter[str]()
    documents = _documents(counters, lambda name: names.number(file.execute, name), now)
    while batch := list(itertools.islice(documents, IDENTITIES_AT_ONCE)):
        if is_cancelled():
            raise sqlite3.OperationalError("interrupted")  # as SQLite does
        write_documents(file.executemany, itertools.chain.from_iterable(batch))
        sizes.update(row.group for each in batch for document in each for row in document.rows.values() if row.group)
    file.executemany("INSERT INTO crowd VALUES (?, ?)", sizes.items())
    file.execute("DROP TABLE IF EXISTS slide")
    file.execute("DROP TABLE old_counter")


def _identity(key: str) -> str:
    return split_key(key)[0]


def _documents(counters: Iterable[OldCounter], number: Callable[[str], int], now: int) -> Iterator[list[Document]]:
    """Yield the documents of each identity. *counters* are ordered by their identities and starts."""
    for identity, found in itertools.groupby(counters, itemgetter(0)):
        newest, displaced = Document(identity, SLIDING_START, {}), dict[int, Document]()
        for _, key, start, ends, spent, group in found:
            if start == SLIDING_START:
                row = _sliding_row(key, spent, now)
                row.group = group
            else:
                row = CounterRow(0, start // MICROSECONDS_PER_SECOND, seconds_up(ends), spent)
                row.group = group and f"{group.removesuffix(f':{start}')}:{row.start}"
            row.number = number(split_key(key)[1])
            if (earlier := newest.rows.get(row.number)) is not None:
                displaced.setdefault(earlier.start, Document(identity, earlier.start, {})).add(earlier)
            newest.add(row)
        yield [newest, *displaced.values()]


def _sliding_row(key: str, spent: int, now: int) -> CounterRow:
    """Return a sliding counter that has counted *spent* in the current cell."""
    width = cell_width_of(key)
    cell = now // width
    row = CounterRow(0, SLIDING_START, seconds_up(expires_at(cell, width)), newest=cell)
    add_to_ring(row, spent)
    return row
