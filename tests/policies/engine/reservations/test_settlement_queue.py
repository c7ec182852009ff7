"""The settlement queue: a failed settlement is queued unchanged and sent later, a successful one is not sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

import msgspec
import pytest
from claims import budget, totals
from controlled_store import Answer, ControlledStore, settled_down
from failing_store import FailingStore
from hypothesis import given, settings
from hypothesis import strategies as st
from settlements import hold_of, reserved

from policies.api.claim import Claim
from policies.api.store import StoreDown
from policies.engine.reservations import settlement_queue
from policies.engine.reservations.settlement_queue import (
    MAX_CONCURRENT_SETTLEMENTS,
    MAX_PENDING_SETTLEMENTS,
    Settlement,
    SettlementQueue,
)
from policies.stores.memory import MemoryStore
from policies.testing import FakeClock, make_services

pytestmark = pytest.mark.anyio

CLAIM = budget(100_000)
FOUR = {CLAIM.key: 4}


@pytest.mark.parametrize(
    ("charges", "refund", "spent"),
    [(FOUR, True, 4), (FOUR, False, 10), ({}, True, 10), (None, True, 0)],
)
@pytest.mark.parametrize("failure", [StoreDown("gone"), asyncio.CancelledError(), ValueError("broken")], ids=repr)
async def test_failed_settlement_is_queued_unchanged(
    failure: BaseException,
    charges: dict[str, int] | None,
    *,
    refund: bool,
    spent: int,
) -> None:
    """A settlement that fails for any reason is queued with its charges and its refund, and applied later."""
    store = FailingStore(clock=FakeClock())
    queue = SettlementQueue(make_services(store=store))
    hold = await reserved(store, "1", CLAIM)
    store.failure = failure
    if isinstance(failure, StoreDown):
        await queue.send(hold, charges, refund=refund)
    else:
        with pytest.raises(type(failure)):
            await queue.send(hold, charges, refund=refund)
    assert [(each.call_id, each.charges, each.refund) for each in queue.pending] == [("1", charges, refund)]
    store.failure = None
    await queue.catch_up()
    assert len(queue) == 0
    assert await totals(store) == [(spent, 0)]


async def test_successful_settlement_is_not_queued() -> None:
    """A settlement that the store took is not sent again."""
    store = FailingStore(clock=FakeClock())
    queue = SettlementQueue(make_services(store=store))
    await queue.send(await reserved(store, "1", CLAIM), FOUR)
    assert len(queue) == 0


async def test_broken_settlement_does_not_block_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """A settlement that the store cannot apply is dropped with a log line, and the others are sent."""

    class Picky(MemoryStore):
        async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
            if call_id.startswith("broken"):
                raise ValueError
            await super().settle(call_id, charges, refund=refund)

    store = Picky(clock=FakeClock())
    queue = SettlementQueue(make_services(store=store))
    await store.reserve("1", [CLAIM])
    for call in ("broken", "1", "broken too"):
        queue.add(Settlement(call, FOUR))
    await queue.catch_up()
    assert len(queue) == 0
    assert await totals(store) == [(4, 0)]
    assert "call broken: its settlement is dropped" in caplog.text


async def test_full_queue_drops_its_oldest_settlement(caplog: pytest.LogCaptureFixture) -> None:
    """The queue is bounded: one settlement more than it holds drops the oldest, and its call is named in the log."""
    queue = SettlementQueue(make_services())
    for at in range(MAX_PENDING_SETTLEMENTS + 1):
        queue.add(Settlement(f"call-{at}", None))
    assert len(queue) == MAX_PENDING_SETTLEMENTS
    assert queue.pending[0].call_id == "call-1"
    assert "call call-0: its settlement is dropped, the queue is full" in caplog.text


async def test_failed_settlements_are_reported_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Each failed settlement is reported with its cause; the program logs an outage once (`StoreState`)."""
    store = FailingStore(clock=FakeClock())
    queue = SettlementQueue(make_services(store=store))
    store.failure = StoreDown("no route to the store")
    for at in range(3):
        await queue.send(hold_of(f"{at}", CLAIM), {})
    assert len(queue) == 3
    assert [record.getMessage() for record in caplog.records] == 3 * ["store is down: no route to the store"]


async def queue_of(number: int) -> tuple[ControlledStore, SettlementQueue]:
    """Return a store behind a link, and a queue of *number* settlements of 4 of the 10 tokens that each call reserved."""
    store = ControlledStore()
    queue = SettlementQueue(make_services(store=store))
    for at in range(number):
        await store.reserve(f"{at}", [CLAIM])
        queue.add(Settlement(f"{at}", FOUR))
    store.is_instant = False
    return store, queue


async def test_queued_settlements_go_together() -> None:
    """The oldest goes alone, because the store may be down; then up to 256 at a time, in the order of the queue."""
    store, queue = await queue_of(300)
    task = asyncio.create_task(queue.catch_up())
    sent = [await store.round_trip() for _ in range(3)]
    await asyncio.wait_for(task, 5)
    assert [len(each) for each in sent] == [1, MAX_CONCURRENT_SETTLEMENTS, 299 - MAX_CONCURRENT_SETTLEMENTS]
    assert [name for each in sent for name in each] == [f"settle {at}" for at in range(300)]
    assert store.counters.totals == (300 * 4, 0)


async def test_settlements_that_come_meanwhile_are_sent_too() -> None:
    """What is queued while settlements are being sent goes with them."""
    store, queue = await queue_of(2)
    task = asyncio.create_task(queue.catch_up())
    await store.round_trip()
    store.is_instant = True
    await store.reserve("new", [CLAIM])
    store.is_instant = False
    queue.add(Settlement("new", FOUR))
    await store.round_trip()
    assert await store.round_trip() == ["settle new"]
    await asyncio.wait_for(task, 5)


async def test_one_operation_asks_a_store_that_is_down() -> None:
    """While the store is down, one settlement is tried; it is queued again at the end, and the order of the others stays."""
    store, queue = await queue_of(300)
    task = asyncio.create_task(queue.catch_up())
    assert await store.round_trip("down") == ["settle 0"]
    await asyncio.wait_for(task, 5)
    assert [each.call_id for each in queue.pending] == [f"{at % 300}" for at in range(1, 301)]
    assert store.counters.totals == (0, 3000)


async def test_failures_in_the_middle_are_queued_again_in_order() -> None:
    """If the store fails in the middle, only what it did not take is queued again, in the order of before."""
    store, queue = await queue_of(8)
    task = asyncio.create_task(queue.catch_up())
    await store.round_trip()
    answers: list[Answer] = ["answered", "down", "answered", "lost", "down", "answered", "broken"]
    for answer in answers:
        await store.answer(0, answer)
    await asyncio.wait_for(task, 5)
    queue.add(Settlement("new", FOUR))
    assert [each.call_id for each in queue.pending] == ["2", "4", "5", "new"]
    assert [each.may_be_done for each in queue.pending] == [False, True, False, False]
    store.is_instant = True
    await queue.catch_up()
    assert len(queue) == 0
    assert store.counters.totals == (7 * 4, 10), "the broken one is left"


async def test_several_callers_wait_for_one_task() -> None:
    """Callers at the same time share one task; one of them that is cancelled does not end it."""
    store, queue = await queue_of(5)
    tasks = [asyncio.create_task(queue.catch_up()) for _ in range(3)]
    assert await store.round_trip() == ["settle 0"]
    tasks[0].cancel()
    assert len(await store.round_trip()) == 4
    await asyncio.wait_for(asyncio.wait(tasks), 5)
    assert (tasks[0].cancelled(), tasks[1].cancelled(), len(queue)) == (True, False, 0)
    assert store.steps.count("settle 0") == 1


async def test_stop_queues_what_is_being_sent() -> None:
    """After `stop` everything that was being sent is queued in order, as possibly done."""
    store, queue = await queue_of(6)
    task = asyncio.create_task(queue.catch_up())
    await store.round_trip()
    await settled_down()
    assert (len(queue.sending), len(queue)) == (5, 5)
    queue.stop()
    await asyncio.wait_for(task, 5)
    assert [(each.call_id, each.may_be_done) for each in queue.pending] == [(f"{at}", True) for at in range(1, 6)]


async def test_settlement_without_an_answer_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A settlement that the store never answers is queued again after the time limit, as possibly done."""
    monkeypatch.setattr(settlement_queue, "MAX_DELIVERY_SECONDS", 0.01)
    _, queue = await queue_of(2)
    await asyncio.wait_for(queue.catch_up(), 5)
    assert [(each.call_id, each.may_be_done) for each in queue.pending] == [("1", False), ("0", True)]


async def test_time_for_which_this_process_stood_still_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was suspended while it sent settlements waits for their answers afterwards."""
    loop, stood_still = asyncio.get_running_loop(), 0.0
    time_of_loop = loop.time
    monkeypatch.setattr(loop, "time", lambda: time_of_loop() + stood_still)
    store, queue = await queue_of(3)
    task = asyncio.create_task(queue.catch_up())
    await store.round_trip()
    stood_still = 33.0
    await settled_down()
    assert len(await store.round_trip()) == 2
    await asyncio.wait_for(task, 5)
    assert (len(queue), store.counters.totals) == (0, (3 * 4, 0))


@pytest.mark.parametrize("how", ["down", "no answer"])
async def test_settlement_that_always_fails_does_not_block_the_others(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that never takes one settlement, such as one with damaged data, gets all others."""
    monkeypatch.setattr(settlement_queue, "MAX_DELIVERY_SECONDS", 0.01)

    class Damaged(MemoryStore):
        async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> bool | None:
            if call_id != "damaged":
                return await super().settle(call_id, charges, refund=refund)
            if how == "down":
                raise StoreDown("the script failed", taken=True)
            await asyncio.Event().wait()
            return None

    store = Damaged(clock=FakeClock())
    queue = SettlementQueue(make_services(store=store))
    for call_id in ["damaged", *[f"{at}" for at in range(20)]]:
        await store.reserve(call_id, [CLAIM])
        queue.add(Settlement(call_id, FOUR))
    for _ in range(2):
        await asyncio.wait_for(queue.catch_up(), 5)
    assert [each.call_id for each in queue.pending] == ["damaged"]
    assert await totals(store) == [(20 * 4, 10)]


async def test_new_call_waits_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new call waits for queued settlements until some time after their start, later ones do not wait at all."""
    store, queue = await queue_of(2)
    monkeypatch.setattr(settlement_queue, "MAX_CALL_DELAY_SECONDS", 0.01)
    await asyncio.wait_for(queue.delay_call(), 5)
    assert [name for name, _ in store.waiting] == ["settle 0"]
    monkeypatch.setattr(settlement_queue, "MAX_CALL_DELAY_SECONDS", -1.0)
    await asyncio.wait_for(queue.delay_call(), 5)
    await store.round_trip()
    await store.round_trip()
    assert (len(queue), store.counters.totals) == (0, (8, 0))


@pytest.mark.parametrize("how", ["lost", "down"])
@pytest.mark.parametrize("failing", range(3))
async def test_charge_of_a_lost_reservation_is_idempotent(failing: int, how: Answer) -> None:
    """Whichever operation of such a charge fails, with or without being executed, the call is charged once."""
    store, queue = await queue_of(0)
    store.counters.spent.clear()
    queue.add(Settlement("1", FOUR, debts=(msgspec.structs.replace(CLAIM, base=4),)))
    task = asyncio.create_task(queue.catch_up())
    for at in range(failing + 1):
        await store.answer(0, how if at == failing else "answered")
    await asyncio.wait_for(task, 5)
    assert len(queue) == 1
    store.is_instant = True
    await queue.catch_up()
    was_unknown = failing == 0 and how == "lost"
    assert (len(queue), store.counters.totals) == (0, (0 if was_unknown else 4, 0))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(1, 20)),
        st.tuples(st.just("answer"), st.integers(0, 3), st.sampled_from(["answered", "lost", "down"])),
        st.tuples(st.just("catch up"), st.sampled_from(["", "answered", "lost", "down"])),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("lose"), st.integers(0, 20)),
    ),
    max_size=40,
)


@given(STEPS)
@settings(max_examples=500)
def test_any_interleaving_charges_each_call_once(steps: list[tuple[object, ...]]) -> None:
    """Whatever fails, is cancelled or lost, and in whatever order: each call is charged once, and nothing stays reserved.

    One case is excluded, because the store cannot know it: a reservation was lost, and so was the answer that said so. Then
    the call may be charged nothing, but never twice.
    """
    asyncio.run(_charges_each_call_once(steps))


async def _charges_each_call_once(steps: list[tuple[object, ...]]) -> None:
    store = ControlledStore()
    queue = SettlementQueue(make_services(store=store))
    charges: list[int] = []
    unknown: set[str] = set()
    tasks: list[asyncio.Task[None]] = []
    for step in steps:
        match step:
            case ("call", int(charge)):
                call_id = f"{len(charges)}"
                store.is_instant = True
                hold = await reserved(store, call_id, claim_of(call_id))
                store.is_instant = False
                charges.append(charge)
                tasks.append(asyncio.create_task(queue.send(hold, {claim_of(call_id).key: charge})))
            case ("answer", int(at), str(how)):
                name = await store.answer(at, cast("Answer", how))
                unknown |= {root_of(name)} if how == "lost" else set()
            case ("catch up", str(how)):
                tasks.append(asyncio.create_task(queue.catch_up()))
                names = await store.round_trip(cast("Answer", how)) if how else []
                unknown |= {root_of(name) for name in names} if how == "lost" else set()
            case ("cancel", int(at)) if tasks:
                waiting = {root_of(name) for name, _ in store.waiting}
                unknown |= waiting if tasks[at % len(tasks)].cancel() else set()
            case ("lose", int(at)) if charges:
                store.counters.holds.pop(f"{at % len(charges)}", None)
        await settled_down()
        order = [root_of(each.call_id) for each in queue.pending]
        assert len(set(order)) == len(order), "each is queued once"
    store.is_instant = True
    while store.waiting:
        await store.round_trip()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(2):
        await queue.catch_up()

    assert len(queue) == 0
    assert store.counters.held.total() == 0
    for at, charge in enumerate(charges):
        spent = store.counters.spent[claim_of(f"{at}").key]
        assert spent == charge or (f"{at}" in unknown and spent == 0), (at, spent, charge)


def claim_of(call_id: str) -> Claim:
    """Return a claim on a counter of its own."""
    return budget(100_000, name=f"b{call_id}")


def root_of(name: str) -> str:
    """Return the id of the call that an operation or a settlement belongs to."""
    return name.rpartition(" ")[2].partition(".")[0]
