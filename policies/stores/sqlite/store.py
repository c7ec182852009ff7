"""The SQLite store: counts in one file, for any number of processes of one machine. It survives every kind of crash.

Each operation is one short transaction, executed on the event loop: a hop to a thread costs more than the transaction
itself. Where several calls are running, the operations of one event-loop iteration share a transaction (`group_commit.py`).
An operation reads all counters of its call in one statement, counts in Python, and writes at the end what has changed. Rows
are cached until another process writes. Each process is an owner of reservations; those of an owner that has sent no
heartbeat for `grace` seconds are charged in full.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from policies.api.claim import Claim
from policies.api.store import Account, Grant, ReservationGone, Standing, StoreDown, account
from policies.api.window import MICROSECONDS_PER_SECOND
from policies.stores.batching.group_commit import GroupCommit, QueuedOperation
from policies.stores.counting.arithmetic import MAX_COUNTER_VALUE
from policies.stores.counting.counters import (
    CLEANUP_INTERVAL_MICROSECONDS,
    GROUP_CLEANUP_INTERVAL_MICROSECONDS,
    CounterStore,
)
from policies.stores.counting.rows import SLIDING_START, ClaimedCounter, Taken

from .database import BUSY_TIMEOUT_SECONDS, Database
from .entries import EntriesInFile, ResultT
from .maintenance import calls_of, dead_owners, is_cleanup_due, record_heartbeat, remove_unused
from .reading import group_size, open_counters, standings_in_file
from .sliding_log import SELECT_COUNTER, UPSERT_COUNTER, SQLiteRow, select_counters

MAINTENANCE_INTERVAL_MICROSECONDS = MICROSECONDS_PER_SECOND
"""Longest time between two heartbeats of a process that reserves; `heartbeat` itself is called less often."""
SHARED_FILE_EXTRA_ITERATIONS = 8
"""Extra event-loop iterations to wait for more operations to commit together, when other processes write the file."""
MAX_CACHED_ROWS = 4096
"""Most counters that are cached, and most reservations."""

_TAKEN_ENCODER = msgspec.msgpack.Encoder()
_TAKEN_DECODER = msgspec.msgpack.Decoder(list[Taken])


class SQLiteStore(CounterStore[SQLiteRow], EntriesInFile):
    """See `policies.api.store.Store` and `EntryStore`. The file is opened at the first operation, and again after an error.

    With *resident*, the event loop runs as long as the process: then a read may be left open for a moment between operations.
    *grace* and *busy_timeout* are seconds; the latter bounds the wait for a file that another process has locked.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float],
        grace: float = 30.0,
        resident: bool = False,
        busy_timeout: float = BUSY_TIMEOUT_SECONDS,
    ) -> None:
        super().__init__(clock)
        self._database = Database(path, busy_timeout=busy_timeout)
        self._grace, self._resident = round(grace * MICROSECONDS_PER_SECOND), resident
        # The owner's id is random, in whichever file: one that a file assigns could be given twice after it was deleted.
        self._owner, self._maintained_at = secrets.randbits(62), 0
        self._reservations: dict[str, tuple[int, list[Taken]]] = {}
        """Cached reservations of this process: the number of parts, and what they took. Valid if as many are deleted."""
        self._changed: list[SQLiteRow] = []
        self._is_cleaned = False
        """Whether a cleanup has deleted rows, so that the cache is outdated."""
        self._group_commit = GroupCommit(self._execute_group)
        self._running: set[str] = set()
        """Calls that have a reservation. Where there are several, operations are queued for a group commit."""

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        """See `Store.reserve`."""
        arguments = call_id, claims, ceiling, part
        group = self._group_commit
        if group.queued or (self._running and group.should_queue()):
            grant: Grant | None = await group.submit(self._reserve_in_file, arguments)
        else:
            grant = self._execute_now(self._reserve_in_file, arguments)
        if grant is None:
            raise ReservationGone(call_id)
        if grant.refused is None:
            self._running.add(call_id)
        return grant

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
        """See `Store.settle`."""
        arguments, group = (call_id, charges, refund), self._group_commit
        if group.queued or (len(self._running) > 1 and group.should_queue()):
            await group.submit_uncancellable(self._settle, arguments)
        else:
            self._execute_now(self._settle, arguments)
        self._running.discard(call_id)

    async def release(self, call_id: str) -> None:
        """See `Store.release`."""
        group = self._group_commit
        if group.queued or (len(self._running) > 1 and group.should_queue()):
            await group.submit_uncancellable(self._release, (call_id,))
        else:
            self._execute_now(self._release, (call_id,))
        self._running.discard(call_id)

    async def accounts(self) -> Sequence[Account]:
        """See `Store.accounts`."""
        rows = self._execute_now(self._open_counters, ())
        return [account(key, spent, held, ends / MICROSECONDS_PER_SECOND) for key, spent, held, ends in rows]

    async def standings(self, claims: Sequence[Claim]) -> Sequence[Standing]:
        """See `Store.standings`. It takes no lock that a writer holds or waits for."""
        with self._database.reading() as execute:
            return standings_in_file(execute, claims, self._now(), self._windows.at)

    async def heartbeat(self) -> None:
        """See `Store.heartbeat`. A file that was moved or deleted is closed; the one at its path is used from now on."""
        self._database.close_if_replaced()
        self._execute_now(lambda: self._maintain(self._now()), ())

    async def ping(self) -> None:
        """See `Store.ping`."""
        self._execute_now(lambda: None, ())

    async def aclose(self) -> None:
        """Execute queued operations and close the file. Open reservations are charged when the grace is over."""
        try:
            self._group_commit.flush()
        finally:
            self._database.close()

    def _execute_now(self, function: Callable[..., ResultT], arguments: tuple[Any, ...]) -> ResultT:
        """Execute an operation in a transaction, after dropping cached rows that may be outdated or are too many."""
        database = self._database
        with database:
            if not database.is_unchanged:
                self._rows, self._changed = {}, []
            elif self._is_cleaned or len(self._rows) > MAX_CACHED_ROWS:
                self._rows = {}
            if database.is_reopened or len(self._reservations) > MAX_CACHED_ROWS:
                self._reservations = {}  # after an error, some of them may have been rolled back
            self._is_cleaned = False
            result = function(*arguments)
            if self._changed:
                self._write_changed()
        return result

    def _execute_group(self, group: Sequence[QueuedOperation]) -> list[Any]:
        return self._execute_now(lambda: [function(*arguments) for _, function, arguments, _ in group], ())

    def _reserve_in_file(self, call_id: str, claims: Sequence[Claim], ceiling: int, part: int) -> Grant | None:
        """Reserve; return None for a further part of a call that has no reservation."""
        now, database = round(self._clock() * MICROSECONDS_PER_SECOND), self._database
        if database.is_reopened or not 0 <= now - self._maintained_at < MAINTENANCE_INTERVAL_MICROSECONDS:
            self._maintain(now)
        if self._is_cleaned:
            self._write_changed()
            self._rows, self._is_cleaned = {}, False
        if part and self._recorded_ceiling(call_id, 0) is None:
            return None
        database.leaves_read_open = self._resident
        return self._reserve(call_id, claims, ceiling, part, now)

    def _open_counters(self) -> list[tuple[str, int, int, int]]:
        self._charge_dead_owners(now := self._now())
        self._write_changed()
        return open_counters(self._database.execute, now)

    def _load_rows(self, counters: Sequence[ClaimedCounter[SQLiteRow]]) -> None:
        rows = self._rows
        wanted: list[str | int] = []
        for counter in counters:
            wanted += counter.claim_key, counter.start
        for found in self._database.execute(select_counters(len(counters)), wanted).fetchall():
            rows[found[4], found[5]] = SQLiteRow(*found)
        for counter in counters:
            counter.row = rows.get((counter.claim_key, counter.start))

    def _write_changed(self) -> None:
        if self._changed:
            self._database.execute_many(UPSERT_COUNTER, map(SQLiteRow.values, self._changed))
            self._changed = []

    def _find_row(self, counter: str, start: int) -> SQLiteRow | None:
        cached = self._rows.get((counter, start))
        if cached is None:
            found = self._database.execute(SELECT_COUNTER, (counter, start)).fetchone()
            if found is not None:
                cached = self._rows[counter, start] = SQLiteRow(*found)
        return cached

    def _add_reserved(self, counter: ClaimedCounter[SQLiteRow], amount: int) -> None:
        at = counter.counter, counter.start
        row = counter.row or self._rows.get(at)
        if row is None:
            row = self._rows[at] = SQLiteRow(0, 0, 0, counter.ends, *at, group=counter.joins_group or None)
            if counter.joins_group:
                add_one = "INSERT INTO crowd VALUES (?, 1) ON CONFLICT DO UPDATE SET counters = counters + 1"
                self._database.execute(add_one, (counter.joins_group,))
        if row not in self._changed:
            self._changed.append(row)
        if counter.start != SLIDING_START:
            row.held += amount
        else:
            row.add(counter.entry_start, counter.time, amount, self._database.execute)
            row.ends = counter.ends

    def _expire_entries(self, row: SQLiteRow, until: int) -> None:
        if row.expire(until, self._database.execute) and row not in self._changed:
            self._changed.append(row)

    def _entries(self, counter: str) -> Iterable[tuple[int, int]]:
        row = self._find_row(counter, SLIDING_START)
        return [] if row is None else [(last, amount) for _, last, amount in row.entries(self._database.execute)]

    def _subtract_from_entry(self, counter: str, entry_start: int, amount: int) -> None:
        row = self._find_row(counter, SLIDING_START)
        if row is None or not row.subtract(entry_start, amount, self._database.execute):
            return
        if row not in self._changed:
            self._changed.append(row)

    def _charge_reserved(self, counter: str, start: int, held: int, spent: int) -> None:
        row = self._rows.get((counter, start))
        if row is not None:
            row.held, row.spent = row.held - held, min(row.spent + spent, MAX_COUNTER_VALUE)
            if row in self._changed:
                return
        self._database.execute(
            "UPDATE counter SET spent = min(spent + ?, ?), held = held - ? WHERE key = ? AND start = ?",
            (spent, MAX_COUNTER_VALUE, held, counter, start),
        )

    def _record_part(self, call_id: str, part: int, ceiling: int, taken: list[Taken]) -> bool:
        row = (call_id, part, self._owner, ceiling, bytearray(_TAKEN_ENCODER.encode(taken)))
        if not self._database.execute("INSERT INTO hold VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", row).rowcount:
            return False
        parts, cached = self._reservations.get(call_id, (0, []))
        if parts == part:
            self._reservations[call_id] = part + 1, [*cached, *taken]
        return True

    def _first_part(self, call_id: str) -> Sequence[Taken]:
        row = self._database.execute("SELECT took FROM hold WHERE call = ? AND part = 0", (call_id,)).fetchone()
        return () if row is None else _TAKEN_DECODER.decode(row[0])

    def _recorded_ceiling(self, call_id: str, part: int) -> int | None:
        row = self._database.execute("SELECT ceiling FROM hold WHERE call = ? AND part = ?", (call_id, part)).fetchone()
        return None if row is None else row[0]

    def _remove_reservation(self, call_id: str) -> Sequence[Taken]:
        execute = self._database.execute
        parts, taken = self._reservations.pop(call_id, (0, []))
        if not parts:
            # In two statements: for RETURNING SQLite creates a temporary table, which costs three times as much.
            rows = execute("SELECT took FROM hold WHERE call = ? ORDER BY part", (call_id,)).fetchall()
            if not rows:
                return ()
            parts, taken = len(rows), [each for (blob,) in rows for each in _TAKEN_DECODER.decode(blob)]
        deleted = execute("DELETE FROM hold WHERE call = ?", (call_id,)).rowcount
        if deleted and deleted != parts:
            msg = f"call {call_id} has {deleted} parts in the file where {parts} are cached"
            raise StoreDown(msg)  # rolled back, and read from the file when it is sent again
        return taken if deleted else ()

    def _is_group_full(self, group: str, max_identities: int, now: int) -> bool:
        if group_size(self._database.execute, group) < max_identities:
            return False
        self._clean_up(now, GROUP_CLEANUP_INTERVAL_MICROSECONDS)
        return group_size(self._database.execute, group) >= max_identities

    def _maintain(self, now: int) -> None:
        """Record a heartbeat, charge the reservations of dead processes, and remove unused counters."""
        database = self._database
        self._maintained_at, database.is_reopened = now, False
        # Dead processes are charged first, so that they do not count as other users of the file.
        self._charge_dead_owners(now)
        database.is_shared = record_heartbeat(database.execute, self._owner, now)
        self._group_commit.extra_iterations = SHARED_FILE_EXTRA_ITERATIONS if database.is_shared else 0
        self._clean_up(now, CLEANUP_INTERVAL_MICROSECONDS)

    def _charge_dead_owners(self, now: int) -> None:
        execute = self._database.execute
        for owner in dead_owners(execute, self._owner, now - self._grace):
            for call in calls_of(execute, owner):
                self._settle(call, {})
            execute("DELETE FROM owner WHERE id = ?", (owner,))

    def _clean_up(self, now: int, interval: int) -> None:
        """Remove unused counters, unless a process did so less than *interval* ago."""
        if is_cleanup_due(self._database.execute, now, interval):
            self._write_changed()
            self._is_cleaned = True
            remove_unused(self._database.execute, now)
