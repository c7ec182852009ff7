"""A SQLite store in which two calls are running, so that further operations are committed together."""

from __future__ import annotations

import asyncio
from pathlib import Path

from claims import rate, totals
from stored import CommittedTransactions

from policies.stores.sqlite.store import SQLiteStore
from policies.testing import FakeClock

RATE = rate(100_000)


class BusyStore:
    """The store, the path of its file, and the transactions that it commits."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "s.db"
        self.monotonic = FakeClock()
        self.store = SQLiteStore(self.path, clock=FakeClock(), monotonic=self.monotonic, patience=0.05)

    async def begin(self) -> None:
        """Start two calls, and make the store queue operations."""
        for name in ("running", "running too"):
            await self.store.reserve(name, [RATE])
        await self.come_together()
        self.transactions = CommittedTransactions(self.path)

    async def come_together(self) -> None:
        """Execute operations at the same moment, so that the store queues the next ones."""
        await asyncio.gather(*[self.store.release("unknown") for _ in range(200)])

    async def share(self) -> SQLiteStore:
        """Open the file as another process does; both stores notice it at their heartbeat."""
        other = SQLiteStore(self.path, clock=FakeClock())
        await other.heartbeat()
        await self.store.heartbeat()
        return other

    async def totals(self) -> list[tuple[int, int]]:
        """Return what is spent and reserved of each open calendar counter."""
        return await totals(self.store)
