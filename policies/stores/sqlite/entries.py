"""The entries of a SQLite store: small values that expire, in the table `entry`.

An operation costs one transaction, which it shares with others where several calls are running (`group_commit.py`). Each
write removes as many entries as it adds, if these have expired or exceed the bound, so that no transaction takes long.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from policies.api.window import MICROSECONDS_PER_SECOND
from policies.stores.entries.bounds import EXPIRED_PER_OPERATION, MAX_SHARED_ENTRIES, check_entries, check_keys

from .database import Database

_WRITE_ENTRY = """
INSERT INTO entry (key, value, ends) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value, ends = excluded.ends,
number = CASE WHEN number > ? THEN number ELSE (SELECT max(number) FROM entry) + 1 END
"""
"""A replaced entry becomes the newest one only if it is among the older half.

The bound is a range of numbers, so that it needs no count. If each replacement took a number, few entries that are replaced
often would push out all others.
"""
_REMOVE_EXPIRED = "DELETE FROM entry WHERE number IN (SELECT number FROM entry WHERE ends <= ? ORDER BY ends LIMIT ?)"
EXPIRED_PER_MAINTENANCE = 100
_REMOVE_OLDEST = "DELETE FROM entry WHERE number <= (SELECT max(number) FROM entry) - ?"


class EntriesInFile(ABC):
    """The operations of `EntryStore` for a SQLite store, whose transactions they use."""

    max_entries = MAX_SHARED_ENTRIES
    _database: Database

    @abstractmethod
    async def _run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Execute *function* in a transaction, alone or with others."""

    @abstractmethod
    def _now(self) -> int:
        """Return the time in microseconds."""

    async def remember(self, entries: Mapping[str, bytes], seconds: float) -> None:
        """See `EntryStore.remember`."""
        check_entries(entries)
        await self._run(self._remember, (dict(entries), round(seconds * MICROSECONDS_PER_SECOND)))

    async def recall(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """See `EntryStore.recall`."""
        check_keys(keys)
        return cast("list[bytes | None]", await self._run(self._recall, (keys,)))

    async def forget(self, keys: Sequence[str]) -> None:
        """See `EntryStore.forget`."""
        check_keys(keys)
        await self._run(self._forget, (keys,))

    def _remember(self, entries: Mapping[str, bytes], microseconds: int) -> None:
        now, database = self._now(), self._database
        newest: int = database.execute("SELECT coalesce(max(number), 0) FROM entry", ()).fetchone()[0]
        older = newest - self.max_entries // 2
        rows = [(key, value, now + microseconds, older) for key, value in entries.items()]
        database.execute_many(_WRITE_ENTRY, rows)
        database.execute(_REMOVE_EXPIRED, (now, len(rows) + EXPIRED_PER_OPERATION))
        database.execute(_REMOVE_OLDEST, (self.max_entries,))

    def _remove_expired_entries(self, now: int) -> None:
        """Remove some entries that have expired. Each write of an entry removes some too."""
        self._database.execute(_REMOVE_EXPIRED, (now, EXPIRED_PER_MAINTENANCE))

    def _recall(self, keys: Sequence[str]) -> list[bytes | None]:
        now, found = self._now(), list[bytes | None]()
        for key in keys:
            row = self._database.execute("SELECT value FROM entry WHERE key = ? AND ends > ?", (key, now)).fetchone()
            found.append(None if row is None else row[0])
        return found

    def _forget(self, keys: Sequence[str]) -> None:
        self._database.execute_many("DELETE FROM entry WHERE key = ?", [(key,) for key in keys])
