"""The mode of the SQLite file and its journals: only the owner may read them, whatever the umask."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from claims import budget

from policies.api.store import StoreDown
from policies.stores.sqlite.file_mode import create_private, open_to_others
from policies.stores.sqlite.store import SQLiteStore
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio

UMASKS = pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777], ids=oct)


@contextmanager
def with_umask(mask: int) -> Iterator[None]:
    """Set the umask of the process while the block lasts."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    """Return the mode of each file in *folder*, by name."""
    return {path.name: f"{stat.S_IMODE(path.stat().st_mode):04o}" for path in folder.iterdir()}


@UMASKS
async def test_new_files_are_private(tmp_path: Path, clock: FakeClock, umask: int) -> None:
    """The database, its WAL and its shared memory have the mode 0600, whatever the umask."""
    with with_umask(umask):
        store = SQLiteStore(tmp_path / "s.db", clock=clock)
        await store.reserve("a", [budget(100)])

    assert modes(tmp_path) == dict.fromkeys(("s.db", "s.db-wal", "s.db-shm"), "0600")
    await store.aclose()


def test_rollback_journal_is_private(tmp_path: Path) -> None:
    """A rollback journal, which SQLite writes while it changes the kind of journal, has the mode of the database."""
    with with_umask(0):
        create_private(tmp_path / "s.db")
        file = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
        file.execute("CREATE TABLE a (b)")
        file.execute("BEGIN IMMEDIATE")
        file.execute("INSERT INTO a VALUES (1)")

    assert modes(tmp_path) == dict.fromkeys(("s.db", "s.db-journal"), "0600")
    file.close()


async def test_file_that_is_created_again_is_private(tmp_path: Path, clock: FakeClock) -> None:
    """A database that was deleted while it was open is created anew with the mode 0600."""
    with with_umask(0):
        store = SQLiteStore(tmp_path / "s.db", clock=clock)
        await store.reserve("a", [budget(100)])
        for each in tmp_path.iterdir():
            each.unlink()
        await store.heartbeat()
        await store.reserve("b", [budget(100)])

    assert set(modes(tmp_path).values()) == {"0600"}
    await store.aclose()


async def test_mode_of_an_existing_file_is_kept(tmp_path: Path, clock: FakeClock) -> None:
    """An existing database keeps its mode, and its journals get the same; all three are reported."""
    path = tmp_path / "s.db"
    path.touch()
    path.chmod(0o640)
    with with_umask(0):
        store = SQLiteStore(path, clock=clock)
        await store.reserve("a", [budget(100)])

    assert set(modes(tmp_path).values()) == {"0640"}
    assert open_to_others(path) == [f"{path}{suffix} (mode 0640)" for suffix in ("", "-wal", "-shm")]
    await store.aclose()


async def test_link_to_a_missing_file_creates_a_private_one(tmp_path: Path, clock: FakeClock) -> None:
    """A symbolic link to a file that does not exist yet is followed."""
    (tmp_path / "data").mkdir()
    (tmp_path / "s.db").symlink_to(tmp_path / "data" / "real.db")
    with with_umask(0):
        store = SQLiteStore(tmp_path / "s.db", clock=clock)
        await store.reserve("a", [budget(100)])

    assert set(modes(tmp_path / "data").values()) == {"0600"}
    await store.aclose()


async def test_missing_folder_is_not_created(tmp_path: Path, clock: FakeClock) -> None:
    """The folder of the file is never created, so it has no mode that was not chosen; the error says what to do."""
    store = SQLiteStore(tmp_path / "missing" / "s.db", clock=clock)
    with pytest.raises(StoreDown, match="make the folder .*missing first"):
        await store.reserve("a", [budget(100)])

    assert list(tmp_path.iterdir()) == []
    await store.aclose()


def test_private_files_are_not_reported(tmp_path: Path) -> None:
    """Files with the mode 0600, and files that do not exist, are not reported."""
    create_private(tmp_path / "s.db")

    assert open_to_others(tmp_path / "s.db") == []
    assert open_to_others(tmp_path / "missing.db") == []
