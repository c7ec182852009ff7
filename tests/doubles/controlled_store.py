"""A store over a link whose answers a test gives one by one, or all at once as one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, TypeAlias, TypeVar

from losing_store import LosingStore

from policies.api.claim import Claim
from policies.api.store import Grant, StoreDown

Answer: TypeAlias = Literal["answered", "lost", "down", "broken"]
"""What happens to an operation: executed, executed without an answer, not executed, or refused by an error of its own."""

ResultT = TypeVar("ResultT")
ITERATIONS = 12
"""Event-loop iterations in which everything has run that waits for no answer."""


class ControlledStore(LosingStore):
    """Each operation waits in `waiting`, under a name such as `settle 1`, until it is answered.

    One whose caller is cancelled is executed all the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[str, asyncio.Future[Answer]]] = []
        self.is_instant = True
        """Whether operations are answered without waiting."""

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        granted = super().reserve
        return await self._travel(f"reserve {call_id}", lambda: granted(call_id, claims, ceiling, part))

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> bool:
        settled = super().settle
        return await self._travel(f"settle {call_id}", lambda: settled(call_id, charges, refund=refund))

    async def release(self, call_id: str) -> None:
        released = super().release
        await self._travel(f"release {call_id}", lambda: released(call_id))

    async def _travel(self, name: str, execute: Callable[[], Awaitable[ResultT]]) -> ResultT:
        if self.is_instant:
            return await execute()
        assert name not in [each for each, _ in self.waiting], "nothing is sent twice at once"
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.waiting.append((name, answer))
        try:
            how = await answer
        except asyncio.CancelledError:
            await execute()
            raise
        finally:
            self.waiting.remove((name, answer))
        if how == "down":
            raise StoreDown("down")
        if how == "broken":
            raise ValueError("broken")
        result = await execute()
        if how == "lost":
            raise StoreDown("timeout", taken=True)
        return result

    async def answer(self, at: int = 0, how: Answer = "answered") -> str:
        """Answer the operation number *at* of those that wait, and return its name; empty if none waits."""
        await settled_down()
        if not self.waiting:
            return ""
        name, answer = self.waiting[at % len(self.waiting)]
        answer.set_result(how)
        await settled_down()
        return name

    async def round_trip(self, how: Answer = "answered") -> list[str]:
        """Answer all operations that wait, and return their names."""
        await settled_down()
        names = [name for name, _ in self.waiting]
        for _, answer in list(self.waiting):
            answer.set_result(how)
        await settled_down()
        return names


async def settled_down() -> None:
    """Let everything run that waits for no answer."""
    for _ in range(ITERATIONS):
        await asyncio.sleep(0)
