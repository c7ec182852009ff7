"""The SQLite file itself: who opens it, who else writes to it, and what is read again then."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from policies.stores.sqlite import SQLiteStore
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio


async def test_a_new_file_is_begun_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the processes that find a new file at once, those that come second wait; SQLite itself would not."""
    first = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    first.execute("BEGIN IMMEDIATE")
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            first.close()

    monkeypatch.setattr(time, "sleep", nap)
    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock())
    await store.ping()
    await store.aclose()
    assert len(naps) == 3
