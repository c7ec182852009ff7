"""Files of earlier versions are converted: what is spent stays spent. A file that an earlier version uses is left alone."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from claims import budget, rate, reserve, totals
from old_files import DAY, NOW, RATE, USER, old_file
from stored import query

from policies.api.claim import Claim
from policies.api.store import StoreDown
from policies.stores.opening import open_store
from policies.stores.sqlite.conversion import FileConverting
from policies.stores.sqlite.migration import migrate
from policies.stores.sqlite.store import SQLiteStore
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio


async def used(store: SQLiteStore, claim: Claim) -> int:
    return (await store.standings([claim]))[0].used


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_older_file_keeps_its_counters(tmp_path: Path, version: int) -> None:
    """Budgets, rates and groups go on; reservations are charged, because their processes have ended."""
    old_file(tmp_path / "s.db", version)
    clock = FakeClock(NOW + 10.0)
    store = SQLiteStore(tmp_path / "s.db", clock=clock)
    await store.ping()
    assert await used(store, DAY) == 650
    assert (650, 0) in await totals(store)
    assert await used(store, RATE) == 7
    assert (await reserve(store, "1", rate(10, base=4))).refused == 0
    assert (await reserve(store, "2", rate(10, base=3))).refused is None
    clock.advance(61)
    assert await used(store, RATE) == 0
    if version > 1:
        assert await used(store, USER) == 3
        assert query(tmp_path / "s.db", "SELECT counters FROM crowd") == [(1,)]
    assert query(tmp_path / "s.db", "PRAGMA user_version") == [(4,)]
    await store.aclose()


async def test_file_in_use_by_an_earlier_version_is_left_alone(tmp_path: Path) -> None:
    """While an earlier version has the file open, this one does not start, and says what to do; afterwards it converts."""
    old_file(tmp_path / "s.db", 3)
    earlier = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    assert earlier.execute("SELECT count(*) FROM hold").fetchone() == (1,)
    monotonic = FakeClock()
    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock(NOW + 10.0), monotonic=monotonic, patience=0.05)
    with pytest.raises(StoreDown, match="earlier version, and another process has it open; stop all earlier sidecars"):
        await store.ping()
    earlier.execute("UPDATE counter SET spent = spent + 1 WHERE start >= 0 AND spent = 600")
    assert earlier.execute("PRAGMA user_version").fetchone() == (3,)
    earlier.close()
    monotonic.advance(0.5)
    await store.ping()
    assert await used(store, DAY) == 651
    await store.aclose()


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_command_does_not_convert(tmp_path: Path, version: int) -> None:
    """A command that opens an older file beside the sidecars leaves it as it is: the earlier version can go on with it."""
    old_file(tmp_path / "s.db", version)
    before = (tmp_path / "s.db").read_bytes()
    store = open_store("sqlite:///s.db", folder=tmp_path, converts=False)
    with pytest.raises(
        StoreDown, match="the format of an earlier version; start this version of the sidecar, which converts"
    ):
        await store.accounts()
    await store.aclose()
    assert (tmp_path / "s.db").read_bytes() == before


async def test_processes_that_convert_at_once(tmp_path: Path) -> None:
    """Of several new processes that open an older file at once, one converts it, and all count together."""
    old_file(tmp_path / "s.db", 3)
    stores = [SQLiteStore(tmp_path / "s.db", clock=FakeClock(NOW + 10.0)) for _ in range(3)]
    await asyncio.gather(*[store.ping() for store in stores])
    for at, store in enumerate(stores):
        await reserve(store, f"{at}", budget(1_000))
    assert await used(stores[0], DAY) == 680
    for store in stores:
        await store.aclose()


async def test_failed_conversion_changes_nothing(tmp_path: Path) -> None:
    """A conversion that fails leaves the file as it was."""
    old_file(tmp_path / "s.db", 3)
    file = sqlite3.connect(tmp_path / "s.db")
    file.execute("CREATE TABLE charged (theirs)")  # a name that this version uses
    file.close()
    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock(NOW + 10.0))
    with pytest.raises(StoreDown):
        await store.ping()
    await store.aclose()
    assert query(tmp_path / "s.db", "SELECT spent FROM counter WHERE spent = 600") == [(600,)]
    assert query(tmp_path / "s.db", "PRAGMA user_version") == [(3,)]


async def test_conversion_runs_in_a_thread(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Operations on an older file wait for its conversion without blocking the event loop, and two lines are logged."""
    old_file(tmp_path / "s.db", 3)
    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock(NOW + 10.0))
    with pytest.raises(FileConverting, match=r"/s\.db: the file is being converted .*; wait until that is done"):
        await store.standings([DAY])
    assert (await reserve(store, "1", budget(1_000))).standings[0].used == 660
    await store.aclose()
    assert [each.getMessage().partition("/s.db: ")[2][:25] for each in caplog.records] == [
        "converting the file from ",
        "the file was converted in",
    ]


@pytest.mark.parametrize("questions", [1, 30], ids=["while it reads", "while it writes"])
async def test_conversion_that_is_cancelled_changes_nothing(tmp_path: Path, questions: int) -> None:
    """A conversion ends soon after it is cancelled, and leaves the file as it was; the next one converts it."""
    path = tmp_path / "s.db"
    old_file(path, 3)
    file = sqlite3.connect(path)
    rows = [(f"p\x1f{at}\x1ftokens\x1fday@UTC",) for at in range(20_000)]
    file.executemany("INSERT INTO counter VALUES (?, 0, 1, 1, 0, 0, x'', x'', NULL)", rows)
    file.commit()
    file.close()
    asked: list[bool] = []

    def cancel() -> bool:
        asked.append(True)
        return len(asked) >= questions

    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        migrate(path, 4, NOW * 1_000_000, cancel)
    assert len(asked) == questions
    assert query(path, "PRAGMA user_version") == [(3,)]
    assert query(path, "SELECT count(*) FROM counter") == [(20_003,)]
    migrate(path, 4, NOW * 1_000_000)
    assert query(path, "SELECT count(*) FROM counter") == [(20_002,)], "two counters are of one identity"


async def test_wait_for_another_process_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While another process converts the file, the first use waits and says so once; after ten minutes it fails."""
    old_file(tmp_path / "s.db", 3)
    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) > 20_000:
            raise AssertionError("it waits for ever")

    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock(NOW + 10.0), sleep=sleep)
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(
        StoreDown, match="another process converts the file from the format of an earlier version; wait"
    ):
        await store.ping()
    assert 600 <= sum(waits) < 601
    (line,) = caplog.records
    assert line.getMessage().endswith("wait until that is done (at most 600 seconds)")
    other.close()
    waits.clear()
    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock(NOW + 10.0))
    await store.ping()
    assert await used(store, DAY) == 650
    await store.aclose()
