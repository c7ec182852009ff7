"""Bound how often the usage is read, and how many requests read it at a time, so that they cannot delay calls."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from sidecar.downstream.client_errors import ClientError, overloaded
from sidecar.downstream.request import RequestRefused

READS_PER_SECOND, READ_BURST = 100, 200
"""Reads of one tenant in each process: so many a second, after so many at once."""
MAX_READ_WAIT_SECONDS = 1.0
"""Longest wait for a turn; a tenant that would wait for longer is refused."""
MAX_CONCURRENT_READS, MAX_QUEUED_READS = 8, 64
"""Reads that wait for a remote store at the same time, and those that wait behind them; of one process."""


class ReadPace:
    """Gives turns to read the store. Requests beyond a tenant's pace wait; those beyond `MAX_READ_WAIT_SECONDS` get 429.

    There is one entry for each tenant, and tenants come from the configuration.
    """

    def __init__(self, monotonic: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        self._monotonic, self._sleep = monotonic, sleep
        self._next_turns: dict[str, float] = {}
        self._reading = asyncio.Semaphore(MAX_CONCURRENT_READS)
        self._queued = 0

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a turn of *tenant*, and hold it while the block runs. Raises `RequestRefused`."""
        if (wait := self._take_turn(tenant)) > 0:
            await self._sleep(wait)
        if self._queued >= MAX_QUEUED_READS:
            raise RequestRefused(overloaded("Too many requests for usage wait for the store. Try again later."))
        self._queued += 1
        try:
            await self._reading.acquire()
        finally:
            self._queued -= 1
        try:
            yield
        finally:
            self._reading.release()

    def _take_turn(self, tenant: str) -> float:
        """Return the seconds until the next turn of *tenant*, 0 or less for now; it is taken unless that is too long."""
        now, interval = self._monotonic(), 1 / READS_PER_SECOND
        turn = max(self._next_turns.get(tenant, -math.inf), now - READ_BURST * interval)
        wait = turn - now
        if wait > MAX_READ_WAIT_SECONDS:
            raise RequestRefused(too_many_reads(wait))
        self._next_turns[tenant] = turn + interval
        return wait


def too_many_reads(wait: float) -> ClientError:
    """Return the 429 for a tenant that asks for its usage too often; it can retry after *wait* seconds."""
    return ClientError(
        status=429,
        code="rate_limit_exceeded",
        message=f"Usage is asked for too often: {READS_PER_SECOND} requests a second are answered.",
        kind="requests",
        retryable=True,
        final=False,
        wait=wait,
    )
