"""Statements that read counters and change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from policies.api.claim import Claim
from policies.api.store import Standing
from policies.stores.counting.reading import CounterReads, WindowAt, read_standings

from .database import Execute
from .sliding_log import SELECT_COUNTER, SQLiteRow


def open_counters(execute: Execute, now: int) -> list[tuple[str, int, int, int]]:
    """Return key, spent, held and end of each calendar counter whose window is open at *now*."""
    statement = "SELECT key, spent, held, ends FROM counter WHERE start >= 0 AND start <= ?1 AND ends > ?1"
    return execute(statement, (now,)).fetchall()


def group_size(execute: Execute, group: str) -> int:
    """Return how many counters a group of identities has."""
    row = execute("SELECT counters FROM crowd WHERE key = ?", (group,)).fetchone()
    size: int = 0 if row is None else row[0]
    return size


def standings_in_file(execute: Execute, claims: Sequence[Claim], now: int, window_at: WindowAt) -> Sequence[Standing]:
    """Return the standing of each of *claims* at *now*, in microseconds. See `Store.standings`."""

    def row(key: str, start: int) -> SQLiteRow | None:
        found = execute(SELECT_COUNTER, (key, start)).fetchone()
        return None if found is None else SQLiteRow(*found)

    def entries(row: SQLiteRow) -> Iterator[tuple[int, int]]:
        return ((last, amount) for _, last, amount in row.entries(execute))

    reads = CounterReads(row, entries, lambda group: group_size(execute, group))
    return read_standings(claims, now, window_at, reads)
