"""The rows of counters in a SQLite file, and the log of entries that a sliding counter has.

An entry is what was counted within a short time: when its first and its last request came, and their amount. The oldest and the
newest entries are packed into the counter's own row, which every operation writes anyway. Those between are in the table
`taking`, in chunks of `CHUNK_BYTES`: one operation in eight writes a chunk, and one in eight reads one back.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from struct import Struct

import msgspec

from policies.stores.counting.rows import CounterRow

from .database import Execute

ENTRY_FORMAT = Struct("<3q")
"""One entry: the time of its first request, that of its last, its amount."""
ENTRY_BYTES = ENTRY_FORMAT.size
CHUNK_BYTES = 8 * ENTRY_BYTES
"""Two chunks fit into a row of a small page without an overflow page."""

COUNTER_COLUMNS = "spent, held, oldest, ends, key, start, head, tail, crowd"
"""The columns of a counter, in the order of the fields of `SQLiteRow`; `crowd` is its group of identities."""
SELECT_COUNTER = f"SELECT {COUNTER_COLUMNS} FROM counter WHERE key = ? AND start = ?"  # noqa: S608  # constants only
UPSERT_COUNTER = (
    f"INSERT INTO counter ({COUNTER_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, nullif(?9, ''))"  # noqa: S608  # as above
    " ON CONFLICT DO UPDATE SET spent = ?1, held = ?2, oldest = ?3, ends = ?4, head = ?7, tail = ?8"
)


class SQLiteRow(CounterRow, eq=False):
    """One counter; its fields are the columns. Chunks between `head` and `tail` exist only where neither is empty."""

    key: str
    start: int
    head: bytes = b""
    tail: bytes = b""
    group: str | None = None

    def values(self) -> tuple[object, ...]:
        """Return the parameters of `UPSERT_COUNTER`.

        They are no bytes and no None: for these `sqlite3` first looks for an adapter, which takes 0.2 µs each.
        """
        spent, held, oldest, ends, key, start, head, tail, group = msgspec.structs.astuple(self)
        return spent, held, oldest, ends, key, start, bytearray(head), bytearray(tail), group or ""

    def expire(self, until: int, execute: Execute) -> bool:
        """Remove the entries whose last request came at *until* or before; return whether the table was changed."""
        head, at, changed = self.head, 0, False
        while True:
            # Entries are in the order of their times, so the expired ones come first.
            while at < len(head):
                _, last, amount = ENTRY_FORMAT.unpack_from(head, at)
                if last > until:
                    self.head, self.oldest = head[at:], last
                    return changed
                self.spent -= amount
                at += ENTRY_BYTES
            if not self.tail:
                self.head, self.oldest, self.spent = b"", 0, 0
                return changed
            at = 0
            chunk = execute(
                "SELECT first, packed FROM taking WHERE key = ? ORDER BY first LIMIT 1", (self.key,)
            ).fetchone()
            if chunk is None:
                head, self.tail = self.tail, b""
            else:
                execute("DELETE FROM taking WHERE key = ? AND first = ?", (self.key, chunk[0]))
                head, changed = chunk[1], True

    def newest_start(self) -> int | None:
        """Return the time of the first request of the newest entry; None where there is none."""
        newest = self.tail or self.head
        return ENTRY_FORMAT.unpack_from(newest, len(newest) - ENTRY_BYTES)[0] if newest else None

    def add(self, entry_start: int, time: int, amount: int, execute: Execute) -> None:
        """Add *amount* to the newest entry if it began at *entry_start*; otherwise append an entry."""
        self.spent += amount
        newest = self.tail or self.head
        if newest:
            start, _, counted = ENTRY_FORMAT.unpack_from(newest, len(newest) - ENTRY_BYTES)
            if start == entry_start:
                newest = newest[:-ENTRY_BYTES] + ENTRY_FORMAT.pack(entry_start, time, counted + amount)
                if self.tail:
                    self.tail = newest
                else:
                    self.head = newest
                _, self.oldest, _ = ENTRY_FORMAT.unpack_from(self.head or newest)
                return
        else:
            self.oldest = time
        if len(self.tail) >= CHUNK_BYTES:
            if self.head:
                first_of_tail, _, _ = ENTRY_FORMAT.unpack_from(self.tail)
                execute("INSERT INTO taking VALUES (?, ?, ?)", (self.key, first_of_tail, self.tail))
            else:
                self.head = self.tail
            self.tail = b""
        self.tail += ENTRY_FORMAT.pack(entry_start, time, amount)

    def entries(self, execute: Execute) -> Iterator[tuple[int, int, int]]:
        """Yield all entries, oldest first."""
        rows = execute("SELECT packed FROM taking WHERE key = ? ORDER BY first", (self.key,)).fetchall()
        for packed in (self.head, *(packed for (packed,) in rows), self.tail):
            yield from ENTRY_FORMAT.iter_unpack(packed)

    def subtract(self, entry_start: int, amount: int, execute: Execute) -> bool:
        """Subtract *amount* from the entry that began at *entry_start*; return False if that has expired."""
        entries = list(self.entries(execute))
        if all(start != entry_start for start, _, _ in entries):
            return False
        execute("DELETE FROM taking WHERE key = ?", (self.key,))
        self.spent, self.oldest, self.head, self.tail = 0, 0, b"", b""
        for start, last, counted in entries:
            left = counted - amount if start == entry_start else counted
            if left > 0:
                self.add(start, last, left, execute)
        return True


@functools.cache
def select_counters(count: int) -> str:
    """Return the statement that reads *count* counters at once."""
    return " UNION ALL ".join([SELECT_COUNTER] * count)
