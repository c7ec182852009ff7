"""A store in memory that fails while a test says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from policies import Claim, Grant
from policies.stores.memory import MemoryStore


class FailingStore(MemoryStore):
    """Raises *failure*, while it is set, from each reservation, settlement and release."""

    failure: BaseException | None = None

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        self._fail()
        return await super().reserve(call_id, claims, ceiling, part)

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
        self._fail()
        await super().settle(call_id, charges, refund=refund)

    async def release(self, call_id: str) -> None:
        self._fail()
        await super().release(call_id)

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure
