"""The rows of counters in a SQLite file: statements that read, write and remove them."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from policies.stores.counting.groups import GroupClock
from policies.stores.counting.ring import ring_from
from policies.stores.counting.rows import NO_RING, SLIDING_START, CounterRow

from .connecting import Execute
from .file_keys import swapped

COUNTER_COLUMNS = "key, start, ends, spent, held, oldest, newest, ring, crowd, mark"
"""The columns of a counter, in the order of the fields of `CounterRow`; `crowd` is its group of identities.

`key` is swapped, see `swapped`.
"""
SELECT_COUNTER = f"SELECT {COUNTER_COLUMNS} FROM counter WHERE key = ? AND start = ?"  # noqa: S608  # constants only
_UPSERT_COUNTER = (
    f"INSERT INTO counter ({COUNTER_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"  # noqa: S608  # as above
    " ON CONFLICT DO UPDATE SET ends = ?3, spent = ?4, held = ?5, oldest = ?6, newest = ?7, ring = ?8, mark = ?10"
)
_OPEN_COUNTERS = (
    "SELECT key, start, spent, held, ends FROM counter WHERE (key, start) > (?, ?) ORDER BY key, start LIMIT ?"
)
PAGE_ROWS = 1_000
"""Rows that are read at once for a report."""


def find_row(execute: Execute, key: str, start: int) -> CounterRow | None:
    """Return the row of a counter; None where there is none."""
    found = execute(SELECT_COUNTER, (swapped(key), start)).fetchone()
    return None if found is None else row_from(found)


def row_from(columns: tuple[str, int, int, int, int, int, int, bytes, str, int]) -> CounterRow:
    """Return a row from its columns."""
    key, start, ends, spent, held, oldest, newest, ring, group, mark = columns
    return CounterRow(
        swapped(key),
        start,
        ends,
        spent,
        held,
        oldest,
        newest,
        ring_from(ring) if start == SLIDING_START else NO_RING,
        group,
        mark,
    )


@functools.cache
def select_counters(count: int) -> str:
    """Return the statement that reads *count* counters at once."""
    return " UNION ALL ".join([SELECT_COUNTER] * count)


def write_rows(execute_many: Execute, rows: Iterable[CounterRow]) -> None:
    """Write *rows*, new ones and others.

    A ring is passed as it is, an array: for `bytes` and None `sqlite3` first looks for an adapter, which takes 0.2 µs each.
    """
    execute_many(
        _UPSERT_COUNTER,
        [
            (
                swapped(row.key),
                row.start,
                row.ends,
                row.spent,
                row.held,
                row.oldest,
                row.newest,
                row.ring,
                row.group,
                row.mark,
            )
            for row in rows
        ],
    )


def add_to_group(execute: Execute, group: str, number: int) -> None:
    """Add *number* to the counters that a group of identities has."""
    execute("INSERT INTO crowd VALUES (?1, ?2) ON CONFLICT DO UPDATE SET counters = counters + ?2", (group, number))
    if number < 0:
        execute("DELETE FROM crowd WHERE key = ? AND counters <= 0", (group,))


def group_size(execute: Execute, group: str) -> int:
    """Return how many counters a group of identities has."""
    row = execute("SELECT counters FROM crowd WHERE key = ?", (group,)).fetchone()
    size: int = 0 if row is None else row[0]
    return size


def group_clock(execute: Execute) -> GroupClock:
    """Return the clock of the groups."""
    return GroupClock(*execute("SELECT latest, setbacks FROM group_clock").fetchone())


def counters_after(execute: Execute, key: str, start: int) -> list[tuple[str, int, int, int, int]]:
    """Return key, start, spent, held and end of the next counters after *key* and *start*: at most `PAGE_ROWS`.

    Keys are as the file has them, see `swapped`; "" is before all others.
    """
    return execute(_OPEN_COUNTERS, (key, start, PAGE_ROWS)).fetchall()


def remove_row(execute: Execute, key: str, start: int) -> None:
    """Remove the row of a counter."""
    execute("DELETE FROM counter WHERE key = ? AND start = ?", (swapped(key), start))
