"""Counts in one SQLite file, for any number of processes of one machine; they survive every kind of death.

Each step is one short transaction, made on the loop: a hop to a thread costs more than the transaction itself.  The
journal is a WAL with `synchronous = NORMAL`: a crash of the process loses nothing, a loss of power at most the last
moments.  Each process is an owner; the holds of one that was not seen for `grace` seconds become charges.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from policies.store import MILLION, Account, Claim, Ended, Grant, StoreDown, account

from .books import HOUR, Books, Place, Row, Took
from .fit import LARGEST

VERSION = 2
BUSY = 2.0
SEEN_EVERY = MILLION
TIDY_EVERY = 60 * MILLION
CURES = {
    "not a database": "name another file, or move this one away",
    "disk is full": "make room on the disk",
    "readonly": "let the sidecar write to the file and its folder",
    "unable to open": "let the sidecar read and write the file and its folder",
    "locked": "is something else holding the file? stop it",
    "malformed": "move the file away; counting begins anew",
}

_DECODE_TOOK = msgspec.json.Decoder(list[Took])


class SQLiteStore(Books):
    """See `policies.store.Store`.  `sqlite3.Error` becomes `StoreDown`; the file is opened anew at the next step."""

    def __init__(self, path: Path, *, clock: Callable[[], float], grace: float = 30.0) -> None:
        super().__init__(clock)
        self._path, self._grace = path, round(grace * MILLION)
        self._owner = 0
        self._file: sqlite3.Connection | None = None
        self._sql: Callable[..., sqlite3.Cursor] = _closed
        self._seen = 0

    @contextlib.contextmanager
    def _step(self) -> Iterator[int]:
        """Make one transaction of the block; gives the moment of it."""
        try:
            if self._file is None:
                self._open()
            self._sql("BEGIN IMMEDIATE")
            yield self._now()
            self._sql("COMMIT")
        except sqlite3.Error as error:
            self._drop()
            raise StoreDown(self._words(error)) from error
        except BaseException:
            self._drop()
            raise

    def _open(self) -> None:
        file = sqlite3.connect(self._path, timeout=BUSY, isolation_level=None, cached_statements=64)
        try:
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = NORMAL")
            file.execute("BEGIN IMMEDIATE")
            (version,) = file.execute("PRAGMA user_version").fetchone()
            (tables,) = file.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if version == 0 and tables:
                msg = f"{self._path} holds the tables of another program; name another file"
                raise StoreDown(msg)
            if version == 0:
                for statement in resources.files(__package__).joinpath("schema.sql").read_text("utf-8").split(";"):
                    file.execute(statement)
                file.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                msg = f"{self._path} was written by another version ({version}, this one reads {VERSION}); use another file"
                raise StoreDown(msg)
            file.execute("COMMIT")
        except BaseException:
            file.close()
            raise
        self._file, self._sql, self._seen = file, file.execute, 0

    def _drop(self) -> None:
        file, self._file, self._sql = self._file, None, _closed
        if file is not None:
            with contextlib.suppress(sqlite3.Error):
                file.close()

    def _words(self, error: sqlite3.Error) -> str:
        said = str(error)
        if not self._path.parent.is_dir():
            return f"{self._path}: {said}; make the folder {self._path.parent} first"
        cure = next(
            (cure for words, cure in CURES.items() if words in said), "see that nothing else writes to the file"
        )
        return f"{self._path}: {said}; {cure}"

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        """See `Store.reserve`."""
        with self._step() as now:
            self._keep_house(now)
            if part and self._known(call_id, 0) is None:
                raise Ended(call_id)
            return self._reserve(call_id, claims, ceiling, part, now)

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
        """See `Store.settle`."""
        with self._step():
            self._settle(call_id, charges, refund=refund)

    async def release(self, call_id: str) -> None:
        """See `Store.release`."""
        with self._step():
            self._release(call_id)

    async def accounts(self) -> Sequence[Account]:
        """See `Store.accounts`."""
        with self._step() as now:
            self._charge_the_dead(now)
            rows: list[Any] = self._sql(
                "SELECT key, spent, held, ends FROM counter WHERE start >= 0 AND start <= ?1 AND ends > ?1", (now,)
            ).fetchall()
        return [account(key, spent, held, ends / MILLION) for key, spent, held, ends in rows]

    async def beat(self) -> None:
        """See `Store.beat`."""
        with self._step() as now:
            self._keep_house(now)

    async def ping(self) -> None:
        """See `Store.ping`."""
        with self._step():
            pass

    async def aclose(self) -> None:
        """Close the file.  Holds that are still open become charges when the grace is over."""
        self._drop()

    def _row(self, counter: str, start: int) -> Row | None:
        row = self._sql(
            "SELECT spent, held, oldest, ends FROM counter WHERE key = ? AND start = ?", (counter, start)
        ).fetchone()
        return None if row is None else Row(*row)

    def _take(self, place: Place, amount: int) -> None:
        self._sql(
            "INSERT INTO counter VALUES (?1, ?2, ?3, 0, ?4, 0, ?5) ON CONFLICT DO UPDATE SET held = held + ?4",
            (place.counter, place.start, place.ends, amount, self._joined(place)),
        )

    def _slide(self, place: Place, amount: int) -> None:
        self._sql(
            "INSERT INTO counter VALUES (?1, -1, ?2, ?3, 0, ?4, ?5) ON CONFLICT DO UPDATE"
            " SET oldest = iif(spent = 0, ?4, oldest), spent = spent + ?3, ends = ?2",
            (place.counter, place.ends, amount, place.moment, self._joined(place)),
        )
        self._sql(
            "INSERT INTO taking VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET last = ?3, amount = amount + ?4",
            (place.counter, place.first, place.moment, amount),
        )

    def _joined(self, place: Place) -> str | None:
        if not place.crowd:
            return None
        self._sql("INSERT INTO crowd VALUES (?, 1) ON CONFLICT DO UPDATE SET counters = counters + 1", (place.crowd,))
        return place.crowd

    def _forget(self, counter: str, gone: int, total: int) -> tuple[int, int]:
        # Takings are in the order of their moments, so those that have gone are the first ones.
        left, newest_gone, oldest = total, -1, 0
        for first, last, amount in self._sql(
            "SELECT first, last, amount FROM taking WHERE key = ? ORDER BY first", (counter,)
        ):
            if last > gone:
                oldest = last
                break
            left, newest_gone = left - amount, first
        self._sql("DELETE FROM taking WHERE key = ? AND first <= ?", (counter, newest_gone))
        self._sql("UPDATE counter SET spent = ?, oldest = ? WHERE key = ? AND start = -1", (left, oldest, counter))
        return left, oldest

    def _youngest(self, counter: str) -> int | None:
        (first,) = self._sql("SELECT max(first) FROM taking WHERE key = ?", (counter,)).fetchone()
        return first  # type: ignore[no-any-return]  # a column of integers

    def _takings(self, counter: str) -> Iterable[tuple[int, int]]:
        return self._sql("SELECT last, amount FROM taking WHERE key = ? ORDER BY first", (counter,))

    def _give_back(self, counter: str, first: int, amount: int) -> None:
        given = self._sql("UPDATE taking SET amount = amount - ? WHERE key = ? AND first = ?", (amount, counter, first))
        if given.rowcount:
            self._sql("DELETE FROM taking WHERE key = ? AND first = ? AND amount <= 0", (counter, first))
            self._sql(
                "UPDATE counter SET spent = spent - ?1, oldest ="
                " coalesce((SELECT last FROM taking WHERE key = ?2 ORDER BY first LIMIT 1), 0)"
                " WHERE key = ?2 AND start = -1",
                (amount, counter),
            )

    def _charge(self, counter: str, start: int, held: int, spent: int) -> None:
        self._sql(
            "UPDATE counter SET spent = min(spent + ?, ?), held = held - ? WHERE key = ? AND start = ?",
            (spent, LARGEST, held, counter, start),
        )

    def _hold(self, call_id: str, part: int, ceiling: int, took: Sequence[Took]) -> bool:
        row = (call_id, part, self._owner, ceiling, msgspec.json.encode(took))
        return self._sql("INSERT INTO hold VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", row).rowcount > 0

    def _known(self, call_id: str, part: int) -> int | None:
        row = self._sql("SELECT ceiling FROM hold WHERE call = ? AND part = ?", (call_id, part)).fetchone()
        return None if row is None else row[0]

    def _held(self, call_id: str) -> Sequence[Took]:
        rows = self._sql("DELETE FROM hold WHERE call = ? RETURNING part, took", (call_id,)).fetchall()
        return [took for _, blob in sorted(rows) for took in _DECODE_TOOK.decode(blob)]

    def _is_full(self, crowd: str, bound: int, now: int) -> bool:
        if self._counted(crowd) < bound:
            return False
        self._tidy(now, MILLION)
        return self._counted(crowd) >= bound

    def _counted(self, crowd: str) -> int:
        row = self._sql("SELECT counters FROM crowd WHERE key = ?", (crowd,)).fetchone()
        return 0 if row is None else row[0]

    def _keep_house(self, now: int) -> None:
        """Say that we live, charge the holds of those who do not, and drop what nobody counts any more."""
        if 0 <= now - self._seen < SEEN_EVERY:
            return
        self._seen = now
        if not self._sql("UPDATE owner SET seen = ? WHERE id = ?", (now, self._owner)).rowcount:
            self._owner = self._sql("INSERT INTO owner (seen) VALUES (?)", (now,)).lastrowid or 0
        self._charge_the_dead(now)
        self._tidy(now, TIDY_EVERY)

    def _charge_the_dead(self, now: int) -> None:
        gone = "SELECT id FROM owner WHERE seen < ? AND id != ?"
        for (owner,) in self._sql(gone, (now - self._grace, self._owner)).fetchall():
            for (call,) in self._sql("SELECT DISTINCT call FROM hold WHERE owner = ?", (owner,)).fetchall():
                self._settle(call, {}, refund=True)
            self._sql("DELETE FROM owner WHERE id = ?", (owner,))

    def _tidy(self, now: int, every: int) -> None:
        (tidied,) = self._sql("SELECT at FROM tidied").fetchone()
        if 0 <= now - tidied < every:
            return
        self._sql("UPDATE tidied SET at = ?", (now,))
        self._sql(
            "DELETE FROM counter WHERE held = 0 AND ends + iif(start < 0, 0, min(ends - start, ?)) <= ?", (HOUR, now)
        )
        self._sql("DELETE FROM taking WHERE NOT EXISTS (SELECT 1 FROM counter WHERE key = taking.key AND start = -1)")
        self._sql("DELETE FROM crowd")
        self._sql("INSERT INTO crowd SELECT crowd, count(*) FROM counter WHERE crowd IS NOT NULL GROUP BY crowd")


def _closed(*_: object) -> sqlite3.Cursor:
    msg = "the file is not open"
    raise sqlite3.ProgrammingError(msg)
