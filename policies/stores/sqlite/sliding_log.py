"""The counters of a file while a step works on them, and the queue of takings that a sliding one has.

The two ends of the queue are packed in the counter's own row, which every step writes anyhow.  What is between them lies
in the table `taking`, in chunks of `CHUNK`: once in so many steps one is put there, and once one comes back.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from struct import Struct

from policies.stores.counting.rows import CounterRow

from .database import SQL

TAKING = Struct("<3q")
"""One taking: its first moment, its last, its amount."""
SIZE = TAKING.size
CHUNK = 8 * SIZE
"""Two of them fit into a row of a small page that needs no page of its own."""


COLUMNS = "spent, held, oldest, ends, key, start, head, tail, crowd"
"""Those of a counter, in the order of the fields of `FileRow`."""
READ = f"SELECT {COLUMNS} FROM counter WHERE key = ? AND start = ?"  # noqa: S608  # no word of it comes from elsewhere
WRITE = (
    f"INSERT INTO counter ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"  # noqa: S608  # as above
    " ON CONFLICT DO UPDATE SET spent = ?1, held = ?2, oldest = ?3, ends = ?4, head = ?7, tail = ?8"
)


class FileRow(CounterRow, eq=False):
    """One counter, its fields the columns.  There are chunks between `head` and `tail` only where neither is empty."""

    key: str
    start: int
    head: bytes = b""
    tail: bytes = b""
    crowd: str | None = None

    def forget(self, gone: int, sql: SQL) -> bool:
        """Drop the takings up to the moment *gone*; whether the table was written to."""
        head, at, wrote = self.head, 0, False
        while True:
            # Takings are in the order of their moments, so those that have gone are the first ones.
            while at < len(head):
                _, last, amount = TAKING.unpack_from(head, at)
                if last > gone:
                    self.head, self.oldest = head[at:], last
                    return wrote
                self.spent -= amount
                at += SIZE
            if not self.tail:
                self.head, self.oldest, self.spent = b"", 0, 0
                return wrote
            at = 0
            chunk = sql("SELECT first, packed FROM taking WHERE key = ? ORDER BY first LIMIT 1", (self.key,)).fetchone()
            if chunk is None:
                head, self.tail = self.tail, b""
            else:
                sql("DELETE FROM taking WHERE key = ? AND first = ?", (self.key, chunk[0]))
                head, wrote = chunk[1], True

    def youngest(self) -> int | None:
        """Return the first moment of the youngest taking."""
        newest = self.tail or self.head
        return TAKING.unpack_from(newest, len(newest) - SIZE)[0] if newest else None

    def add(self, first: int, moment: int, amount: int, sql: SQL) -> None:
        """Count *amount* in the youngest taking, if that began at *first*, or in one of its own."""
        self.spent += amount
        newest = self.tail or self.head
        if newest:
            begun, _, known = TAKING.unpack_from(newest, len(newest) - SIZE)
            if begun == first:
                newest = newest[:-SIZE] + TAKING.pack(first, moment, known + amount)
                if self.tail:
                    self.tail = newest
                else:
                    self.head = newest
                _, self.oldest, _ = TAKING.unpack_from(self.head or newest)
                return
        else:
            self.oldest = moment
        if len(self.tail) >= CHUNK:
            if self.head:
                first_of_tail, _, _ = TAKING.unpack_from(self.tail)
                sql("INSERT INTO taking VALUES (?, ?, ?)", (self.key, first_of_tail, self.tail))
            else:
                self.head = self.tail
            self.tail = b""
        self.tail += TAKING.pack(first, moment, amount)

    def takings(self, sql: SQL) -> Iterator[tuple[int, int, int]]:
        """Return all takings, the oldest first."""
        rows = sql("SELECT packed FROM taking WHERE key = ? ORDER BY first", (self.key,)).fetchall()
        for packed in (self.head, *(packed for (packed,) in rows), self.tail):
            yield from TAKING.iter_unpack(packed)

    def give_back(self, first: int, amount: int, sql: SQL) -> bool:
        """Take *amount* out of the taking that began at *first*; False where that is not counted any more."""
        takings = list(self.takings(sql))
        if all(begun != first for begun, _, _ in takings):
            return False
        sql("DELETE FROM taking WHERE key = ?", (self.key,))
        self.spent, self.oldest, self.head, self.tail = 0, 0, b"", b""
        for begun, last, counted in takings:
            left = counted - amount if begun == first else counted
            if left > 0:
                self.add(begun, last, left, sql)
        return True


@functools.cache
def reading(counters: int) -> str:
    """Return the statement that reads so many *counters* at once."""
    return " UNION ALL ".join([READ] * counters)
