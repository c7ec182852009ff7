"""Counts in one SQLite file, for any number of processes of one machine; they survive every kind of death.

Each step is one short transaction, made on the loop: a hop to a thread costs more than the transaction itself.  Where
several calls are running, the steps of one turn of the loop are made in one (see `turns.py`).  A step reads all counters
of its call in one statement, counts in Python, and what has changed is written at the end.  What was read and written is
remembered until somebody else writes.  Each process is an owner; the holds of one that was not seen for `grace` seconds
become charges.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from policies.api.claim import MILLION, Claim
from policies.api.store import Account, Grant, ReservationGone, StoreDown, account
from policies.stores.counting.arithmetic import LARGEST
from policies.stores.counting.counters import HOUR, CounterStore
from policies.stores.counting.rows import SLIDING, ClaimedCounter, Taken

from .database import Database
from .group_commit import GroupCommit, Step
from .sliding_log import READ, WRITE, FileRow, reading

T = TypeVar("T")

SEEN_EVERY = MILLION
TIDY_EVERY = 60 * MILLION
PATIENCE = 8
"""Turns of the loop that steps wait for company, where others use the file too: a transaction must read there what they wrote."""
MOST = 4096
"""So many counters, and so many holds, are remembered."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Taken])


class SQLiteStore(CounterStore[FileRow]):
    """See `policies.store.Store`.  The file is opened at the first step, and anew after an error.

    A *resident* one, whose loop runs as long as its process, may leave the file read for a moment between two steps.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float], grace: float = 30.0, resident: bool = False) -> None:
        super().__init__(clock)
        self._file, self._grace, self._resident = Database(path), round(grace * MILLION), resident
        self._owner, self._seen = secrets.randbits(62), 0
        """Our number, in whichever file: one that the file gives may be another's when that is deleted, or a step undone."""
        self._holds: dict[str, tuple[int, list[Taken]]] = {}
        """The parts that our calls hold, and what they took: true as long as so many are there to be deleted."""
        self._changed: list[FileRow] = []
        self._tidied = False
        self._turns = GroupCommit(self._together)
        self._running: set[str] = set()
        """The calls that have reserved and not ended; where there is more than one, steps are made together."""

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        """See `Store.reserve`."""
        of = call_id, claims, ceiling, part
        grant: Grant | None
        turns = self._turns
        if turns.steps or (self._running and turns.wanted()):
            grant = await turns.cancellable(self._reserved, of)
        else:
            grant = self._made_now(self._reserved, of)
        if grant is None:
            raise ReservationGone(call_id)
        if grant.refused is None:
            self._running.add(call_id)
        return grant

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
        """See `Store.settle`."""
        of, turns = (call_id, charges, refund), self._turns
        if turns.steps or (len(self._running) > 1 and turns.wanted()):
            await turns.firm(self._settle, of)
        else:
            self._made_now(self._settle, of)
        self._running.discard(call_id)

    async def release(self, call_id: str) -> None:
        """See `Store.release`."""
        turns = self._turns
        if turns.steps or (len(self._running) > 1 and turns.wanted()):
            await turns.firm(self._release, (call_id,))
        else:
            self._made_now(self._release, (call_id,))
        self._running.discard(call_id)

    async def accounts(self) -> Sequence[Account]:
        """See `Store.accounts`."""
        rows = self._made_now(self._open_counters, ())
        return [account(key, spent, held, ends / MILLION) for key, spent, held, ends in rows]

    async def heartbeat(self) -> None:
        """See `Store.heartbeat`.  A file that was moved or deleted is let go of; the one at its path is counted in."""
        self._file.look()
        self._made_now(lambda: self._keep_house(self._now()), ())

    async def ping(self) -> None:
        """See `Store.ping`."""
        self._made_now(lambda: None, ())

    async def aclose(self) -> None:
        """Close the file.  Holds that are still open become charges when the grace is over."""
        try:
            self._turns.end()
        finally:
            self._file.close()

    def _made_now(self, make: Callable[..., T], of: tuple[Any, ...]) -> T:
        """Make a step in a transaction.  Before it we forget what may not be true any more, or is too much."""
        file = self._file
        with file:
            if not file.same:
                self._rows, self._changed = {}, []
            elif self._tidied or len(self._rows) > MOST:
                self._rows = {}
            if file.fresh or len(self._holds) > MOST:
                self._holds = {}  # after an error, some of them may have been undone
            self._tidied = False
            made = make(*of)
            if self._changed:
                self._write()
        return made

    def _together(self, steps: Sequence[Step]) -> list[Any]:
        """Make *steps* in one transaction."""
        return self._made_now(lambda: [make(*of) for _, make, of in steps], ())

    def _reserved(self, call_id: str, claims: Sequence[Claim], ceiling: int, part: int) -> Grant | None:
        """Reserve; None for a further part of a call that holds nothing."""
        now, file = round(self._clock() * MILLION), self._file
        if file.fresh or not 0 <= now - self._seen < SEEN_EVERY:
            self._keep_house(now)
        if self._tidied:
            self._write()
            self._rows, self._tidied = {}, False
        if part and self._known(call_id, 0) is None:
            return None
        grant = self._reserve(call_id, claims, ceiling, part, now)
        if self._resident and not file.stays:
            file.stay()
        return grant

    def _open_counters(self) -> list[tuple[str, int, int, int]]:
        self._charge_the_dead(now := self._now())
        self._write()
        return self._file.sql(
            "SELECT key, spent, held, ends FROM counter WHERE start >= 0 AND start <= ?1 AND ends > ?1", (now,)
        ).fetchall()

    def _read(self, places: Sequence[ClaimedCounter[FileRow]]) -> None:
        rows = self._rows
        wanted: list[str | int] = []
        for place in places:
            wanted += place.key, place.start
        for found in self._file.sql(reading(len(places)), wanted).fetchall():
            rows[found[4], found[5]] = FileRow(*found)
        for place in places:
            place.row = rows.get((place.key, place.start))

    def _write(self) -> None:
        if self._changed:
            self._file.many(WRITE, map(msgspec.structs.astuple, self._changed))
            self._changed = []

    def _row(self, counter: str, start: int) -> FileRow | None:
        known = self._rows.get((counter, start))
        if known is None:
            found = self._file.sql(READ, (counter, start)).fetchone()
            if found is not None:
                known = self._rows[counter, start] = FileRow(*found)
        return known

    def _take(self, place: ClaimedCounter[FileRow], amount: int) -> None:
        at = place.counter, place.start
        row = place.row or self._rows.get(at)
        if row is None:
            row = self._rows[at] = FileRow(0, 0, 0, place.ends, *at, crowd=place.crowd or None)
            if place.crowd:
                joined = "INSERT INTO crowd VALUES (?, 1) ON CONFLICT DO UPDATE SET counters = counters + 1"
                self._file.sql(joined, (place.crowd,))
        if row not in self._changed:
            self._changed.append(row)
        if place.start != SLIDING:
            row.held += amount
        else:
            row.add(place.first, place.moment, amount, self._file.sql)
            row.ends = place.ends

    def _forget(self, row: FileRow, gone: int) -> None:
        if row.forget(gone, self._file.sql) and row not in self._changed:
            self._changed.append(row)

    def _takings(self, counter: str) -> Iterable[tuple[int, int]]:
        row = self._row(counter, SLIDING)
        return [] if row is None else [(last, amount) for _, last, amount in row.takings(self._file.sql)]

    def _give_back(self, counter: str, first: int, amount: int) -> None:
        row = self._row(counter, SLIDING)
        if row is not None and row.give_back(first, amount, self._file.sql) and row not in self._changed:
            self._changed.append(row)

    def _charge(self, counter: str, start: int, held: int, spent: int) -> None:
        row = self._rows.get((counter, start))
        if row is not None:
            row.held, row.spent = row.held - held, min(row.spent + spent, LARGEST)
            if row in self._changed:
                return
        self._file.sql(
            "UPDATE counter SET spent = min(spent + ?, ?), held = held - ? WHERE key = ? AND start = ?",
            (spent, LARGEST, held, counter, start),
        )

    def _hold(self, call_id: str, part: int, ceiling: int, took: list[Taken]) -> bool:
        row = (call_id, part, self._owner, ceiling, _ENCODER.encode(took))
        if not self._file.sql("INSERT INTO hold VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", row).rowcount:
            return False
        parts, known = self._holds.get(call_id, (0, []))
        if parts == part:
            self._holds[call_id] = part + 1, [*known, *took]
        return True

    def _known(self, call_id: str, part: int) -> int | None:
        row = self._file.sql("SELECT ceiling FROM hold WHERE call = ? AND part = ?", (call_id, part)).fetchone()
        return None if row is None else row[0]

    def _held(self, call_id: str) -> Sequence[Taken]:
        parts, known = self._holds.pop(call_id, (0, []))
        if not parts:
            # In two statements: for one with RETURNING SQLite makes a table of its own, which costs three times as much.
            rows = self._file.sql("SELECT took FROM hold WHERE call = ? ORDER BY part", (call_id,)).fetchall()
            if not rows:
                return ()
            parts, known = len(rows), [took for (blob,) in rows for took in _DECODER.decode(blob)]
        gone = self._file.sql("DELETE FROM hold WHERE call = ?", (call_id,)).rowcount
        if gone and gone != parts:
            msg = f"call {call_id} holds {gone} parts where {parts} were known"
            raise StoreDown(msg)  # undone, and read from the file when it is sent again
        return known if gone else ()

    def _is_full(self, crowd: str, bound: int, now: int) -> bool:
        if self._counted(crowd) < bound:
            return False
        self._tidy(now, MILLION)
        return self._counted(crowd) >= bound

    def _counted(self, crowd: str) -> int:
        row = self._file.sql("SELECT counters FROM crowd WHERE key = ?", (crowd,)).fetchone()
        return 0 if row is None else row[0]

    def _keep_house(self, now: int) -> None:
        """Say that we live, charge the holds of those who do not, and drop what nobody counts any more."""
        self._seen, self._file.fresh = now, False
        self._file.sql("INSERT INTO owner VALUES (?1, ?2) ON CONFLICT DO UPDATE SET seen = ?2", (self._owner, now))
        self._charge_the_dead(now)
        others = self._file.sql("SELECT 1 FROM owner WHERE id != ?", (self._owner,)).fetchone()
        self._file.shared = others is not None
        self._turns.patience = PATIENCE if others is not None else 0
        self._tidy(now, TIDY_EVERY)

    def _charge_the_dead(self, now: int) -> None:
        sql = self._file.sql
        for (owner,) in sql(
            "SELECT id FROM owner WHERE seen < ? AND id != ?", (now - self._grace, self._owner)
        ).fetchall():
            for (call,) in sql("SELECT DISTINCT call FROM hold WHERE owner = ?", (owner,)).fetchall():
                self._settle(call, {})
            sql("DELETE FROM owner WHERE id = ?", (owner,))

    def _tidy(self, now: int, every: int) -> None:
        sql = self._file.sql
        (tidied,) = sql("SELECT at FROM tidied").fetchone()
        if 0 <= now - tidied < every:
            return
        self._write()
        self._tidied = True
        sql("UPDATE tidied SET at = ?", (now,))
        sql("DELETE FROM counter WHERE held = 0 AND ends + iif(start < 0, 0, min(ends - start, ?)) <= ?", (HOUR, now))
        sql("DELETE FROM taking WHERE NOT EXISTS (SELECT 1 FROM counter WHERE key = taking.key AND start = -1)")
        sql("DELETE FROM crowd")
        sql("INSERT INTO crowd SELECT crowd, count(*) FROM counter WHERE crowd IS NOT NULL GROUP BY crowd")
