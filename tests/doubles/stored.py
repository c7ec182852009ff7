"""What a store keeps, measured from outside: by a second connection to its file or server, or by its objects in memory."""

from __future__ import annotations

import gc
import sqlite3
import types
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from struct import unpack_from
from typing import Any, NamedTuple

from redis.asyncio import Redis

from policies.api.store import Store
from policies.stores.counting.rows import CounterRow
from policies.stores.sqlite.documents import counters_after

FRAME_HEADER_BYTES = 24


class Opened(NamedTuple):
    """A store, and what it keeps: the bytes of sliding counters in a file or on a server, else the objects in memory."""

    store: Store
    kind: str
    kept: Callable[[], Awaitable[int]]


def query(path: Path, statement: str) -> list[Any]:
    """Return the rows of *statement* on the SQLite file at *path*."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def counters_in_file(path: Path) -> list[tuple[str, CounterRow]]:
    """Return the counters of a SQLite store and their keys."""
    connection = sqlite3.connect(path)
    try:
        return counters_after(connection.execute, ("", -2)).counters
    finally:
        connection.close()


def counter_bytes_in_file(path: Path) -> int:
    """Return how many bytes the counters of a SQLite store have."""
    size: int = query(path, "SELECT coalesce(sum(length(counters)), 0) FROM counter")[0][0]
    return size


async def ring_bytes_in_redis(url: str, prefix: str) -> int:
    """Return how many bytes the sliding counters of a Redis store have."""
    client: Any = Redis.from_url(url)
    counters = await client.hgetall(f"{{{prefix}}}:c")
    await client.aclose()
    return sum(len(value) for field, value in counters.items() if field.startswith(b"s:"))


def objects_of(store: object) -> int:
    """Return how many objects *store* keeps alive, classes, modules and functions apart."""
    shared = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType)
    seen, found = set[int](), [store]
    while found:
        each = found.pop()
        if id(each) not in seen and not isinstance(each, shared):
            seen.add(id(each))
            found += gc.get_referents(each)
    return len(seen)


class CommittedTransactions:
    """Counts the transactions that write to a SQLite file: in its WAL each ends with a frame that is marked as a commit."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.reset()

    def reset(self) -> None:
        """Count from now on: move the WAL into the file, and cut it."""
        ((busy, _, _),) = query(self._path, "PRAGMA wal_checkpoint(TRUNCATE)")
        assert not busy

    def count(self) -> int:
        """Return how many transactions have been committed since `reset`."""
        return sum(1 for pages in self._frames() if pages)

    def _frames(self) -> Iterator[int]:
        """Yield for each frame the size of the database after its commit, 0 where it is not the last of a transaction."""
        wal = self._path.with_name(f"{self._path.name}-wal").read_bytes()
        if not wal:
            return
        page_size, salts = unpack_from(">I", wal, 8)[0], wal[16:24]
        for at in range(32, len(wal), FRAME_HEADER_BYTES + page_size):
            if wal[at + 8 : at + 16] != salts:  # a frame from before the WAL was restarted
                return
            yield unpack_from(">I", wal, at + 4)[0]
