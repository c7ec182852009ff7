"""A call whose reservation the store has lost is charged in the windows of its reservation, as far as they are open."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.lowlevel
import msgspec
import pytest
from growing import PROMPT, Gate, GatedUpstream, budget
from losing_store import LosingStore

from policies import Budget, Calendar, Claim, Grant
from policies.engine.chain import Chain
from policies.engine.ledger import Ledger
from policies.testing import CollectingSink, FakeClock, Step, make_call, make_services

pytestmark = pytest.mark.anyio

LOST = "call a: the store had lost its reservation"


class WindowStore(LosingStore):
    """A store that loses its reservations, whose windows are minutes and days of *clock*."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        """See `Store.reserve`."""
        grant, now = await super().reserve(call_id, claims, ceiling, part), self._clock.now
        lengths = [60.0 if claim.window == Calendar("minute") else 86_400.0 for claim in claims]
        standings = [
            msgspec.structs.replace(each, resets_at=now // length * length + length)
            for each, length in zip(grant.standings, lengths, strict=True)
        ]
        return msgspec.structs.replace(grant, standings=standings, now=now)


async def lose(store: WindowStore, clock: FakeClock, gate: Gate, seconds: float) -> None:
    """Lose all reservations while the calls wait at *gate*, move the clock by *seconds*, and let the calls go on."""
    await gate.reached.wait()
    for _ in range(20):
        await anyio.lowlevel.checkpoint()
    store.counters.flush()
    clock.advance(seconds)
    gate.opened.set()


async def charged_after(seconds: float, *policies: Budget, max_tokens: int | None = 50) -> tuple[int, int]:
    """Return what is spent and reserved after a call whose reservation is lost, and that ends after *seconds*."""
    clock = FakeClock(1_800_000_000.0)
    store, gate = WindowStore(clock), Gate()
    services = make_services(store=store)
    ledger = Ledger(services)
    chain = Chain(list(policies), GatedUpstream(["x", gate, "x"]), services, ledger=ledger)
    call = make_call("hi", services=services, id="a", body={"max_tokens": max_tokens} if max_tokens else {})
    async with anyio.create_task_group() as group:
        group.start_soon(chain.run, call, CollectingSink([]))
        await lose(store, clock, gate, seconds)
    await ledger.catch_up()
    return store.counters.totals


@pytest.mark.parametrize("max_tokens", [50, None], ids=["ceiling", "growing"])
@pytest.mark.parametrize("seconds", [10.0, 70.0, -3_600.0])
async def test_lost_call_is_charged_while_its_window_is_open(
    caplog: pytest.LogCaptureFixture, seconds: float, max_tokens: int | None
) -> None:
    """A later window does not pay for a call that began before it; one after the clock was set back does."""
    totals = await charged_after(seconds, budget(1_000, window="minute"), max_tokens=max_tokens)
    is_open = seconds < 60
    assert totals == ((PROMPT + 2, 0) if is_open else (0, 0))
    ending = "; charged without it: " if is_open else ", whose window has ended; not charged: "
    assert [record.getMessage() for record in caplog.records] == [f"{LOST}{ending}{PROMPT + 2} tokens"]


async def test_both_parts_of_a_lost_call_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Of two windows the open one is charged, and the log says what is charged and what is not."""
    policies = budget(1_000, window="minute"), Budget(name="daily", tokens=1_000)
    assert await charged_after(70.0, *policies) == (PROMPT + 2, 0)
    assert [record.getMessage() for record in caplog.records] == [
        f"{LOST}; charged without it: {PROMPT + 2} tokens",
        f"{LOST}, whose window has ended; not charged: {PROMPT + 2} tokens",
    ]


@pytest.mark.parametrize(("seconds", "spent"), [(10.0, PROMPT + 22), (70.0, 0)])
async def test_stream_is_charged_in_the_window_of_its_second_reservation(seconds: float, spent: int) -> None:
    """A stream that has reserved again in a later window, and is lost again, is charged in that window while it is open."""
    clock = FakeClock(1_800_000_000.0)
    store, first, second = WindowStore(clock), Gate(), Gate()
    services = make_services(store=store)
    ledger = Ledger(services)
    script: list[Step] = [*["x"] * 9, first, *["x"] * 12, second, "x"]
    chain = Chain([budget(1_000, window="minute")], GatedUpstream(script), services, ledger=ledger)
    async with anyio.create_task_group() as group:
        group.start_soon(chain.run, make_call("hi", services=services), CollectingSink([]))
        for gate, after in ((first, 70.0), (second, seconds)):
            await lose(store, clock, gate, after)
    await ledger.catch_up()

    assert any(".again1" in step for step in store.steps)
    assert store.counters.totals == (spent, 0)
