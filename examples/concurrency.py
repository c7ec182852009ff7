"""A policy with a queue: at most `limit` calls run at once in this process; further calls wait in order."""

import asyncio

from policies import Call, Lease, Outcome, Policy, Rejection, RunningPolicy, Services


class Concurrency(Policy, frozen=True):
    limit: int
    queue: int = 100

    def start(self, services: Services) -> RunningPolicy:
        return Slots(self.limit, self.queue)


class Slots(RunningPolicy):
    """Shared by all profiles and keys of the process, so that `limit` applies to them together."""

    def __init__(self, limit: int, queue: int) -> None:
        self._slots, self._queue, self._waiting = asyncio.Semaphore(limit), queue, 0

    async def enter(self, call: Call) -> Lease:
        if self._slots.locked() and self._waiting >= self._queue:
            raise Rejection(503, "queue_full", "Too many calls are waiting. Please try again soon.", retry_after=1.0)
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        return Slot(self._slots)


class Slot(Lease):
    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots

    async def settle(self, outcome: Outcome) -> None:
        self._slots.release()
