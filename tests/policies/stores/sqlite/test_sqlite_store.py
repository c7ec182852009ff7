"""What the SQLite store guarantees beyond the contract: restarts, crashes, several processes, and files that it cannot use."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from claims import DAY_SECONDS, budget, rate, reserve, totals
from stored import counters_in_file, query

from policies.api.store import StoreDown
from policies.stores.sqlite.store import SQLiteStore
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio


async def test_restart_keeps_all_counters(tmp_path: Path, clock: FakeClock) -> None:
    """A file that is opened again has all counters, those of sliding windows too."""
    for call in range(3):
        store = SQLiteStore(tmp_path / "s.db", clock=clock)
        assert (await reserve(store, f"{call}", rate(3), budget(100, 20))).refused is None
        await store.settle(f"{call}", {budget(1).key: 20})
        await store.aclose()
    store = SQLiteStore(tmp_path / "s.db", clock=clock)
    assert await totals(store) == [(60, 0)]
    assert (await reserve(store, "x", rate(3))).refused == 0
    await store.aclose()


async def test_reservations_of_a_dead_process_are_charged(tmp_path: Path, clock: FakeClock) -> None:
    """Reservations of a process without a heartbeat are charged in full after the grace; its late settlement corrects that."""
    dead = SQLiteStore(tmp_path / "s.db", clock=clock)
    await reserve(dead, "1", budget(100, 40))
    await reserve(dead, "1", budget(100, 5), part=1)
    await dead.aclose()
    living = SQLiteStore(tmp_path / "s.db", clock=clock)
    await reserve(living, "2", budget(100, 10))
    clock.advance(29)
    await living.heartbeat()
    assert await totals(living) == [(0, 55)]
    clock.advance(2)
    assert await totals(living) == [(45, 10)]
    assert await living.settle("2", {budget(1).key: 1}) is True
    assert await living.settle("1", {budget(1).key: 7}) is True
    assert await totals(living) == [(8, 0)]
    assert await living.settle("1", {budget(1).key: 7}) is False
    await living.aclose()


async def test_reservations_with_many_parts_are_charged_in_short_steps(tmp_path: Path, clock: FakeClock) -> None:
    """One transaction charges 100 parts, not 100 calls: the reservation of a long stream has many parts."""
    dead = SQLiteStore(tmp_path / "s.db", clock=clock)
    for call in range(8):
        for part in range(40):
            await reserve(dead, f"{call}", budget(1_000, 1), part=part)
    await dead.aclose()
    clock.advance(31)
    living = SQLiteStore(tmp_path / "s.db", clock=clock)
    charged = []
    for _ in range(5):
        await living.heartbeat()
        charged.append(sum(row.spent for _, row in counters_in_file(tmp_path / "s.db")))
    assert charged == [80, 160, 240, 320, 320]
    await living.aclose()


async def test_charged_reservation_is_kept_for_a_day(tmp_path: Path, clock: FakeClock) -> None:
    """A reservation that was charged is forgotten after a day; the store goes on, and a later settlement finds nothing."""
    dead, living = (SQLiteStore(tmp_path / "s.db", clock=clock) for _ in range(2))
    await reserve(dead, "1", budget(100, 40, window="month"))
    clock.advance(31)
    await living.heartbeat()
    clock.advance(DAY_SECONDS - 60)
    await living.heartbeat()
    assert query(tmp_path / "s.db", "SELECT call FROM charged") == [("1",)]
    clock.advance(61)
    await living.heartbeat()
    assert query(tmp_path / "s.db", "SELECT call FROM charged") == []
    assert await living.settle("1", {budget(1, window="month").key: 7}) is False
    assert await totals(living) == [(40, 0)]
    await living.aclose()
    await dead.aclose()


@pytest.mark.parametrize(("parts", "charged_again"), [(300, 0), (2, 2)], ids=["long", "charged twice"])
async def test_charged_reservation_is_forgotten_as_a_whole(
    tmp_path: Path, clock: FakeClock, parts: int, charged_again: int
) -> None:
    """After a day no part of a charged reservation is left, which a settlement would take for all of it and charge twice.

    That holds for one of more parts than are removed at once, and for one that was charged twice, as its process stopped twice.
    """
    suspended, living = (SQLiteStore(tmp_path / "s.db", clock=clock) for _ in range(2))
    for part in range(parts):
        await reserve(suspended, "1", budget(10_000, 10, window="month"), part=part)
    clock.advance(31)
    await living.heartbeat()
    for part in range(parts, parts + charged_again):
        await reserve(suspended, "1", budget(10_000, 10, window="month"), part=part)
    clock.advance(31)
    await living.heartbeat()
    clock.advance(DAY_SECONDS - 60)
    await living.heartbeat()
    reserved = 10 * (parts + charged_again)
    assert await suspended.settle("1", {budget(1, window="month").key: reserved}) is False
    assert await totals(living) == [(reserved, 0)]
    await living.aclose()
    await suspended.aclose()


async def test_charged_parts_of_a_call_that_goes_on_are_kept(tmp_path: Path, clock: FakeClock) -> None:
    """A call that took more after it was charged, and runs for a day, settles all that it took, not the later part alone."""
    suspended, living = (SQLiteStore(tmp_path / "s.db", clock=clock) for _ in range(2))
    await reserve(suspended, "1", budget(1_000, 40, window="month"))
    clock.advance(31)
    await living.heartbeat()
    await reserve(suspended, "1", budget(1_000, 10, window="month"), part=1)
    for _ in range(2):
        clock.advance(DAY_SECONDS)
        await suspended.heartbeat()
        await living.heartbeat()
    assert await suspended.settle("1", {budget(1, window="month").key: 45}) is True
    assert await totals(living) == [(45, 0)]
    assert query(tmp_path / "s.db", "SELECT call FROM charged") == []
    await living.aclose()
    await suspended.aclose()


async def test_unusable_file_is_an_error_with_the_remedy(tmp_path: Path, clock: FakeClock) -> None:
    """A file of another kind or version, and a missing folder, are errors that name the remedy."""
    (tmp_path / "text.db").write_text("hello " * 1000)
    with pytest.raises(StoreDown, match="not a database; name another file"):
        await SQLiteStore(tmp_path / "text.db", clock=clock).ping()
    with pytest.raises(StoreDown, match="make the folder .*nowhere first"):
        await SQLiteStore(tmp_path / "nowhere" / "x.db", clock=clock).ping()
    file = sqlite3.connect(tmp_path / "other.db")
    file.execute("CREATE TABLE theirs (x)")
    file.close()
    with pytest.raises(StoreDown, match="holds the tables of another program; name another file"):
        await SQLiteStore(tmp_path / "other.db", clock=clock).ping()
    file = sqlite3.connect(tmp_path / "old.db")
    file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(StoreDown, match=r"another version \(99, this one reads 4\)"):
        await SQLiteStore(tmp_path / "old.db", clock=clock).ping()


async def test_file_is_opened_again_after_an_error(tmp_path: Path, clock: FakeClock) -> None:
    """Half a second after an error the next operation opens the file again; no restart is needed."""
    monotonic = FakeClock()
    store = SQLiteStore(tmp_path / "sub" / "s.db", clock=clock, monotonic=monotonic)
    with pytest.raises(StoreDown):
        await reserve(store, "1", budget(100))
    (tmp_path / "sub").mkdir()
    with pytest.raises(StoreDown):
        await reserve(store, "1", budget(100))
    monotonic.advance(0.5)
    assert (await reserve(store, "1", budget(100))).refused is None
    await store.aclose()


async def test_deleted_file_is_replaced_by_the_one_at_its_path(tmp_path: Path, clock: FakeClock) -> None:
    """After the file was deleted or moved, all processes count in the file that is at its path now."""
    first, second = SQLiteStore(tmp_path / "s.db", clock=clock), SQLiteStore(tmp_path / "s.db", clock=clock)
    await reserve(first, "1", budget(100, 90))
    for each in tmp_path.glob("s.db*"):
        each.unlink()
    assert (await reserve(second, "2", budget(100, 90))).refused is None
    await first.heartbeat()
    assert (await reserve(first, "3", budget(100, 90))).refused == 0
    await first.aclose()
    await second.aclose()


HAMMER = """
import asyncio, sys
from pathlib import Path
from policies.stores.sqlite.store import SQLiteStore
from policies.api.claim import Claim
from policies.api.window import Calendar
import time

async def main():
    store = SQLiteStore(Path(sys.argv[1]), clock=time.time)
    claim = Claim(policy="b", identity="t", unit="tokens", limit=500, window=Calendar("month"), base=2)
    passed = 0
    for at in range(300):
        call = f"{sys.argv[2]}-{at}"
        if (await store.reserve(call, [claim])).refused is None:
            passed += 1
            await store.settle(call, {claim.key: 1})
    print(passed)
    await store.aclose()

asyncio.run(main())
"""


async def test_notes_in_a_new_file_are_logged(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A process whose file was replaced logs the notes of corrections in the new one, which counts them anew."""
    one, other = (SQLiteStore(tmp_path / "s.db", clock=clock) for _ in range(2))
    await one.heartbeat()
    for note in ("a", "b"):
        await other.correct([budget(100, 0)], 5, note)
    await one.heartbeat()
    for each in tmp_path.glob("s.db*"):
        each.unlink()
    await other.heartbeat()
    await other.correct([budget(100, 0)], 5, "c")
    await one.heartbeat()
    await one.heartbeat()
    own = [each.getMessage() for each in caplog.records if each.getMessage() in ("a", "b", "c")]
    assert own == ["a", "b", "c"]
    await one.aclose()
    await other.aclose()


async def test_processes_share_the_limits_of_a_file(tmp_path: Path, clock: FakeClock) -> None:
    """Processes that share a file share its limits: together they spend the budget, and no token more."""
    command = [sys.executable, "-c", HAMMER, str(tmp_path / "s.db")]
    running = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "abc"]
    passed = [int(process.communicate(timeout=60)[0]) for process in running]
    store = SQLiteStore(tmp_path / "s.db", clock=time.time)

    assert sum(passed) == 499
    assert await totals(store) == [(499, 0)]
    await store.aclose()
