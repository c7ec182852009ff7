"""A file that another program has locked: operations wait without blocking the event loop, for a bounded time."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from claims import budget, rate, reserve, totals

from policies.api.store import StoreDown
from policies.stores.sqlite.store import SQLiteStore
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Give another program's connection to the file."""
    connection = sqlite3.connect(tmp_path / "s.db", timeout=0, isolation_level=None)
    yield connection
    connection.close()


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0.001)


async def test_operations_wait_until_the_lock_is_released(tmp_path: Path, lock: sqlite3.Connection) -> None:
    """The loop runs on while operations wait, and they are executed in their order once the file is free."""
    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock())
    await reserve(store, "running", budget(100))
    lock.execute("BEGIN IMMEDIATE")
    settling = asyncio.create_task(store.settle("running", {budget(100).key: 95}))
    reserving = [asyncio.create_task(store.reserve(f"{base}", [budget(100, base)])) for base in (10, 5)]
    await turns(30)
    assert not any(task.done() for task in (settling, *reserving))
    assert [each.used for each in await store.standings([budget(100)])] == [10]
    lock.execute("COMMIT")
    assert await settling is True
    assert [grant.refused for grant in await asyncio.gather(*reserving)] == [0, None]
    assert await totals(store) == [(95, 5)]
    await store.aclose()


async def test_cancelled_reservation_of_a_locked_file_is_not_made(tmp_path: Path, lock: sqlite3.Connection) -> None:
    """A call that is cancelled while it waits for the file ends at once, and reserves nothing."""
    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock())
    await store.ping()
    lock.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(store.reserve("1", [budget(100)]))
    await turns(5)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    lock.execute("COMMIT")
    assert await totals(store) == []
    await store.aclose()


async def test_patience_ends_and_is_remembered(tmp_path: Path, lock: sqlite3.Connection) -> None:
    """An operation that has waited for long enough fails; for half a second others fail at once, then one tries again."""
    monotonic = FakeClock()
    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock(), monotonic=monotonic, patience=0.03)
    await store.ping()
    lock.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreDown, match="locked"):
        await reserve(store, "1", budget(100))
    at_once = asyncio.ensure_future(reserve(store, "2", budget(100)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert at_once.done()
    with pytest.raises(StoreDown, match="locked"):
        await at_once
    monotonic.advance(0.5)
    lock.execute("COMMIT")
    assert (await reserve(store, "3", budget(100))).refused is None
    assert (await reserve(store, "4", budget(100))).refused is None
    await store.aclose()


async def test_time_for_which_this_process_stood_still_is_no_patience(
    tmp_path: Path, lock: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operation does not fail because its own process was suspended or busy: it is tried again after that."""
    loop, stood_still = asyncio.get_running_loop(), 0.0
    time_of_loop = loop.time
    monkeypatch.setattr(loop, "time", lambda: time_of_loop() + stood_still)
    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock(), patience=5.0)
    await reserve(store, "running", budget(100))
    lock.execute("BEGIN IMMEDIATE")
    waiting = [asyncio.create_task(store.reserve(f"{at}", [budget(100)])) for at in range(2)]
    await turns(3)
    for _ in range(3):
        stood_still += 33.0
        await turns(20)
    assert not any(task.done() for task in waiting)
    lock.execute("COMMIT")
    assert [(await task).refused for task in waiting] == [None, None]
    await store.aclose()


async def test_file_that_is_locked_before_it_is_opened(tmp_path: Path, lock: sqlite3.Connection) -> None:
    """A program that has the file for itself when it is opened is waited for as well."""
    first = SQLiteStore(tmp_path / "s.db", clock=FakeClock())
    await first.ping()
    await first.aclose()
    lock.execute("PRAGMA locking_mode = EXCLUSIVE")
    lock.execute("BEGIN EXCLUSIVE")
    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock())
    waiting = asyncio.create_task(store.reserve("1", [rate(5)]))
    await turns(20)
    assert not waiting.done()
    lock.execute("COMMIT")
    lock.close()
    assert (await waiting).refused is None
    await store.aclose()


async def test_closing_a_store_of_a_locked_file(tmp_path: Path, lock: sqlite3.Connection) -> None:
    """Closing does not wait for the lock: what is queued fails, and is charged later as the reservation of a dead process."""
    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock())
    await reserve(store, "1", budget(100))
    lock.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(store.settle("1", {}))
    await turns(3)
    await store.aclose()
    with pytest.raises(StoreDown):
        await waiting
    lock.execute("COMMIT")
