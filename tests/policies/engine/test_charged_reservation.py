"""A growing stream whose reservation the store has charged, because it took the process for dead."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest
from growing import PROMPT, Gate, GatedUpstream, PartStore, budget, running

from policies import Claim, Grant, StoreDown
from policies.engine.chain import Chain
from policies.engine.ledger import Ledger
from policies.testing import CollectingSink, FakeClock, make_call, make_services

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> PartStore:
    return PartStore(clock)


@pytest.mark.parametrize(("when", "read"), [("admit", 99), ("refuse", 40)])
async def test_output_beyond_a_charged_reservation_is_charged(
    store: PartStore, clock: FakeClock, when: str, read: int
) -> None:
    """If the store has charged the reservation, one step runs on as debt, and only what exceeds it is charged at the end."""
    call, gate = make_call("hi", services=make_services(clock=clock, store=store)), Gate()
    async with running(call, budget(1_000, when_store_fails=when), *["x"] * 9, gate, *["x"] * 90) as served:
        await gate.reached.wait()
        await store.settle(call.id, {})  # as for a process that sends no heartbeats
        assert await store.totals() == (PROMPT + 20, 0)
        gate.opened.set()
        while served.outcome is None and served.rejection is None:
            await anyio.lowlevel.checkpoint()
    assert len(served.text) == read
    assert await store.totals() == (PROMPT + read, 0)


async def test_lost_answer_to_the_rest_of_a_charge_leaves_nothing_reserved(clock: FakeClock) -> None:
    """Where the answer to the reservation of the excess is lost, the excess is settled as soon as the store answers."""

    class Losing(PartStore):
        async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
            grant = await super().reserve(call_id, claims, ceiling, part)
            if call_id.endswith(".rest"):
                raise StoreDown("timeout", taken=True)
            return grant

    store = Losing(clock)
    call, gate = make_call("hi", services=make_services(clock=clock, store=store)), Gate()
    ledger = Ledger(call.services)
    chain = Chain([budget(1_000)], GatedUpstream(["x"] * 9 + [gate] + ["x"] * 21), call.services, ledger=ledger)
    async with anyio.create_task_group() as group:
        group.start_soon(chain.run, call, CollectingSink([]))
        await gate.reached.wait()
        await store.settle(call.id, {})
        gate.opened.set()
    await ledger.catch_up()
    assert await store.totals() == (PROMPT + 30, 0)
