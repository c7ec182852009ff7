"""The entries of a SQLite store: older files, restarts, several processes, transactions, files that cannot be used."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
from importlib import resources
from pathlib import Path

import pytest
from busy_store import BusyStore
from claims import budget, reserve, totals
from stored import query

from policies.api.store import StoreDown
from policies.stores.sqlite.database import SCHEMA_VERSION
from policies.stores.sqlite.store import SQLiteStore
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio


async def test_entries_survive_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    """A file that is opened again has its entries."""
    store = SQLiteStore(tmp_path / "s.db", clock=clock)
    await store.remember({"a": b"1"}, 60)
    await store.aclose()
    store = SQLiteStore(tmp_path / "s.db", clock=clock)
    assert await store.recall(["a"]) == [b"1"]
    await store.aclose()


async def test_file_of_an_earlier_release_gets_the_table(tmp_path: Path, clock: FakeClock) -> None:
    """A file without the table keeps its counters and gets the table; its version stays, so that the earlier release reads it."""
    file = sqlite3.connect(tmp_path / "s.db")
    file.executescript(resources.files("policies.stores.sqlite").joinpath("schema.sql").read_text())
    file.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    file.close()
    store = SQLiteStore(tmp_path / "s.db", clock=clock)
    await reserve(store, "1", budget(100, 40))
    await store.remember({"a": b"1"}, 60)
    assert (await store.recall(["a"]), await totals(store)) == ([b"1"], [(0, 40)])
    assert query(tmp_path / "s.db", "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    await store.aclose()


def _remember(path: Path, key: str) -> None:
    """Write one entry from a process of its own."""

    async def run() -> None:
        store = SQLiteStore(path, clock=FakeClock())
        await store.remember({key: key.encode()}, 60)
        await store.aclose()

    asyncio.run(run())


async def test_processes_share_entries(tmp_path: Path, clock: FakeClock) -> None:
    """What one process remembers, another one finds, while it has the file open."""
    store = SQLiteStore(tmp_path / "s.db", clock=clock)
    assert await store.recall(["a", "b"]) == [None, None]
    for name in "ab":
        process = multiprocessing.get_context("spawn").Process(target=_remember, args=(tmp_path / "s.db", name))
        process.start()
        process.join(30)
        assert process.exitcode == 0
    assert await store.recall(["a", "b"]) == [b"a", b"b"]
    await store.aclose()


async def test_entries_share_a_transaction(tmp_path: Path) -> None:
    """Where calls are running, the entries of one event-loop iteration are committed together."""
    busy = BusyStore(tmp_path)
    await busy.begin()
    await asyncio.gather(*[busy.store.remember({f"{at}": b"1"}, 60) for at in range(30)])
    assert busy.transactions.count() == 1
    await busy.store.aclose()


async def test_unusable_file_is_store_down(tmp_path: Path, clock: FakeClock) -> None:
    """Each operation on a file that cannot be opened raises `StoreDown`, and works once it can."""
    monotonic = FakeClock()
    store = SQLiteStore(tmp_path / "sub" / "s.db", clock=clock, monotonic=monotonic)
    for operation in (store.remember({"a": b"1"}, 60), store.recall(["a"]), store.forget(["a"])):
        with pytest.raises(StoreDown):
            await operation
    (tmp_path / "sub").mkdir()
    monotonic.advance(0.5)
    await store.remember({"a": b"1"}, 60)
    assert await store.recall(["a"]) == [b"1"]
    await store.aclose()


async def test_cleanup_removes_expired_entries(tmp_path: Path, clock: FakeClock) -> None:
    """Maintenance removes expired entries also where no new ones come."""
    store = SQLiteStore(tmp_path / "s.db", clock=clock)
    await store.remember({f"{at}": b"1" for at in range(100)}, 60)
    await store.remember({"new": b"1"}, 600)
    clock.advance(120)
    await store.heartbeat()
    assert query(tmp_path / "s.db", "SELECT key FROM entry") == [("new",)]
    await store.aclose()
