"""The SQLite file: several processes that open it and write to it, cached rows, and the size of its WAL."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pytest
from claims import budget
from hypothesis import given, settings
from hypothesis import strategies as st
from store_steps import STEPS, played

from policies.api.store import Store
from policies.stores.memory import MemoryStore
from policies.stores.sqlite.store import SQLiteStore
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio

LIMIT = 10**9


async def test_new_file_is_created_by_one_process(tmp_path: Path) -> None:
    """Processes that create the same new file at once wait for the first of them; SQLite itself would fail."""
    first = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    first.execute("BEGIN IMMEDIATE")
    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock())
    opening = asyncio.create_task(store.ping())
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not opening.done()
    first.close()
    await opening
    await store.aclose()


class TwoProcesses:
    """Two stores on one file, as two processes have them; *whose* says which of them executes each operation."""

    def __init__(self, folder: Path, clock: FakeClock, whose: list[bool]) -> None:
        self.both = [SQLiteStore(folder / "s.db", clock=clock, grace=1e6, resident=True) for _ in range(2)]
        self._whose = itertools.cycle(whose)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.both[next(self._whose)], name)

    async def heartbeat(self) -> None:
        for store in self.both:
            await store.heartbeat()


@settings(max_examples=200, deadline=None)
@given(steps=STEPS, whose=st.lists(st.booleans(), min_size=1, max_size=12))
def test_two_processes_answer_like_one(steps: list[tuple[object, ...]], whose: list[bool]) -> None:
    """Whichever of two processes executes an operation, the answer is that of one store: cached rows are never outdated."""

    async def run() -> None:
        clock, alike = FakeClock(), FakeClock()
        with TemporaryDirectory() as name:
            either = TwoProcesses(Path(name), clock, whose)
            found = await played(cast("Store", either), clock, steps)
            for store in either.both:
                await store.aclose()
        assert found == await played(MemoryStore(clock=alike), alike, steps)

    asyncio.run(run())


@pytest.mark.parametrize("change", ["part added", "made again", "charged"])
@pytest.mark.parametrize("ends", ["release", "settle"])
async def test_reservation_that_another_process_changed(tmp_path: Path, change: str, ends: str) -> None:
    """A process ends a reservation as the file has it, not as it was when this process made it: nothing stays reserved."""
    clock = FakeClock()
    first, second = (SQLiteStore(tmp_path / "s.db", clock=clock, grace=30.0) for _ in range(2))
    for store in (first, second):
        await store.heartbeat()
    claim = budget(LIMIT, 5)
    await first.reserve("1", [claim])
    if change == "part added":
        await second.reserve("1", [budget(LIMIT, 7)], part=1)
    elif change == "made again":
        await second.release("1")
        await second.reserve("1", [budget(LIMIT, 7)])
    else:
        clock.advance(60)
        await second.heartbeat()
        await first.reserve("1", [budget(LIMIT, 7)], part=1)
    if ends == "release":
        await first.release("1")
    else:
        assert await first.settle("1", {claim.key: 0})
    (account,) = await first.accounts()
    for store in (first, second):
        await store.aclose()
    assert (account.spent, account.reserved) == (0, 0)


async def test_journal_stays_small(tmp_path: Path) -> None:
    """However many operations follow each other, SQLite can restart the WAL: no read is open for long."""
    store, claim = SQLiteStore(tmp_path / "s.db", clock=FakeClock()), budget(LIMIT, 1)
    for at in range(3000):
        await store.reserve(f"{at}", [claim])
        await store.settle(f"{at}", {})
    assert (tmp_path / "s.db-wal").stat().st_size < 4_000_000
    await store.aclose()


async def test_processes_stay_distinct_in_a_new_file(tmp_path: Path) -> None:
    """Processes that go on in a new file stay distinct: the reservations of one that dies are charged."""
    clock = FakeClock()
    lives, dies = (SQLiteStore(tmp_path / "s.db", clock=clock) for _ in range(2))
    for store in (lives, dies):
        await store.heartbeat()
    for part in tmp_path.iterdir():
        part.unlink()
    for store in (dies, lives):
        await store.heartbeat()
    await dies.reserve("1", [budget(100, 60)])
    await dies.aclose()
    clock.advance(60)
    await lives.heartbeat()
    totals = [(account.spent, account.reserved) for account in await lives.accounts()]
    await lives.aclose()

    assert totals == [(60, 0)]


async def test_journal_of_a_resident_process_stays_small(tmp_path: Path) -> None:
    """A thread moves the WAL into the file, and restarts it also under constant load."""
    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock(), resident=True)
    for at in range(6_000):
        await store.reserve(f"{at}", [budget(LIMIT, 1)])
        await store.settle(f"{at}", {})
        if at % 50 == 0:
            await asyncio.sleep(0.001)  # the checkpoint's thread needs a moment, as between network reads
    size = (tmp_path / "s.db-wal").stat().st_size
    await store.aclose()
    assert size < 30_000_000, "it would have 60 MB"
