"""Concurrent callers of a store while its servers fail: they repeat each operation until the store takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from policies.api.claim import Claim
from policies.api.store import Store, StoreDown
from policies.api.window import Calendar

Result = TypeVar("Result")
RESERVED, CHARGED = 10, 7
"""Tokens that each call reserves, and that it is charged."""
BUDGET = Claim(policy="b", identity="t", unit="tokens", limit=10**9, window=Calendar("month"), base=RESERVED)
MAX_ATTEMPTS, ATTEMPT_PAUSE_SECONDS = 1_200, 0.05
"""A minute and more: servers may give up an election and begin another one."""
CALLERS = 8


async def until_taken(operation: Callable[[], Awaitable[Result]]) -> Result:
    """Repeat *operation* while the store is down, at most `MAX_ATTEMPTS` times."""
    for _ in range(MAX_ATTEMPTS):
        try:
            return await operation()
        except StoreDown as error:
            last = error
            await asyncio.sleep(ATTEMPT_PAUSE_SECONDS)
    raise AssertionError(f"the store stays down: {last}")


class Callers:
    """Callers of *store*, each with one call at a time."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.admitted = self.settled = 0
        self.loop = asyncio.get_running_loop()
        self.tasks = [asyncio.create_task(self._run(str(at))) for at in range(CALLERS)]
        self._ending = False

    async def _run(self, name: str) -> None:
        number = 0
        while not self._ending:
            number += 1
            call_id = f"{name}-{number}"
            grant = await until_taken(lambda call_id=call_id: self.store.reserve(call_id, [BUDGET]))  # type: ignore[misc]  # the type of a lambda
            assert grant.refused is None
            self.admitted += 1
            await until_taken(lambda call_id=call_id: self.store.settle(call_id, {BUDGET.key: CHARGED}))  # type: ignore[misc]  # as above
            self.settled += 1

    async def more(self, count: int = CALLERS + 1) -> None:
        """Wait until *count* more calls are settled: one of them has begun after this call."""
        until = self.settled + count
        for _ in range(MAX_ATTEMPTS):
            if self.settled >= until:
                return
            for task in self.tasks:
                if task.done():
                    task.result()  # raises its failure
            await asyncio.sleep(ATTEMPT_PAUSE_SECONDS)
        raise AssertionError(f"the store takes no more calls: {self.settled} are settled instead of {until}")

    def wait_for_more(self) -> None:
        """Do what `more` does, in another thread than that of the event loop."""
        asyncio.run_coroutine_threadsafe(self.more(), self.loop).result()

    def end(self) -> None:
        """Start no more calls."""
        self._ending = True


@asynccontextmanager
async def calling(store: Store) -> AsyncIterator[Callers]:
    """Run `CALLERS` callers of *store* during the block, and check the counter at its end: each call is charged once."""
    callers = Callers(store)
    try:
        await callers.more()
        yield callers
        callers.end()
        await asyncio.gather(*callers.tasks)
        (account,) = await until_taken(store.accounts)
        found, expected = (account.spent, account.reserved), (CHARGED * callers.settled, 0)
        assert found == expected, f"(spent, reserved) is {found} and should be {expected}"
    finally:
        for task in callers.tasks:
            task.cancel()
        await asyncio.gather(*callers.tasks, return_exceptions=True)
