"""Checkpoints of the WAL: when it is restarted, and how large it becomes while many counters are removed."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
import pytest
from claims import budget
from stored import query

from policies.stores.sqlite import checkpoints, database
from policies.stores.sqlite import store as sqlite_store
from policies.stores.sqlite.checkpoints import MAX_PASSES, MAX_WAL_PAGES, is_all_moved
from policies.stores.sqlite.store import MAX_TIDYING_WAL_BYTES, SQLiteStore
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio

POLICIES, IDENTITIES = 20, 700
MOST_BYTES, STEP_BYTES = MAX_TIDYING_WAL_BYTES // 8, 1_000_000
"""More than one step of the removal writes."""
POLLS = 5_000


class ScriptedFile:
    """A connection whose passive checkpoints find these numbers of pages, and move all of them."""

    def __init__(self, pages: Iterator[int]) -> None:
        self._pages = pages
        self.passes = 0

    def execute(self, _: str) -> ScriptedFile:
        self.passes += 1
        return self

    def fetchone(self) -> tuple[int, int, int]:
        pages = next(self._pages)
        return 0, pages, pages


@pytest.mark.parametrize(
    ("pages", "passes", "is_restarted"),
    [
        (iter([9, 9]), 2, True),
        (iter([9, 12, 13, 13]), 4, True),
        (itertools.count(9), MAX_PASSES, False),
        (itertools.count(MAX_WAL_PAGES), MAX_PASSES, True),
    ],
    ids=["nothing is written", "some is written", "much is written", "much is written to a large WAL"],
)
def test_restart_waits_for_a_pause(pages: Iterator[int], passes: int, *, is_restarted: bool) -> None:
    """The WAL is restarted when nothing was written during a pass: then the restart needs no `fsync` with the lock held.

    A pass tells how many pages there were at its beginning, so only the next one shows what was written meanwhile.
    """
    file = ScriptedFile(pages)
    assert is_all_moved(cast("sqlite3.Connection", file)) == is_restarted
    assert file.passes == passes


async def test_removal_of_many_counters_keeps_the_journal_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While many expired counters are removed, the WAL stays within its bound: the removal pauses until it is restarted.

    The bounds are an eighth of the real ones, so that fewer counters show it.
    """
    for module in (checkpoints, database):
        monkeypatch.setattr(module, "MAX_JOURNAL_BYTES", MOST_BYTES // 2)
    monkeypatch.setattr(checkpoints, "MAX_WAL_PAGES", MAX_WAL_PAGES // 8)
    monkeypatch.setattr(sqlite_store, "MAX_TIDYING_WAL_BYTES", MOST_BYTES)
    clock, wal = FakeClock(), tmp_path / "s.db-wal"
    store = SQLiteStore(tmp_path / "s.db", clock=clock, resident=True)
    base = budget(10**9, 1, window="minute")
    for at in range(IDENTITIES):
        claims = [msgspec.structs.replace(base, policy=f"p{n}", identity=f"tenant {at}") for n in range(POLICIES)]
        await store.reserve(f"{at}", claims)
        await store.settle(f"{at}", {})
    await store.aclose()  # which removes the WAL
    store = SQLiteStore(tmp_path / "s.db", clock=clock, resident=True)
    clock.advance(5 * 86_400)
    largest, left = 0, -1
    for at in range(POLLS):
        clock.advance(0.02)  # the time after which a backlog is continued
        await store.reserve("later", [budget(10**9, 0)], part=0)
        await asyncio.sleep(0.001)  # the checkpoint's thread needs a moment, as between network reads
        largest = max(largest, wal.stat().st_size)
        if at % 50 == 0:
            ((left,),) = query(tmp_path / "s.db", "SELECT count(*) FROM counter")
            if left <= 1:
                break
    await store.aclose()
    assert left <= 1, "all but the counter of the last call are removed"
    assert largest < MOST_BYTES + STEP_BYTES, "it would have 15 MB"
