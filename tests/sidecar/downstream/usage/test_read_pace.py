"""The pace of store reads for `GET /v1/usage`."""

from __future__ import annotations

import asyncio

import pytest

from policies.testing import FakeClock
from sidecar.downstream.request import RequestRefused
from sidecar.downstream.usage.read_pace import (
    MAX_CONCURRENT_READS,
    MAX_QUEUED_READS,
    MAX_READ_WAIT_SECONDS,
    READ_BURST,
    READS_PER_SECOND,
    ReadPace,
)

pytestmark = pytest.mark.anyio


async def test_burst_is_read_without_waiting() -> None:
    """A tenant gets a burst at once, then turns at its pace; after a pause it has a burst again."""
    clock = FakeClock()
    pace = ReadPace(clock, clock.sleep)
    for _ in range(READ_BURST + 1):
        async with pace.turn("acme"):
            pass
    assert clock.slept == []
    for _ in range(50):
        async with pace.turn("acme"):
            pass
    assert clock.slept == pytest.approx([1 / READS_PER_SECOND] * 50, rel=0.01)
    clock.advance(3600)
    for _ in range(READ_BURST):
        async with pace.turn("acme"):
            pass
    assert len(clock.slept) == 50


async def test_tenant_beyond_its_pace_is_refused() -> None:
    """A tenant whose wait would be too long gets 429 with the wait; another tenant is not affected."""
    clock = FakeClock()
    waits: list[float] = []

    async def never(seconds: float) -> None:
        waits.append(seconds)

    pace = ReadPace(clock, never)
    most = READ_BURST + 1 + round(READS_PER_SECOND * MAX_READ_WAIT_SECONDS)
    refused = []
    for _ in range(most + 50):
        try:
            async with pace.turn("acme"):
                pass
        except RequestRefused as refusal:
            refused.append(refusal.error)
    assert abs(len(refused) - 50) <= 1
    assert max(waits) <= MAX_READ_WAIT_SECONDS
    assert {(each.status, each.code, each.final) for each in refused} == {(429, "rate_limit_exceeded", False)}
    assert all(each.wait is not None and each.wait > MAX_READ_WAIT_SECONDS for each in refused)
    async with pace.turn("zeta"):
        pass


async def test_concurrent_reads_are_bounded() -> None:
    """At most so many reads wait for the store at a time, so many behind them, and further ones are refused."""
    clock, may_end = FakeClock(), asyncio.Event()
    pace = ReadPace(clock, clock.sleep)
    running = most = 0

    async def read(tenant: str) -> int:
        nonlocal running, most
        try:
            async with pace.turn(tenant):
                running += 1
                most = max(most, running)
                await may_end.wait()
                running -= 1
        except RequestRefused as refusal:
            return refusal.error.status
        return 200

    tasks = [asyncio.create_task(read(f"{at}")) for at in range(MAX_CONCURRENT_READS + MAX_QUEUED_READS + 5)]
    for _ in range(10):
        await asyncio.sleep(0)
    may_end.set()
    statuses = await asyncio.gather(*tasks)
    assert most == MAX_CONCURRENT_READS
    assert (statuses.count(200), statuses.count(503)) == (MAX_CONCURRENT_READS + MAX_QUEUED_READS, 5)


async def test_cancelled_read_returns_its_place() -> None:
    """A request that is cancelled while it waits or reads leaves its place to others."""
    clock, may_end = FakeClock(), asyncio.Event()
    pace = ReadPace(clock, clock.sleep)

    async def read(at: int) -> None:
        async with pace.turn(f"{at}"):
            await may_end.wait()

    for _ in range(3):
        tasks = [asyncio.create_task(read(at)) for at in range(MAX_CONCURRENT_READS + MAX_QUEUED_READS)]
        for _ in range(5):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    may_end.set()
    await read(0)
