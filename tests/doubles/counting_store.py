"""A store in memory that logs its operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio

from policies import Claim, Grant
from policies.api.services import Services
from policies.stores.memory import MemoryStore
from policies.testing import FakeClock, make_services


class CountingStore(MemoryStore):
    """A remote store that logs its operations, and gives up the event loop in `settle`."""

    is_remote = True

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.steps: list[str] = []

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        self.steps.append(f"reserve {len(claims)}")
        return await super().reserve(call_id, claims, ceiling, part)

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
        await anyio.lowlevel.checkpoint()
        self.steps.append("settle")
        await super().settle(call_id, charges, refund=refund)

    async def release(self, call_id: str) -> None:
        self.steps.append("release")
        await super().release(call_id)


def services_with_counting_store() -> tuple[Services, CountingStore]:
    """Return services over a store that logs its operations, and that store."""
    clock = FakeClock()
    store = CountingStore(clock)
    return make_services(clock=clock, store=store), store
