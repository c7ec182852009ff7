"""The counters of one identity in one row of a SQLite file, so that most calls read and write one row.

The row with the start `SLIDING_START` has the sliding counters of the identity and the newest window of each calendar counter. A window
that a newer one has displaced is in the row of its own start, because late settlements and a clock that was wrong come back
to it. A name that many counters have in common, of policy, unit and window, is stored once: counters have its number.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

import msgspec

from policies.api.claim import KEY_SEPARATOR
from policies.stores.counting.rows import SLIDING_START, CounterRow

Execute: TypeAlias = Callable[..., sqlite3.Cursor]
"""Executes one statement; the result is valid until the next one."""
SELECT_DOCUMENT = "SELECT due, counters FROM counter WHERE identity = ? AND start = ?"
_UPSERT_DOCUMENT = "INSERT INTO counter VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET due = excluded.due, counters = excluded.counters"
_UPDATE_COUNTERS = "UPDATE counter SET counters = ? WHERE identity = ? AND start = ?"
_NEXT_DOCUMENTS = (
    "SELECT identity, start, counters FROM counter WHERE (identity, start) > (?, ?) ORDER BY identity, start LIMIT ?"
)
PAGE_DOCUMENTS = 200
"""Rows that are read at once for a report."""
NEVER_DUE, NOT_STORED = 2**62, -1
"""When an empty document is due, and what the file has of a new one."""
_encode = msgspec.msgpack.Encoder().encode
decode_rows = msgspec.msgpack.Decoder(list[CounterRow]).decode


class UnreadableRow(sqlite3.DatabaseError):
    """The file holds values that this program does not write. SQLite has no checksums, so it returns damaged ones as they are."""

    sqlite_errorcode, sqlite_errorname = sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT"


@contextlib.contextmanager
def reading_own_rows() -> Iterator[None]:
    """Raise `UnreadableRow` where the block, which gets no values from callers, cannot use those of the file."""
    try:
        yield
    except (ValueError, TypeError, LookupError, msgspec.MsgspecError) as error:
        raise UnreadableRow(type(error).__name__) from error


class Document(msgspec.Struct, eq=False):
    """The counters of an identity by the numbers of their names. `due` is when to look for those that are over, in seconds."""

    identity: str
    start: int
    rows: dict[int, CounterRow]
    due: int = NEVER_DUE
    stored_due: int = NOT_STORED
    """What the file has as `due`. It has an index, so it is written only if it changes."""
    is_changed: bool = False

    def add(self, row: CounterRow) -> None:
        """Add a counter."""
        self.rows[row.number] = row
        self.due = min(self.due, row.removable_at)


def write_documents(execute_many: Execute, documents: Iterable[Document]) -> None:
    """Write *documents*, new ones and others, and delete those without counters."""
    same, moved, empty = [], [], []
    for each in documents:
        each.is_changed = False
        if not each.rows:
            empty.append((each.identity, each.start))
            each.due, each.stored_due = NEVER_DUE, NOT_STORED
        elif each.due == each.stored_due:
            same.append((_packed(each.rows), each.identity, each.start))
        else:
            moved.append((each.identity, each.start, each.due, _packed(each.rows)))
            each.stored_due = each.due
    if same:
        execute_many(_UPDATE_COUNTERS, same)
    if moved:
        execute_many(_UPSERT_DOCUMENT, moved)
    if empty:
        execute_many("DELETE FROM counter WHERE identity = ? AND start = ?", empty)


def _packed(rows: Mapping[int, CounterRow]) -> bytearray:
    """Return *rows* as they are stored: their fields, of most calendar counters only those that are not the default.

    It is a `bytearray`: for `bytes` the module `sqlite3` looks for an adapter first.
    """
    return bytearray(
        _encode(
            [
                row
                if row.start == SLIDING_START or row.mark or row.group
                else (row.number, row.start, row.ends, row.spent, row.held)
                for row in rows.values()
            ]
        )
    )


def split_key(key: str) -> tuple[str, str]:
    """Return the identity in the key of a counter, and the rest: its name."""
    policy, identity, rest = key.split(KEY_SEPARATOR, 2)
    return identity, f"{policy}{KEY_SEPARATOR}{rest}"


class Names:
    """The names of counters in one file and their numbers: as many as limits were ever configured. Numbers never change."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._parts: dict[int, tuple[str, str]] = {}

    def clear(self) -> None:
        """Forget them: the file is another one, or what was added was rolled back."""
        self._numbers, self._parts = {}, {}

    def number(self, execute: Execute, name: str) -> int:
        """Return the number of *name*, which is added if it is new."""
        if name not in self._numbers:
            execute("INSERT INTO name (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
            self._read(execute)
        return self._numbers[name]

    def key(self, execute: Execute, number: int, identity: str) -> str:
        """Return the key of the counter of *identity* whose name has *number*."""
        if number not in self._parts:
            self._read(execute)
        before, after = self._parts[number]
        return f"{before}{identity}{after}"

    def _read(self, execute: Execute) -> None:
        self._numbers = dict(execute("SELECT name, number FROM name").fetchall())
        for name, number in self._numbers.items():
            policy, rest = name.split(KEY_SEPARATOR, 1)
            self._parts[number] = policy + KEY_SEPARATOR, KEY_SEPARATOR + rest


def find_row(execute: Execute, key: str, start: int) -> CounterRow | None:
    """Read a counter from the file; None where there is none."""
    identity, name = split_key(key)
    number = execute("SELECT number FROM name WHERE name = ?", (name,)).fetchone()
    for at in {SLIDING_START, start} if number else ():
        found = execute(SELECT_DOCUMENT, (identity, at)).fetchone()
        with reading_own_rows():
            for row in decode_rows(found[1]) if found else ():
                if row.number == number[0] and row.start == start:
                    return row
    return None


class Page(msgspec.Struct):
    """Some rows of the file: the counters in them by their keys, and the `place` after the last row, None at the end."""

    counters: list[tuple[str, CounterRow]]
    place: tuple[str, int] | None


def counters_after(execute: Execute, place: tuple[str, int]) -> Page:
    """Read the counters in at most `PAGE_DOCUMENTS` rows after *place*, an identity and a start."""
    found, names = execute(_NEXT_DOCUMENTS, (*place, PAGE_DOCUMENTS)).fetchall(), Names()
    with reading_own_rows():
        counters = [
            (names.key(execute, row.number, identity), row)
            for identity, _, packed in found
            for row in decode_rows(packed)
        ]
    return Page(counters, (found[-1][0], found[-1][1]) if len(found) == PAGE_DOCUMENTS else None)
