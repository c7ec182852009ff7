"""The settlement queue: a failed settlement is queued unchanged and sent later, a successful one is not sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from claims import budget, totals
from failing_store import FailingStore

from policies.api.store import StoreDown
from policies.engine.reservations.settlement_queue import MAX_PENDING_SETTLEMENTS, Settlement, SettlementQueue
from policies.stores.memory import MemoryStore
from policies.testing import FakeClock, make_services

pytestmark = pytest.mark.anyio

CLAIM = budget(100)


@pytest.mark.parametrize(
    ("charges", "refund", "spent"),
    [({CLAIM.key: 4}, True, 4), ({CLAIM.key: 4}, False, 10), ({}, True, 10), (None, True, 0)],
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
    await store.reserve("1", [CLAIM])
    store.failure = failure
    if isinstance(failure, StoreDown):
        await queue.send("1", charges, refund=refund)
    else:
        with pytest.raises(type(failure)):
            await queue.send("1", charges, refund=refund)
    assert list(queue.pending) == [Settlement("1", charges, refund)]
    store.failure = None
    await queue.catch_up()
    assert not queue.pending
    assert await totals(store) == [(spent, 0)]


async def test_successful_settlement_is_not_queued() -> None:
    """A settlement that the store took is not sent again."""
    store = FailingStore(clock=FakeClock())
    queue = SettlementQueue(make_services(store=store))
    await store.reserve("1", [CLAIM])
    await queue.send("1", {CLAIM.key: 4})
    assert not queue.pending


async def test_broken_settlement_does_not_block_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """A settlement that the store cannot apply is dropped with a log line, and the next ones are sent."""

    class Picky(MemoryStore):
        async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
            if call_id == "broken":
                raise ValueError
            await super().settle(call_id, charges, refund=refund)

    store = Picky(clock=FakeClock())
    queue = SettlementQueue(make_services(store=store))
    await store.reserve("1", [CLAIM])
    for call in ("broken", "1"):
        queue.add(Settlement(call, {CLAIM.key: 4}))
    await queue.catch_up()
    assert not queue.pending
    assert await totals(store) == [(4, 0)]
    assert "settlement of call broken dropped" in caplog.text


async def test_full_queue_drops_its_oldest_settlement(caplog: pytest.LogCaptureFixture) -> None:
    """The queue is bounded: one settlement more than it holds drops the oldest, and its call is named in the log."""
    queue = SettlementQueue(make_services())
    for at in range(MAX_PENDING_SETTLEMENTS + 1):
        queue.add(Settlement(f"call-{at}", None))
    assert len(queue.pending) == MAX_PENDING_SETTLEMENTS
    assert queue.pending[0].call_id == "call-1"
    assert "settlement of call call-0 dropped" in caplog.text


async def test_failed_settlements_are_reported_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Each failed settlement is reported with its cause; the program logs an outage once (`StoreState`)."""
    store = FailingStore(clock=FakeClock())
    queue = SettlementQueue(make_services(store=store))
    store.failure = StoreDown("no route to the store")
    for at in range(3):
        await queue.send(f"{at}", {})
    assert len(queue.pending) == 3
    assert [record.getMessage() for record in caplog.records] == 3 * ["store is down: no route to the store"]
