"""A process that was suspended for longer than the grace period: its calls settle correctly when it wakes.

Two stores on one file or server are two processes. One of them sends no heartbeat for 33 seconds; the other one charges the
reservations of the first, and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from claims import budget, rate, totals
from growing import PROMPT, Gate, running
from growing import budget as growing_budget
from redis_server import with_own_prefix

from policies.api.store import CorrectableStore, Store
from policies.stores.opening import open_store
from policies.testing import FakeClock, make_call, make_services

pytestmark = pytest.mark.anyio

SUSPENDED_SECONDS = 33.0
CALLS, PROMPT_TOKENS, CEILING, USED = 144, 124, 2_048, 20
"""Calls that reserve 312,768 tokens in all, and use 2,880."""
LIMIT = 1_000_000


class TwoProcesses:
    """The store of a process that is suspended, and that of another one."""

    def __init__(self, suspended: Store, other: Store, clock: FakeClock) -> None:
        self.suspended, self.other, self._clock = suspended, other, clock

    async def suspend(self) -> None:
        """Let 33 seconds pass in which only the other process sends heartbeats."""
        for _ in range(int(SUSPENDED_SECONDS)):
            self._clock.advance(1.0)
            await self.other.heartbeat()

    async def totals(self) -> list[tuple[int, int]]:
        """Return what is spent and reserved of each open calendar counter, as the other process sees it."""
        return await totals(self.other)


@pytest.fixture(params=["sqlite", "redis"])
async def both(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[TwoProcesses]:
    """Give two processes with one store, which both have sent a heartbeat."""
    url = with_own_prefix(request.getfixturevalue("redis").url) if request.param == "redis" else "sqlite:///s.db"
    stores = [open_store(url, folder=tmp_path, clock=clock) for _ in range(2)]
    for each in stores:
        await each.heartbeat()
    yield TwoProcesses(stores[0], stores[1], clock)
    for each in stores:
        await each.aclose()


async def test_calls_of_a_suspended_process_cost_what_they_used(both: TwoProcesses) -> None:
    """Reservations of 312,768 tokens are charged while the process is suspended; its settlements correct that to 2,880."""
    claim = budget(LIMIT, PROMPT_TOKENS, per_token=1)
    for at in range(CALLS):
        await both.suspended.reserve(f"{at}", [claim], CEILING)
    await both.suspend()
    charged = await both.totals()
    await asyncio.gather(*[both.suspended.settle(f"{at}", {claim.key: USED}) for at in range(CALLS)])
    settled = await both.totals()
    for at in range(CALLS):  # a repeated settlement changes nothing
        await both.suspended.settle(f"{at}", {claim.key: USED})

    assert charged == [(CALLS * (PROMPT_TOKENS + CEILING), 0)]
    assert settled == await both.totals() == [(CALLS * USED, 0)]


async def test_correction_after_a_reset_grants_nothing(both: TwoProcesses) -> None:
    """What a late settlement or release returns is no room beyond the limit, if an operator has reset the counter meanwhile."""
    claim = budget(1000, 60)
    for call in ("settled", "released"):
        await both.suspended.reserve(call, [claim])
    await both.suspend()
    assert isinstance(both.other, CorrectableStore)
    await both.other.correct([budget(1000, 0)], None, "reset")
    await both.suspended.settle("settled", {claim.key: 7})
    await both.suspended.release("released")
    assert await both.totals() == [(0, 0)]


@pytest.mark.parametrize(("charge", "granted", "spent"), [(7, 0, 50), (7, 30, 20), (75, 0, 65), (60, 0, 50)])
async def test_correction_after_a_reset_changes_nothing_that_was_counted_since(
    both: TwoProcesses, charge: int, granted: int, spent: int
) -> None:
    """A charge that a reset has removed is not returned from what others spent since, nor from a grant; an excess is charged."""
    claim = budget(1000, 60)
    for call in ("settled", "released"):
        await both.suspended.reserve(call, [claim])
    await both.suspend()
    assert isinstance(both.other, CorrectableStore)
    await both.other.correct([claim], None, "reset")
    await both.other.reserve("since", [budget(1000, 50)])
    await both.other.settle("since", {claim.key: 50})
    if granted:
        await both.other.correct([claim], granted, "granted")
    await both.suspended.settle("settled", {claim.key: charge})
    await both.suspended.release("released")
    assert await both.totals() == [(spent, 0)]


async def test_charge_after_a_reset_is_corrected(both: TwoProcesses) -> None:
    """A reservation that was charged after the reset is corrected in full, also below what was granted since."""
    claim = budget(1000, 60)
    await both.suspended.reserve("1", [claim])
    assert isinstance(both.other, CorrectableStore)
    await both.other.correct([claim], None, "reset")
    await both.suspend()
    await both.other.correct([claim], 40, "granted")
    assert await both.totals() == [(20, 0)]
    await both.suspended.settle("1", {claim.key: 7})
    assert await both.totals() == [(-33, 0)]


async def test_charge_counts_against_the_limit_until_it_is_corrected(both: TwoProcesses) -> None:
    """While the reservation is charged, the other process has only the rest; afterwards it has what was not used."""
    claim = budget(100, 80)
    await both.suspended.reserve("1", [claim])
    await both.suspend()
    refused = await both.other.reserve("2", [budget(100, 30)])
    await both.suspended.settle("1", {claim.key: 10})
    admitted = await both.other.reserve("3", [budget(100, 90)])

    assert (refused.refused, admitted.refused) == (0, None)
    assert await both.totals() == [(10, 90)]


async def test_settlement_without_refund_keeps_the_charge(both: TwoProcesses) -> None:
    """A late settlement that is only a lower bound returns nothing, and charges what exceeds the reservation."""
    low, high = budget(LIMIT, 50, name="low"), budget(LIMIT, 50, name="high")
    await both.suspended.reserve("1", [low, high])
    await both.suspend()
    await both.suspended.settle("1", {low.key: 20, high.key: 70}, refund=False)

    assert sorted(await both.totals()) == [(50, 0), (70, 0)]


async def test_release_returns_the_charge(both: TwoProcesses) -> None:
    """A call that was never sent upstream costs nothing, also if its process was suspended in between."""
    await both.suspended.reserve("1", [budget(LIMIT, 50), rate(1)])
    await both.suspend()
    await both.suspended.release("1")

    assert await both.totals() in ([], [(0, 0)])
    assert (await both.other.reserve("2", [rate(1)])).refused is None


async def test_late_settlement_counts_in_the_window_of_the_reservation(both: TwoProcesses, clock: FakeClock) -> None:
    """A window that ended meanwhile gets the correction; the open one is not changed."""
    claim = budget(LIMIT, 50, window="minute")
    clock.advance(55.0 - clock() % 60)
    await both.suspended.reserve("1", [claim])
    await both.suspend()
    await both.other.reserve("2", [claim])
    await both.suspended.settle("1", {claim.key: 10})

    assert await both.totals() == [(0, 50)]


async def test_further_part_of_a_charged_reservation_is_reserved(both: TwoProcesses) -> None:
    """A process that wakes reserves further parts of its calls, and settles all parts together."""
    claim = budget(LIMIT, 50)
    await both.suspended.reserve("1", [claim])
    await both.suspend()
    grant = await both.suspended.reserve("1", [claim], part=1)
    grown = await both.totals()
    await both.suspended.settle("1", {claim.key: 70})

    assert (grant.refused, grown) == (None, [(50, 50)])
    assert await both.totals() == [(70, 0)]


async def test_process_that_is_suspended_twice_settles_correctly(both: TwoProcesses) -> None:
    """Parts that were charged at different times are corrected by one settlement."""
    claim = budget(LIMIT, 50)
    await both.suspended.reserve("1", [claim])
    await both.suspend()
    await both.suspended.reserve("1", [claim], part=1)
    await both.suspend()
    charged = await both.totals()
    await both.suspended.settle("1", {claim.key: 60})

    assert (charged, await both.totals()) == ([(100, 0)], [(60, 0)])


@pytest.mark.parametrize("when", ["admit", "refuse"])
async def test_growing_stream_of_a_suspended_process_goes_on(both: TwoProcesses, clock: FakeClock, when: str) -> None:
    """A stream without a ceiling runs to its end after the suspension, grows its reservation, and is charged what it used."""
    services = make_services(clock=clock, store=both.suspended)
    call, gate = make_call("hi", services=services), Gate()
    async with running(call, growing_budget(LIMIT, when_store_fails=when), *["x"] * 9, gate, *["x"] * 90) as served:
        await gate.reached.wait()
        await both.suspend()
        charged = await both.totals()
        gate.opened.set()
        while served.outcome is None and served.rejection is None:
            await anyio.lowlevel.checkpoint()

    assert charged == [(PROMPT + 20, 0)]
    assert len(served.text) == 99
    assert await both.totals() == [(PROMPT + 99, 0)]


@pytest.mark.parametrize("part", [0, 1])
async def test_repeated_part_of_a_charged_reservation_reserves_nothing(both: TwoProcesses, part: int) -> None:
    """A part that is sent again after it was charged, also as a later operation of the process that wakes, is known."""
    claim = budget(LIMIT, 50)
    for at in range(part + 1):
        await both.suspended.reserve("1", [claim], at, at)
    await both.suspend()
    await both.suspended.heartbeat()
    grant = await both.suspended.reserve("1", [claim], 1_000, part)
    repeated = await both.totals()
    await both.suspend()
    assert (await both.other.reserve("2", [budget(LIMIT, 1)])).refused is None
    await both.suspended.settle("1", {claim.key: 10})

    assert (grant.refused, grant.ceiling, repeated) == (None, part, [(50 * (part + 1), 0)])
    assert await both.totals() == [(10, 1)]


async def test_process_goes_on_before_its_first_heartbeat(both: TwoProcesses) -> None:
    """A process that wakes makes new reservations and settles old ones at once; those of new calls are not charged."""
    claim = budget(LIMIT, 50)
    await both.suspended.reserve("old", [claim])
    await both.suspend()
    await both.suspended.reserve("new", [claim])
    await both.suspended.settle("old", {claim.key: 10})
    await both.other.heartbeat()
    reserved = await both.totals()
    await both.suspended.settle("new", {claim.key: 5})

    assert (reserved, await both.totals()) == ([(10, 50)], [(15, 0)])
