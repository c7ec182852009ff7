"""SettlementQueue on their way to the store: one that fails is kept as it was, one that arrives leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from policies.api.claim import Claim
from policies.api.store import StoreDown
from policies.api.window import Calendar
from policies.engine.settlement_queue import Settlement, SettlementQueue
from policies.stores.memory import MemoryStore
from policies.testing import FakeClock, make_services

pytestmark = pytest.mark.anyio

CLAIM = Claim(policy="b", identity="t", unit="tokens", limit=100, window=Calendar("day"), base=10)


class FailingStore(MemoryStore):
    """Raises *failure* at each settlement and release, as long as there is one."""

    failure: BaseException | None = None

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
        if self.failure is not None:
            raise self.failure
        await super().settle(call_id, charges, refund=refund)

    async def release(self, call_id: str) -> None:
        if self.failure is not None:
            raise self.failure
        await super().release(call_id)


@pytest.mark.parametrize(
    ("charges", "refund", "spent"),
    [({CLAIM.key: 4}, True, 4), ({CLAIM.key: 4}, False, 10), ({}, True, 10), (None, True, 0)],
)
@pytest.mark.parametrize("failure", [StoreDown("gone"), asyncio.CancelledError(), ValueError("broken")], ids=repr)
async def test_kept_as_it_was(
    failure: BaseException,
    charges: dict[str, int] | None,
    *,
    refund: bool,
    spent: int,
) -> None:
    """Whatever breaks a settlement, it is kept with its charges and its refund, and made later."""
    store = FailingStore(clock=FakeClock())
    settlements = SettlementQueue(make_services(store=store))
    await store.reserve("1", [CLAIM])
    store.failure = failure
    if isinstance(failure, StoreDown):
        await settlements.send("1", charges, refund=refund)
    else:
        with pytest.raises(type(failure)):
            await settlements.send("1", charges, refund=refund)
    assert list(settlements.pending) == [Settlement("1", charges, refund)]
    store.failure = None
    await settlements.catch_up()
    assert not settlements.pending
    assert [(account.spent, account.reserved) for account in await store.accounts()] == [(spent, 0)]


async def test_nothing_is_kept() -> None:
    """A settlement that was made is not sent again."""
    store = FailingStore(clock=FakeClock())
    settlements = SettlementQueue(make_services(store=store))
    await store.reserve("1", [CLAIM])
    await settlements.send("1", {CLAIM.key: 4})
    assert not settlements.pending
