"""A store whose counters can be corrected, for tests of the commands that do so."""

from __future__ import annotations

from collections.abc import Sequence

from policies.api.claim import Claim
from policies.api.store import Standing, StoreDown
from policies.stores.memory import MemoryStore
from policies.testing import FakeClock


class CorrectableMemory(MemoryStore):
    """Keeps the notes of corrections; raises `StoreDown` instead of the one with the number *failing*, counted from 0."""

    def __init__(self, now: float) -> None:
        super().__init__(clock=FakeClock(now))
        self.notes: list[str] = []
        self.failing: int | None = None
        self.taken = False

    async def correct(self, claims: Sequence[Claim], amount: int | None, note: str) -> Sequence[Standing]:
        if self.failing == len(self.notes):
            raise StoreDown("127.0.0.1:1/0: no answer", taken=self.taken)
        self.notes.append(note)
        return await super().correct(claims, amount, note)
