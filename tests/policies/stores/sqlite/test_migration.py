"""Files of earlier versions are converted: what is spent stays spent. A file that an earlier version uses is left alone."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from claims import budget, chosen_by_client, rate, reserve, totals
from stored import query

from policies.api.claim import Claim
from policies.api.store import StoreDown
from policies.stores.opening import open_store
from policies.stores.sqlite.store import SQLiteStore
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio

SCHEMAS = Path(__file__).parent / "schemas"
DAY_SECONDS = 86_400
NOW = 1_799_971_200  # midnight
MICROSECONDS = 1_000_000
DAY, RATE, USER = budget(1_000), rate(10), chosen_by_client("u1", limit=1_000)


def old_file(path: Path, version: int) -> None:
    """Write a file as *version* of the program left it: 600 spent, 50 reserved, 7 requests in the last minute."""
    file = sqlite3.connect(path)
    file.executescript((SCHEMAS / f"version_{version}.sql").read_text())
    scale = 1 if version == 1 else MICROSECONDS
    start, ends = NOW * scale, (NOW + DAY_SECONDS) * scale
    group = f"{USER.group_key}:{start}"
    if version == 1:
        file.execute("INSERT INTO counter VALUES (?, ?, ?, 600, 50)", (DAY.key, start, ends))
        file.execute("INSERT INTO slide VALUES (?, 7, ?, 60)", (RATE.key, NOW + 5))
        file.execute("INSERT INTO taking (key, first, last, amount) VALUES (?, ?, ?, 7)", (RATE.key, NOW, NOW + 5))
    elif version == 2:
        file.execute("INSERT INTO counter VALUES (?, ?, ?, 600, 50, 0, NULL)", (DAY.key, start, ends))
        file.execute("INSERT INTO counter VALUES (?, ?, ?, 3, 0, 0, ?)", (USER.key, start, ends, group))
        sliding = (RATE.key, (NOW + 65) * scale, (NOW + 5) * scale)
        file.execute("INSERT INTO counter VALUES (?, -1, ?, 7, 0, ?, NULL)", sliding)
    else:
        file.execute("INSERT INTO counter VALUES (?, ?, ?, 600, 50, 0, x'', x'', NULL)", (DAY.key, start, ends))
        file.execute("INSERT INTO counter VALUES (?, ?, ?, 3, 0, 0, x'', x'', ?)", (USER.key, start, ends, group))
        sliding = (RATE.key, (NOW + 65) * scale, (NOW + 5) * scale)
        file.execute("INSERT INTO counter VALUES (?, -1, ?, 7, 0, ?, x'', x'', NULL)", sliding)
        file.execute("INSERT INTO crowd VALUES (?, 1)", (group,))
    file.execute("INSERT INTO hold VALUES ('c', 0, 1, 0, x'')")
    file.execute(f"PRAGMA user_version = {version}")
    file.commit()
    assert file.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    file.close()


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
    file.execute("CREATE TABLE removal (theirs)")  # a name that this version uses
    file.close()
    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock(NOW + 10.0))
    with pytest.raises(StoreDown):
        await store.ping()
    await store.aclose()
    assert query(tmp_path / "s.db", "SELECT spent FROM counter WHERE spent = 600") == [(600,)]
    assert query(tmp_path / "s.db", "PRAGMA user_version") == [(3,)]
