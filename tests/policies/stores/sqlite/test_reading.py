"""Reading standings from a SQLite file: it writes nothing, and no other process delays it."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import msgspec
import pytest
from claims import budget, chosen_by_client, rate, reserve
from stored import CommittedTransactions

from policies.api.store import StoreDown
from policies.stores.sqlite.documents import PAGE_DOCUMENTS
from policies.stores.sqlite.store import SQLiteStore
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio


async def test_reading_commits_nothing(tmp_path: Path) -> None:
    """Reading commits no transaction that writes, also where entries have expired and an identity is new."""
    clock, path = FakeClock(), tmp_path / "s.db"
    store = SQLiteStore(path, clock=clock)
    for call in range(50):
        await reserve(store, f"{call}", rate(60), chosen_by_client("a", limit=10_000))
        clock.advance(1)
    clock.advance(30)
    transactions = CommittedTransactions(path)
    for _ in range(3):
        found = await store.standings([rate(60), chosen_by_client("new")])
        assert [each.used for each in found] == [30, 0]
    assert transactions.count() == 0
    await reserve(store, "later", rate(60))
    assert transactions.count() == 1
    await store.aclose()


async def test_reading_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    """While another process writes, standings are read from the last commit; a reservation would fail."""
    path = tmp_path / "s.db"
    store = SQLiteStore(path, clock=FakeClock(), patience=0.01)
    await reserve(store, "1", rate(5))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    (found,) = await store.standings([rate(5)])
    assert found.used == 1
    with pytest.raises(StoreDown):
        await reserve(store, "2", rate(5))
    other.execute("ROLLBACK")
    other.close()
    await store.aclose()


async def test_reading_sees_what_other_processes_wrote(tmp_path: Path) -> None:
    """A read between two transactions does not keep an older state of the file open."""
    clock = FakeClock()
    one, two = (SQLiteStore(tmp_path / "s.db", clock=clock, resident=True) for _ in range(2))
    await reserve(one, "1", rate(9))
    await reserve(two, "2", rate(9))
    assert [each.used for each in await one.standings([rate(9)])] == [2]
    await reserve(two, "3", rate(9))
    assert [each.used for each in await one.standings([rate(9)])] == [3]
    assert (await reserve(one, "4", rate(9))).standings[0].used == 4
    await one.aclose()
    await two.aclose()


async def test_window_that_ends_during_a_report_is_reported_once(tmp_path: Path) -> None:
    """A counter that moves behind the place of the report, because its window ends meanwhile, is not in it twice."""
    clock = FakeClock()
    store, other = (SQLiteStore(tmp_path / "s.db", clock=clock) for _ in range(2))
    last = [msgspec.structs.replace(budget(100), identity=f"{at:05}") for at in range(PAGE_DOCUMENTS)]
    for at, claim in enumerate(last):
        await reserve(store, f"{at}", claim)
    report = asyncio.ensure_future(store.accounts())
    await asyncio.sleep(0)
    assert not report.done(), "the first page ends at the last counter"
    clock.advance(86_400)
    await reserve(other, "next", last[-1])
    assert [each.identity for each in await report] == [claim.identity for claim in last]
    await store.aclose()
    await other.aclose()


async def test_reading_a_broken_file_is_store_down(tmp_path: Path) -> None:
    """A file that cannot be read raises `StoreDown` with the cure, and the next read opens it again."""
    path = tmp_path / "s.db"
    path.write_bytes(b"not a database at all" * 100)
    store = SQLiteStore(path, clock=FakeClock())
    with pytest.raises(StoreDown, match="name another file"):
        await store.standings([rate(5)])
    path.unlink()
    assert [each.used for each in await store.standings([rate(5)])] == [0]
    await store.aclose()
