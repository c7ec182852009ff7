"""Reservations that the store has lost, or has charged because it took the process for dead."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import anyio
import anyio.lowlevel
import claims
import openai
import pytest
from claims import totals
from growing import PROMPT, Gate, GatedUpstream, budget, finish_of, running
from losing_store import Counters, LosingStore
from settlements import hold_of

from policies import (
    Budget,
    Calendar,
    Call,
    Claim,
    ClaimLease,
    Ending,
    Grant,
    Lease,
    Outcome,
    Policy,
    Rate,
    RetryClassifier,
    StoreDown,
    UpstreamError,
    Usage,
)
from policies.api.store import ReservationGone
from policies.engine.chain import Chain
from policies.engine.ledger import Ledger
from policies.engine.reservations import settlement_log
from policies.stores.memory import MemoryStore
from policies.testing import (
    CollectingSink,
    FakeClock,
    ScriptedStream,
    ScriptedUpstream,
    Served,
    Step,
    make_call,
    make_services,
)

pytestmark = pytest.mark.anyio


async def flushed_after(store: LosingStore, policy: Budget, tokens: int, *rest: Step, lose: bool = True) -> Served:
    """Return the result of a stream whose reservation the store loses, or charges, after *tokens* tokens."""
    call, gate = make_call("hi", services=make_services(store=store)), Gate()
    async with running(call, policy, *["x"] * tokens, gate, *rest) as served:
        await gate.reached.wait()
        if lose:
            store.counters.flush()
        else:
            store.counters.charge("a")
        gate.opened.set()
        while served.outcome is None and served.rejection is None:
            await anyio.lowlevel.checkpoint()
    return served


@pytest.mark.parametrize("when", ["admit", "refuse"])
@pytest.mark.parametrize("lose", [True, False], ids=["lost", "charged"])
async def test_stream_goes_on_without_its_reservation(when: str, *, lose: bool) -> None:
    """A stream is not cut because the store has lost or charged its reservation; all of it is charged at the end."""
    store = LosingStore()
    served = await flushed_after(store, budget(1_000, when_store_fails=when), 9, *["x"] * 90, lose=lose)
    assert (len(served.text), finish_of(served)) == (99, "stop")
    assert store.counters.totals == (PROMPT + 99, 0)


async def test_lost_reservation_is_reserved_again_in_full() -> None:
    """At the next step of the stream the store reserves again what it has lost, in addition to the step."""
    store, most = LosingStore(), [0]
    call, gate, end = make_call("hi", services=make_services(store=store)), Gate(), Gate()
    async with running(call, budget(1_000), *["x"] * 9, gate, *["x"] * 2, end):
        await gate.reached.wait()
        store.counters.flush()
        gate.opened.set()
        await end.reached.wait()
        most = [store.counters.held.total()]
    assert most == [PROMPT + 20 + 20]
    assert store.counters.totals == (PROMPT + 11, 0)


async def test_limit_holds_for_a_reservation_that_was_lost() -> None:
    """What was reserved counts as debt: where no room is left for another step, the stream ends with `length`."""
    store = LosingStore()
    served = await flushed_after(store, budget(PROMPT + 33), 9, *["x"] * 500)
    assert finish_of(served) == "length"
    assert 33 <= len(served.text) <= 35
    assert store.counters.totals == (PROMPT + len(served.text), 0)


async def test_store_that_loses_twice() -> None:
    """A reservation that is lost again is reserved again, under a new id."""
    store = LosingStore()
    call, gates = make_call("hi", services=make_services(store=store)), [Gate(), Gate()]
    async with running(call, budget(1_000), *["x"] * 9, gates[0], *["x"] * 20, gates[1], *["x"] * 50) as served:
        for gate in gates:
            await gate.reached.wait()
            store.counters.flush()
            gate.opened.set()
        while served.outcome is None:
            await anyio.lowlevel.checkpoint()
    assert store.counters.totals == (PROMPT + 79, 0)
    assert f"reserve {call.id}.again2 1" in store.steps


async def test_retry_after_a_lost_reservation() -> None:
    """A retry whose first attempt cost its prompt is made although the reservation was lost."""
    store = LosingStore()
    failed = UpstreamError(openai.OpenAIError("silent"), "timeout", worked=True)
    call = make_call("hi", services=make_services(store=store), body={"max_tokens": 9})

    class Flushing(ScriptedUpstream):
        def open(self, call: Call, name: str | None = None) -> ScriptedStream:
            if not self.calls:
                store.counters.flush()
            return super().open(call, name)

    chain = Chain([budget(1_000), RetryClassifier(name="r")], Flushing([failed], ["x"] * 3), call.services)
    outcome = await chain.run(call, CollectingSink([]))
    assert outcome.attempts == 2
    assert store.counters.totals == (2 * PROMPT + 3, 0)


async def test_nothing_is_reserved_again_after_the_settlement() -> None:
    """A step that is under way when the call is settled does not reserve anything afterwards."""
    store = LosingStore()
    ledger = Ledger(make_services(store=store))
    hold = hold_of("1", claims.budget(1_000, per_token=1))
    hold.step = 20
    await ledger.reserve(hold)
    await ledger.settle(hold, Outcome(Ending.DONE, Usage(output=3), 1))
    with pytest.raises(StoreDown):
        await ledger.grow(hold)
    assert store.counters.totals == (3, 0)


async def ends_after_a_loss(
    store: LosingStore, *policies: Budget | Rate, calls: int = 1, usage: Usage | None = None
) -> Ledger:
    """Make calls that reserve, lose their reservation, and end; return the ledger, which has caught up."""
    services = make_services(store=store)
    ledger, gate = Ledger(services), Gate()
    chain = Chain(list(policies), GatedUpstream(["x", gate, "x"], usage=usage), services, ledger=ledger)
    async with anyio.create_task_group() as group:
        for at in range(calls):
            call = make_call("hi", services=services, id=f"call-{at}", body={"max_tokens": 50})
            group.start_soon(chain.run, call, CollectingSink([]))
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        store.counters.flush()
        gate.opened.set()
    await ledger.catch_up()
    return ledger


async def test_call_is_charged_without_its_reservation(caplog: pytest.LogCaptureFixture) -> None:
    """A settlement whose reservation is gone is charged anyway; the log has one line with the call and the amount."""
    store = LosingStore()
    await ends_after_a_loss(store, budget(1_000))
    assert store.counters.totals == (PROMPT + 2, 0)
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [f"call call-0: the store had lost its reservation; charged without it: {PROMPT + 2} tokens"]


async def test_lower_bound_is_charged_what_was_reserved() -> None:
    """Usage that is only a lower bound is charged what was reserved, also where the reservation is gone."""
    store = LosingStore()
    await ends_after_a_loss(store, budget(1_000), usage=Usage(output=1, unreported=1, exact=False))
    assert store.counters.totals == (PROMPT + 50, 0)


async def test_lost_requests_are_not_charged(caplog: pytest.LogCaptureFixture) -> None:
    """A sliding limit has nothing to settle: nothing is charged or logged."""
    store = LosingStore()
    await ends_after_a_loss(store, Rate(name="r", requests=5))
    assert [step.partition(" ")[0] for step in store.steps] == ["reserve", "settle"]
    assert caplog.records == []


async def test_log_of_many_lost_reservations_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Many lost reservations are ten lines and one with their number and amounts; none names a tenant or a policy."""
    store = LosingStore()
    ledger = await ends_after_a_loss(store, budget(1_000_000), calls=200)
    ledger.stop()
    assert store.counters.totals == (200 * (PROMPT + 2), 0)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == settlement_log.MAX_LINES_AT_ONCE + 1
    assert texts[-1] == (
        f"190 more calls: the store had lost its reservation; charged without it: {190 * (PROMPT + 2):,} tokens"
    )


@pytest.mark.parametrize("executed", [True, False])
async def test_false_after_a_lost_answer_means_settled(*, executed: bool) -> None:
    """If an earlier attempt may have been executed, a missing reservation was settled by it, and is not charged twice."""

    class Losing(LosingStore):
        failures = 1

        async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> bool:
            if not self.failures:
                return await super().settle(call_id, charges, refund=refund)
            self.failures -= 1
            if executed:
                await super().settle(call_id, charges, refund=refund)
            raise StoreDown("timeout", taken=executed)

    store = Losing()
    services = make_services(store=store)
    ledger = Ledger(services)
    chain = Chain([budget(1_000)], ScriptedUpstream(["x"]), services, ledger=ledger)
    await chain.run(make_call("hi", services=services), CollectingSink([]))
    if not executed:
        store.counters.flush()
    await ledger.catch_up()
    assert store.counters.totals == (PROMPT + 1, 0)
    assert any(".lost" in step for step in store.steps) is not executed


class PerDay(Policy, frozen=True):
    """Counts requests in a calendar window."""

    async def admit(self, call: Call) -> Lease:
        return ClaimLease(self.claim(call, 1, limit=10, window=Calendar("day")))


@pytest.mark.parametrize("failure", [asyncio.CancelledError(), ValueError("broken")], ids=repr)
async def test_reservation_that_was_never_made_is_not_lost(
    failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that is cancelled while its reservation waits is not charged as if the store had lost that."""

    class Waiting(LosingStore):
        async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
            if ".lost" in call_id:
                return await super().reserve(call_id, claims, ceiling, part)
            raise failure

    store = Waiting()
    services = make_services(store=store)
    ledger = Ledger(services)
    with pytest.raises(type(failure)):
        await Chain([PerDay(name="d")], ScriptedUpstream(["x"]), services, ledger=ledger).run(
            make_call("hi", services=services), CollectingSink([])
        )
    await ledger.catch_up()
    assert (store.counters.totals, ledger.pending_settlements) == ((0, 0), 0)
    assert not any("had lost" in line for line in caplog.messages)


async def test_store_that_keeps_losing_is_not_down() -> None:
    """A store that loses a reservation again at once has answered: it is not reported as down."""

    class Forgetful(LosingStore):
        async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
            if part:
                raise ReservationGone(call_id)
            return await super().reserve(call_id, claims, ceiling, part)

    services = make_services(store=Forgetful())
    reports: list[str] = []
    services.state_changed = lambda *each: reports.append(" ".join(each))
    ledger, hold = Ledger(services), hold_of("1", claims.budget(1_000, per_token=1))
    hold.step = 20
    await ledger.reserve(hold)
    with pytest.raises(ReservationGone):
        await ledger.grow(hold)
    assert reports == []


async def test_store_that_does_not_know_is_believed() -> None:
    """A store that returns None from `settle` does not say whether it knew the reservation: nothing else is charged."""

    class Silent(MemoryStore):
        async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
            await super().settle(call_id, charges, refund=refund)

    store = Silent(clock=FakeClock())
    services = make_services(store=store)
    ledger = Ledger(services)
    call = make_call("hi", services=services)
    await Chain([budget(1_000)], ScriptedUpstream(["x"]), services, ledger=ledger).run(call, CollectingSink([]))
    assert (await totals(store), ledger.pending_settlements) == ([(PROMPT + 1, 0)], 0)


async def test_suspended_process_settles_its_own_calls() -> None:
    """A process that was suspended beyond the grace period finds its calls charged in full, and corrects that when it wakes."""
    counters = Counters()
    suspended, other = (make_services(store=LosingStore(counters, owner)) for owner in "ab")
    policy, gates = budget(1_000_000), [Gate() for _ in range(3)]
    calls = [make_call("hi", services=suspended) for _ in gates]
    async with anyio.create_task_group() as group:
        ledger = Ledger(suspended)
        for call, gate in zip(calls, gates, strict=True):
            chain = Chain([policy], GatedUpstream([*["x"] * 15, gate, *["x"] * 30]), suspended, ledger=ledger)
            group.start_soon(chain.run, call, CollectingSink([]))
        for gate in gates:
            await gate.reached.wait()
        held = counters.held.total()
        counters.charge("a")
        assert counters.totals == (held, 0)
        await Chain([policy], ScriptedUpstream(["x"]), other).run(make_call("hi", services=other), CollectingSink([]))
        for gate in gates:
            gate.opened.set()
    assert ledger.pending_settlements == 0
    assert counters.totals == (3 * (PROMPT + 45) + PROMPT + 1, 0)
