"""Counts in one SQLite file, for any number of processes of one machine; they survive every kind of death.

Each step is one short transaction, made on the loop: a hop to a thread costs more than the transaction itself.  The
journal is a WAL with `synchronous = NORMAL`: a crash of the process loses nothing, a loss of power at most the last
moments.  Each process is an owner; the holds of one that was not seen for `grace` seconds become charges.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from policies.store import Account, Claim, Grant, Standing, StoreDown, account
from policies.window import Sliding, Spans

from .fit import LARGEST, fit, shares

VERSION = 1
BUSY = 5.0
SEEN_EVERY = 1.0
TIDY_EVERY = 60.0

Took = tuple[str, float | None, int | None, int]
_DECODE_TOOK = msgspec.json.Decoder(list[Took])


class SQLiteStore:
    """See `policies.store.Store`.  `sqlite3.Error` becomes `StoreDown`; the file is opened anew at the next step."""

    def __init__(self, path: Path, *, clock: Callable[[], float], grace: float = 30.0) -> None:
        self._path, self._clock, self._grace = path, clock, grace
        self._owner = uuid4().hex
        self._spans = Spans()
        self._file: sqlite3.Connection | None = None
        self._seen = self._tidied = float("-inf")

    @contextlib.contextmanager
    def _step(self) -> Iterator[sqlite3.Connection]:
        try:
            file = self._file or self._open()
            file.execute("BEGIN IMMEDIATE")
            yield file
            file.execute("COMMIT")
        except sqlite3.Error as error:
            self._drop()
            raise StoreDown(self._words(error)) from error
        except BaseException:
            self._drop()
            raise

    def _open(self) -> sqlite3.Connection:
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
        self._file, self._seen = file, float("-inf")
        return file

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(sqlite3.Error):
                file.close()

    def _words(self, error: sqlite3.Error) -> str:
        cure = ""
        if not self._path.parent.is_dir():
            cure = f"; make the folder {self._path.parent} first"
        elif isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
            cure = "; name another file, or move this one away"
        return f"{self._path}: {error}{cure}"

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        """See `Store.reserve`."""
        with self._step() as file:
            now = self._clock()
            self._keep_house(file, now)
            state = [self._state(file, claim, now) for claim in claims]
            fits = fit(claims, [used for used, _ in state], ceiling)
            if fits.refused is None:
                took = [self._take(file, claim, claim.base + claim.each * fits.ceiling, now) for claim in claims]
                row = (call_id, part, self._owner, fits.ceiling, msgspec.json.encode(took))
                taken = file.execute("INSERT INTO hold VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", row).rowcount
                if taken:
                    return Grant(fits.ceiling, self._standings(claims, state, [x[3] for x in took], now), now)
                file.execute("ROLLBACK")
                file.execute("BEGIN IMMEDIATE")
                self._seen = float("-inf")
            # Sent again, or refused: what is said is where the limits stand.
            known = file.execute("SELECT ceiling FROM hold WHERE call = ? AND part = ?", (call_id, part)).fetchone()
            standings = self._standings(claims, state, [0] * len(claims), now)
            if known is not None:
                return Grant(known[0], standings, now)
            if fits.refused is not None:
                claim, (used, _) = claims[fits.refused], state[fits.refused]
                standings[fits.refused] = self._refused(file, claim, used, now)
        return Grant(fits.ceiling, standings, now, fits.refused)

    def _state(self, file: sqlite3.Connection, claim: Claim, now: float) -> tuple[int, float]:
        """Return what is used of a claim's limit, and when the first of it is free again."""
        window = claim.window
        if not isinstance(window, Sliding):
            start, end = self._spans.at(window, now)
            row = file.execute(
                "SELECT spent + held FROM counter WHERE key = ? AND start = ?", (claim.key, start)
            ).fetchone()
            return (0 if row is None else row[0]), end
        row = file.execute("SELECT total, oldest, newest FROM slide WHERE key = ?", (claim.key,)).fetchone()
        if row is None or not row[0]:
            return 0, now + window.seconds
        total, oldest, newest = row
        gone = max(now, newest) - window.seconds
        if oldest <= gone:
            for (amount,) in file.execute(
                "DELETE FROM taking WHERE key = ? AND last <= ? RETURNING amount", (claim.key, gone)
            ):
                total -= amount
            (first,) = file.execute("SELECT min(last) FROM taking WHERE key = ?", (claim.key,)).fetchone()
            oldest = now if first is None else first
            file.execute("UPDATE slide SET total = ?, oldest = ? WHERE key = ?", (total, oldest, claim.key))
        return total, oldest + window.seconds

    def _standings(
        self, claims: Sequence[Claim], state: Sequence[tuple[int, float]], taken: Sequence[int], now: float
    ) -> list[Standing]:
        return [
            Standing(claim.limit, used + amount, max(now, resets_at))
            for claim, (used, resets_at), amount in zip(claims, state, taken, strict=True)
        ]

    def _take(self, file: sqlite3.Connection, claim: Claim, amount: int, now: float) -> Took:
        window = claim.window
        if not isinstance(window, Sliding):
            start, end = self._spans.at(window, now)
            file.execute(
                "INSERT INTO counter VALUES (?1, ?2, ?3, 0, ?4) ON CONFLICT DO UPDATE SET held = held + ?4",
                (claim.key, start, end, amount),
            )
            return claim.key, start, None, amount
        (now,) = file.execute(
            "INSERT INTO slide VALUES (?1, ?2, ?3, ?3, ?4) ON CONFLICT DO UPDATE SET total = total + ?2,"
            " oldest = iif(total = 0, ?3, oldest), newest = max(newest, ?3), seconds = ?4 RETURNING newest",
            (claim.key, amount, now, window.seconds),
        ).fetchone()
        if grain := window.grain(claim.limit):
            row = file.execute(
                "UPDATE taking SET last = ?1, amount = amount + ?2 WHERE id ="
                " (SELECT id FROM taking WHERE key = ?3 ORDER BY last DESC, id DESC LIMIT 1)"
                " AND ?1 - first < ?4 RETURNING id",
                (now, amount, claim.key, grain),
            ).fetchone()
            if row is not None:
                return claim.key, None, row[0], amount
        cursor = file.execute(
            "INSERT INTO taking (key, first, last, amount) VALUES (?1, ?2, ?2, ?3)", (claim.key, now, amount)
        )
        return claim.key, None, cursor.lastrowid, amount

    def _refused(self, file: sqlite3.Connection, claim: Claim, used: int, now: float) -> Standing:
        """Return where the limit of a refused claim stands, and when the claim would fit."""
        window = claim.window
        if not isinstance(window, Sliding):
            return Standing(claim.limit, used, self._spans.at(window, now)[1])
        free, resets_at = used, now
        for last, amount in file.execute("SELECT last, amount FROM taking WHERE key = ? ORDER BY last", (claim.key,)):
            free, resets_at = free - amount, last + window.seconds
            if free + claim.base <= claim.limit:
                break
        return Standing(claim.limit, used, resets_at)

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
        """See `Store.settle`."""
        with self._step() as file:
            self._keep_house(file, self._clock())
            self._settle(file, _held(file, call_id), charges, refund=refund)

    def _settle(
        self, file: sqlite3.Connection, took: Sequence[Took], charges: Mapping[str, int], *, refund: bool
    ) -> None:
        calendar = [(key, start, amount) for key, start, _, amount in took if start is not None]
        for key, start, amount, share in shares(calendar, charges, refund=refund):
            file.execute(
                "UPDATE counter SET spent = min(spent + ?, ?), held = held - ? WHERE key = ? AND start = ?",
                (share, LARGEST, amount, key, start),
            )

    async def release(self, call_id: str) -> None:
        """See `Store.release`."""
        with self._step() as file:
            for key, start, taking, amount in _held(file, call_id):
                if start is not None:
                    file.execute("UPDATE counter SET held = held - ? WHERE key = ? AND start = ?", (amount, key, start))
                elif file.execute("UPDATE taking SET amount = amount - ? WHERE id = ?", (amount, taking)).rowcount:
                    file.execute("DELETE FROM taking WHERE id = ? AND amount <= 0", (taking,))
                    file.execute("UPDATE slide SET total = total - ? WHERE key = ?", (amount, key))

    def _keep_house(self, file: sqlite3.Connection, now: float) -> None:
        """Say that we live, charge the holds of those who do not, and drop what nobody counts any more."""
        if 0 <= now - self._seen < SEEN_EVERY:
            return
        self._seen = now
        file.execute("INSERT INTO owner VALUES (?1, ?2) ON CONFLICT DO UPDATE SET seen = ?2", (self._owner, now))
        gone = "SELECT id FROM owner WHERE seen < ? AND id != ?"
        for (owner,) in file.execute(gone, (now - self._grace, self._owner)).fetchall():
            for (call,) in file.execute("SELECT DISTINCT call FROM hold WHERE owner = ?", (owner,)).fetchall():
                self._settle(file, _held(file, call), {}, refund=True)
            file.execute("DELETE FROM owner WHERE id = ?", (owner,))
        if 0 <= now - self._tidied < TIDY_EVERY:
            return
        self._tidied = now
        file.execute("DELETE FROM counter WHERE ends <= ? AND held = 0", (now,))
        file.execute("DELETE FROM slide WHERE newest + seconds <= ?", (now,))
        file.execute("DELETE FROM taking WHERE key NOT IN (SELECT key FROM slide)")

    async def accounts(self) -> Sequence[Account]:
        """See `Store.accounts`."""
        with self._step() as file:
            now = self._clock()
            self._seen = float("-inf")
            self._keep_house(file, now)
            rows: list[Any] = file.execute(
                "SELECT key, spent, held, ends FROM counter WHERE start <= ?1 AND ends > ?1", (now,)
            ).fetchall()
        return [account(key, spent, held, ends) for key, spent, held, ends in rows]

    async def beat(self) -> None:
        """See `Store.beat`."""
        with self._step() as file:
            self._keep_house(file, self._clock())

    async def ping(self) -> None:
        """See `Store.ping`."""
        with self._step():
            pass

    async def aclose(self) -> None:
        """Close the file.  Holds that are still open become charges when the grace is over."""
        self._drop()


def _held(file: sqlite3.Connection, call: str) -> list[Took]:
    rows = file.execute("DELETE FROM hold WHERE call = ? RETURNING part, took", (call,)).fetchall()
    return [took for _, blob in sorted(rows) for took in _DECODE_TOOK.decode(blob)]
