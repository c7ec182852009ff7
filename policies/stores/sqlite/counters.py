"""The counters and reservations of a SQLite store: the rows of `CounterStore` in a file, with a cache."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence

import msgspec

from policies.api.window import MICROSECONDS_PER_SECOND
from policies.stores.counting.claimed import ClaimedCounter
from policies.stores.counting.counters import CounterStore
from policies.stores.counting.groups import GroupClock
from policies.stores.counting.limits import CountedLimit
from policies.stores.counting.row_access import Removed
from policies.stores.counting.rows import DAY_SECONDS, SLIDING_START, CounterRow, Taken

from .database import Database
from .documents import (
    NEVER_DUE,
    SELECT_DOCUMENT,
    Document,
    Names,
    decode_rows,
    reading_own_rows,
    split_key,
    write_documents,
)
from .maintenance import (
    add_to_group,
    group_clock,
    group_size,
    keep_as_charged,
    parts_of,
    remove_old_charged,
    running_calls_of_dead,
)

MAX_CACHED_ROWS = 16_384
"""Most counters that are cached, and most reservations."""
MARK_BITS = 30
"""Random bits of the first mark of a process."""
REMOVED_AT_ONCE = 250
"""Counters at which one transaction looks to remove unused ones, and those that are in a row with the last of them. Measured: 3 ms."""
CHARGED_RETENTION_SECONDS = DAY_SECONDS
"""How long a reservation is kept after it was charged because its process sent no heartbeat: a late settlement corrects it."""
_FROM_BOTH = (
    "FROM (SELECT call, part, ceiling, took FROM hold UNION ALL SELECT call, part, ceiling, took FROM charged)"
    " WHERE call = ? AND part = ?"
)
_DELETE_HOLD = "DELETE FROM hold WHERE call = ?"
_INSERT_PART = "INSERT INTO hold VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_SELECT_CHARGED = "SELECT 1 FROM charged WHERE call = ? AND part = ?"
_SELECT_ANY_CHARGED = "SELECT 1 FROM charged LIMIT 1"
_SELECT_DUE = "SELECT identity, start FROM counter WHERE due <= ? ORDER BY due LIMIT ?"
_encode = msgspec.msgpack.Encoder().encode
_decode_taken = msgspec.msgpack.Decoder(list[str | list[int | str]]).decode


class CountersInFile(CounterStore):
    """The rows of counters, and the reservations of the process *owner*. Its methods are parts of a transaction of *database*.

    Documents are cached, and written at the end of the transaction if they have changed.
    """

    def __init__(self, clock: Callable[[], float], database: Database, owner: int) -> None:
        super().__init__(clock, first_mark=secrets.randbits(MARK_BITS))
        self._database, self._owner, self._names = database, owner, Names()
        self._documents: dict[tuple[str, int], Document] = {}
        """Cached documents, by identity and start; also empty ones, which the file does not have."""
        self._homes: dict[tuple[str, int], Document] = {}
        """The documents of the counters in memory, by their key and start."""
        self._changed: list[Document] = []
        self._reservations: dict[str, list[list[Taken]]] = {}
        """Cached reservations of this process: what each of their parts took. Valid until another connection writes."""
        self._has_charged: bool | None = None
        """Whether the file may have charged reservations; None if that is to be read."""

    def _begin(self) -> None:
        """Drop what may be outdated, or is too much. Called first in each transaction."""
        database = self._database
        is_small = (
            len(self._rows) + len(self._documents) <= MAX_CACHED_ROWS and len(self._reservations) <= MAX_CACHED_ROWS
        )
        if database.is_unchanged and is_small:
            return
        self._rows, self._homes, self._documents, self._changed, self._has_charged = {}, {}, {}, [], None
        self._reservations = {}  # another process may have ended them, or added parts
        if database.is_reopened:  # after an error, some of this may have been rolled back
            self._names.clear()
            self._limits.clear()

    def _write_changed(self) -> None:
        """Write the documents that have changed. Called last in each transaction in which there are some."""
        write_documents(self._database.execute_many, self._changed)
        self._changed = []

    def _tidy(self, now: int) -> bool:
        """Remove unused counters and old charged reservations; return whether there may be more."""
        remove_old_charged(self._database.execute, now // MICROSECONDS_PER_SECOND)
        return self._remove_unused(now, REMOVED_AT_ONCE) >= REMOVED_AT_ONCE

    def _charge_dead(self, last_seen: int) -> bool:
        """Charge the reservations of other processes without a heartbeat since *last_seen*, and keep them for a day.

        Returns whether there may be more: some were charged.
        """
        execute, due = self._database.execute, last_seen // MICROSECONDS_PER_SECOND + CHARGED_RETENTION_SECONDS
        with reading_own_rows():
            calls = running_calls_of_dead(execute, self._owner, last_seen)
            for call in calls:
                self._has_charged = True
                parts = [(part, ceiling, self._charged(took)) for part, ceiling, took in parts_of(execute, call)]
                keep_as_charged(execute, call, due, parts)
        return bool(calls)

    def _charged(self, took: bytes) -> bytes:
        """Charge what a part of a reservation *took*, and return that with the marks of its counters."""
        marks = iter([mark for *_, mark in self._charge_reserved(self._unpacked(took))])
        return _encode(
            [each if isinstance(each, str) else [*each[:4], next(marks), *each[5:]] for each in _decode_taken(took)]
        )

    def _load_rows(self, counters: Sequence[ClaimedCounter]) -> None:
        for counter in counters:
            counter.row = self._find_row(counter.claim_key, counter.start)

    def _find_row(self, counter: str, start: int) -> CounterRow | None:
        row = self._rows.get((counter, start))
        if row is None:
            identity, _ = split_key(counter)
            self._document(identity, SLIDING_START)
            row = self._rows.get((counter, start))
            if row is None and start != SLIDING_START:
                self._document(identity, start)
                row = self._rows.get((counter, start))
        return row

    def _document(self, identity: str, start: int) -> Document:
        """Return a document from the cache or the file; an empty one where there is none."""
        document = self._documents.get((identity, start))
        if document is None:
            execute = self._database.execute
            document = self._documents[identity, start] = Document(identity, start, {})
            found = execute(SELECT_DOCUMENT, (identity, start)).fetchone()
            if found is not None:
                with reading_own_rows():
                    document.due = document.stored_due = int(found[0])
                    for row in decode_rows(found[1]):
                        document.rows[row.number] = row
                        at = self._names.key(execute, row.number, identity), row.start
                        self._rows[at], self._homes[at] = row, document
        return document

    def _add_row(self, key: str, row: CounterRow) -> None:
        identity, name = split_key(key)
        row.number = self._names.number(self._database.execute, name)
        document = self._document(identity, SLIDING_START)
        if (displaced := document.rows.get(row.number)) is not None:
            self._add_to(self._document(identity, displaced.start), key, displaced)
        self._add_to(document, key, row)
        if row.group:
            add_to_group(self._database.execute, row.group, 1)

    def _add_to(self, document: Document, key: str, row: CounterRow) -> None:
        document.add(row)
        at = key, row.start
        self._rows[at], self._homes[at] = row, document
        self._row_changed(*at)

    def _row_changed(self, key: str, start: int) -> None:
        document = self._homes[key, start]
        if not document.is_changed:
            document.is_changed = True
            self._changed.append(document)

    def _remove_unused(self, now: int, number: int) -> int:
        seconds, execute, looked_at = now // MICROSECONDS_PER_SECOND, self._database.execute, 0
        for identity, start in execute(_SELECT_DUE, (seconds, number)).fetchall():
            if looked_at >= number:
                break
            document = self._document(identity, start)
            looked_at, document.due = looked_at + len(document.rows), NEVER_DUE
            for row in list(document.rows.values()):
                key = self._names.key(execute, row.number, identity)
                due = self._next_due(key, row, now)
                if due > seconds:
                    document.due = min(document.due, due)
                else:
                    self._remove_row(document, key, row)
            if not document.is_changed:
                self._changed.append(document)
        if looked_at:
            self._write_changed()  # otherwise they would be found again in this transaction
        return looked_at

    def _remove_row(self, document: Document, key: str, row: CounterRow) -> None:
        at = key, row.start
        del document.rows[row.number], self._rows[at], self._homes[at]
        if row.group:
            add_to_group(self._database.execute, row.group, -1)

    def _group_size(self, group: str) -> int:
        return group_size(self._database.execute, group)

    def _group_clock(self) -> GroupClock:
        return group_clock(self._database.execute)

    def _set_group_clock(self, group_clock: GroupClock) -> None:
        self._database.execute("UPDATE group_clock SET latest = ?, setbacks = ?", group_clock)

    def _record_part(
        self, call_id: str, part: int, ceiling: int, taken: list[Taken], counters: Sequence[ClaimedCounter]
    ) -> bool:
        execute = self._database.execute
        if self._may_be_charged() and execute(_SELECT_CHARGED, (call_id, part)).fetchone():
            return False
        row = (call_id, part, self._owner, ceiling, bytearray(_encode(self._packed(taken, counters))))
        if not execute(_INSERT_PART, row).rowcount:
            return False
        if not part:
            self._reservations[call_id] = [taken]
        elif len(parts := self._reservations.get(call_id, [])) == part:
            parts.append(taken)
        else:
            self._reservations.pop(call_id, None)  # it lacks a part that the file has
        return True

    def _may_be_charged(self) -> bool:
        if self._has_charged is None:
            self._has_charged = self._database.execute(_SELECT_ANY_CHARGED).fetchone() is not None
        return self._has_charged

    def _packed(self, taken: Sequence[Taken], counters: Sequence[ClaimedCounter]) -> list[str | tuple[int | str, ...]]:
        """Return *taken* as it is stored: an identity, then (number, start, cell, amount, mark) for each of its claims, and so on.

        A claim that is counted in another counter than its own has the key of that one as well.
        """
        packed, identity = list[str | tuple[int | str, ...]](), None
        for counter, (key, at, start, cell, amount, mark) in zip(counters, taken, strict=True):
            if counter.claim.identity != identity:
                identity = counter.claim.identity
                packed.append(identity)
            number = counter.limit.number or self._number(counter.limit)
            each = number, start, cell, amount, mark
            packed.append(each if at == key else (*each, at))
        return packed

    def _number(self, limit: CountedLimit) -> int:
        limit.number = self._names.number(self._database.execute, limit.prefix + limit.suffix[1:])
        return limit.number

    def _unpacked(self, took: bytes) -> Iterator[Taken]:
        identity = ""
        for each in _decode_taken(took):
            if isinstance(each, str):
                identity = each
                continue
            number, start, cell, amount, mark = map(int, each[:5])
            key = self._names.key(self._database.execute, number, identity)
            yield key, str(each[5]) if len(each) > 5 else key, start, cell, amount, mark  # noqa: PLR2004  # see `_packed`

    def _taken_parts(self, table: str, call: str) -> list[Taken]:
        """Return what the parts of *call* in the table `hold` or `charged` took, in their order."""
        found = self._database.execute(f"SELECT took FROM {table} WHERE call = ? ORDER BY part", (call,)).fetchall()  # noqa: S608  # two names
        with reading_own_rows():
            return [each for (took,) in found for each in self._unpacked(took)]

    def _first_part(self, call_id: str) -> Sequence[Taken]:
        row = self._database.execute(f"SELECT took {_FROM_BOTH}", (call_id, 0)).fetchone()
        with reading_own_rows():
            return () if row is None else list(self._unpacked(row[0]))

    def _recorded_ceiling(self, call_id: str, part: int) -> int | None:
        row = self._database.execute(f"SELECT ceiling {_FROM_BOTH}", (call_id, part)).fetchone()
        return None if row is None else row[0]

    def _remove_reservation(self, call_id: str) -> Removed | None:
        execute = self._database.execute
        cached = self._reservations.pop(call_id, None)
        if cached is not None:
            execute(_DELETE_HOLD, (call_id,))
            return Removed(cached[0] if len(cached) == 1 else [each for part in cached for each in part])
        # All parts of a reservation are charged together, so those that were come before those that are running.
        running = self._taken_parts("hold", call_id)
        is_known, charged = execute(_DELETE_HOLD, (call_id,)).rowcount > 0, list[Taken]()
        if self._may_be_charged():
            charged = self._taken_parts("charged", call_id)
            is_known |= execute("DELETE FROM charged WHERE call = ?", (call_id,)).rowcount > 0
        return Removed([*charged, *running], len(charged)) if is_known else None
