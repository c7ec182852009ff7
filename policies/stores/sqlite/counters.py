"""The counters and reservations of a SQLite store: the rows of `CounterStore` in a file, with a cache."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from policies.stores.counting.counters import CounterStore
from policies.stores.counting.groups import GroupClock
from policies.stores.counting.row_access import Removed
from policies.stores.counting.rows import (
    CHARGED_RETENTION_MICROSECONDS,
    ClaimedCounter,
    CounterRow,
    Taken,
)

from .connecting import reading_own_rows
from .counter_rows import (
    add_to_group,
    find_row,
    group_clock,
    group_size,
    remove_row,
    row_from,
    select_counters,
    write_rows,
)
from .database import Database
from .file_keys import swapped
from .maintenance import (
    decode_taken,
    encode_taken,
    keep_as_charged,
    running_calls_of_dead,
    taken_parts,
)

MAX_CACHED_ROWS = 16_384
"""Most counters that are cached, and most reservations."""
MARK_BITS = 30
"""Random bits of the first mark of a process."""
REMOVED_AT_ONCE = 250
"""Unused counters that one transaction removes. Measured: 3 ms."""
CHARGED_START = -2
"""The `start` in the queue of removals that means a charged reservation; the key is its call."""
_FROM_BOTH = (
    "FROM (SELECT call, part, ceiling, took FROM hold UNION ALL SELECT call, part, ceiling, took FROM charged)"
    " WHERE call = ? AND part = ?"
)
_INSERT_PART = "INSERT INTO hold VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_SELECT_CHARGED = "SELECT 1 FROM charged WHERE call = ? AND part = ?"
_SELECT_ANY_CHARGED = "SELECT 1 FROM charged LIMIT 1"


class CountersInFile(CounterStore):
    """The rows of counters, and the reservations of the process *owner*. Its methods are parts of a transaction of *database*.

    Rows are cached, and written at the end of the transaction if they have changed.
    """

    def __init__(self, clock: Callable[[], float], database: Database, owner: int) -> None:
        super().__init__(clock, first_mark=secrets.randbits(MARK_BITS))
        self._database, self._owner = database, owner
        self._changed: dict[tuple[str, int], CounterRow] = {}
        self._reservations: dict[str, list[list[Taken]]] = {}
        """Cached reservations of this process: what each of their parts took. Valid until another connection writes."""
        self._has_charged: bool | None = None
        """Whether the file has charged reservations; None if that is to be read. Those of this process come from others."""

    def _begin(self) -> None:
        """Drop what may be outdated, or is too much. Called first in each transaction."""
        database = self._database
        if not database.is_unchanged or len(self._rows) > MAX_CACHED_ROWS:
            self._rows, self._changed, self._has_charged = {}, {}, None
        if not database.is_unchanged or len(self._reservations) > MAX_CACHED_ROWS:
            self._reservations = {}  # another process may have ended them, or added parts

    def _write_changed(self) -> None:
        """Write the rows that have changed. Called last in each transaction."""
        if self._changed:
            write_rows(self._database.execute_many, self._changed.values())
            self._changed = {}

    def _tidy(self, now: int) -> bool:
        """Remove unused counters; return whether there may be more."""
        return self._remove_unused(now, REMOVED_AT_ONCE) == REMOVED_AT_ONCE

    def _charge_dead(self, last_seen: int) -> bool:
        """Charge the reservations of other processes without a heartbeat since *last_seen*, and keep them for a day.

        Returns whether there may be more: some were charged.
        """
        execute, has_charged = self._database.execute, False
        with reading_own_rows():
            for call in running_calls_of_dead(execute, self._owner, last_seen):
                keep_as_charged(execute, call, self._charge_reserved)
                self._queue_removal(last_seen + CHARGED_RETENTION_MICROSECONDS, call, CHARGED_START)
                has_charged = True
        return has_charged

    def _load_rows(self, counters: Sequence[ClaimedCounter]) -> None:
        rows = self._rows
        wanted: list[str | int] = []
        for counter in counters:
            wanted += swapped(counter.claim_key), counter.start
        for found in self._database.execute(select_counters(len(counters)), wanted).fetchall():
            row = row_from(found)
            rows[row.key, row.start] = row
        for counter in counters:
            counter.row = rows.get((counter.claim_key, counter.start))

    def _find_row(self, counter: str, start: int) -> CounterRow | None:
        row = self._rows.get((counter, start))
        if row is None and start != CHARGED_START:  # the queue of removals has calls too
            row = find_row(self._database.execute, counter, start)
            if row is not None:
                self._rows[counter, start] = row
        return row

    def _add_row(self, row: CounterRow) -> None:
        self._rows[row.key, row.start] = row
        if row.group:
            add_to_group(self._database.execute, row.group, 1)
        self._queue_removal(row.removable_at, row.key, row.start)

    def _row_changed(self, row: CounterRow) -> None:
        self._changed[row.key, row.start] = row

    def _remove_row(self, row: CounterRow) -> None:
        self._rows.pop((row.key, row.start), None)
        self._changed.pop((row.key, row.start), None)
        remove_row(self._database.execute, row.key, row.start)
        if row.group:
            add_to_group(self._database.execute, row.group, -1)

    def _queue_removal(self, due: int, key: str, start: int) -> None:
        self._database.execute("INSERT OR IGNORE INTO removal VALUES (?, ?, ?)", (due, key, start))

    def _take_due(self, now: int, number: int) -> Sequence[tuple[str, int]]:
        execute = self._database.execute
        found = execute(
            "SELECT at, key, start FROM removal WHERE at <= ? ORDER BY at LIMIT ?", (now, number)
        ).fetchall()
        self._database.execute_many("DELETE FROM removal WHERE at = ? AND key = ? AND start = ?", found)
        calls = [(key,) for _, key, start in found if start == CHARGED_START]
        self._database.execute_many("DELETE FROM charged WHERE call = ?", calls)
        return [(key, start) for _, key, start in found]

    def _group_size(self, group: str) -> int:
        return group_size(self._database.execute, group)

    def _group_clock(self) -> GroupClock:
        return group_clock(self._database.execute)

    def _set_group_clock(self, group_clock: GroupClock) -> None:
        self._database.execute("UPDATE group_clock SET latest = ?, setbacks = ?", group_clock)

    def _record_part(self, call_id: str, part: int, ceiling: int, taken: list[Taken]) -> bool:
        execute = self._database.execute
        if self._has_charged is None:
            self._has_charged = execute(_SELECT_ANY_CHARGED).fetchone() is not None
        if self._has_charged and execute(_SELECT_CHARGED, (call_id, part)).fetchone():
            return False
        row = (call_id, part, self._owner, ceiling, bytearray(encode_taken(taken)))
        if not execute(_INSERT_PART, row).rowcount:
            return False
        parts = self._reservations.setdefault(call_id, []) if not part else self._reservations.get(call_id, [])
        if len(parts) == part:
            parts.append(taken)
        return True

    def _first_part(self, call_id: str) -> Sequence[Taken]:
        row = self._database.execute(f"SELECT took {_FROM_BOTH}", (call_id, 0)).fetchone()
        return () if row is None else decode_taken(row[0])

    def _recorded_ceiling(self, call_id: str, part: int) -> int | None:
        row = self._database.execute(f"SELECT ceiling {_FROM_BOTH}", (call_id, part)).fetchone()
        return None if row is None else row[0]

    def _remove_reservation(self, call_id: str) -> Removed | None:
        execute = self._database.execute
        cached = self._reservations.pop(call_id, None)
        if cached is not None:
            execute("DELETE FROM hold WHERE call = ?", (call_id,))
            return Removed(cached[0] if len(cached) == 1 else [each for part in cached for each in part])
        # All parts of a reservation are charged together, so those that were come before those that are running.
        running, charged = taken_parts(execute, "hold", call_id), taken_parts(execute, "charged", call_id)
        is_running = execute("DELETE FROM hold WHERE call = ?", (call_id,)).rowcount > 0
        is_charged = execute("DELETE FROM charged WHERE call = ?", (call_id,)).rowcount > 0
        return Removed([*charged, *running], len(charged)) if is_running or is_charged else None
