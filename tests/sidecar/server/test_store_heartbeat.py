"""The store heartbeat: no exception ends it, each state change and each kind of fault is reported once, and closing settles."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
from claims import budget
from serving import settings_of
from wire import eventually

from policies.api.store import StoreDown
from policies.engine.ledger import Ledger
from policies.engine.settlement_queue import Settlement
from policies.stores.memory import MemoryStore
from policies.testing import FakeClock, make_services
from sidecar.server.gateway import Gateway
from sidecar.server.store_heartbeat import StoreHeartbeat

pytestmark = pytest.mark.anyio

CLAIM = budget(100)


class FaultyStore(MemoryStore):
    """Counts heartbeats; raises *heartbeat_fault* or *settle_fault* where one is set, waits for *gate* where one is closed."""

    def __init__(self) -> None:
        super().__init__(clock=FakeClock())
        self.heartbeats = 0
        self.heartbeat_fault: BaseException | None = None
        self.settle_fault: BaseException | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def heartbeat(self) -> None:
        self.heartbeats += 1
        if self.heartbeat_fault is not None:
            raise self.heartbeat_fault
        await self.gate.wait()

    async def reached(self, heartbeats: int) -> None:
        await eventually(lambda: self.heartbeats >= heartbeats)

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
        await self.gate.wait()
        if self.settle_fault is not None:
            raise self.settle_fault
        await super().settle(call_id, charges, refund=refund)


class Running:
    """A heartbeat over a `FaultyStore`; time passes only in `beats`."""

    def __init__(self) -> None:
        self.store = FaultyStore()
        self.services = make_services(store=self.store)
        self.ledger = Ledger(self.services)
        self.changes: list[StoreDown | None] = []
        self._ticks = asyncio.Semaphore(0)
        self.heartbeat = StoreHeartbeat(
            self.services, self.ledger, 2.0, sleep=self._sleep, on_change=self.changes.append, close_timeout=0.05
        )
        self.heartbeat.start()

    async def _sleep(self, seconds: float) -> None:
        assert seconds == 2.0
        await self._ticks.acquire()

    async def beats(self, count: int = 1) -> None:
        """Let the interval pass *count* times, each with its heartbeat."""
        for _ in range(count):
            wanted = self.store.heartbeats + 1
            self._ticks.release()
            await self.store.reached(wanted)
            for _ in range(5):  # the rest of this round
                await asyncio.sleep(0)

    async def queue_settlement(self) -> None:
        """Reserve 10 tokens and queue a settlement that charges 4 of them."""
        await self.store.reserve("1", [CLAIM])
        self.ledger._settlements.add(Settlement("1", {CLAIM.key: 4}))

    async def totals(self) -> list[tuple[int, int]]:
        return [(each.spent, each.reserved) for each in await self.store.accounts()]


@pytest.mark.parametrize("fault", [ValueError("broken"), asyncio.CancelledError(), TimeoutError()], ids=repr)
async def test_unexpected_exception_does_not_end_the_heartbeat(
    fault: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """A heartbeat that raises anything is tried again; the fault is logged once, and settlements are sent all the same."""
    running = Running()
    await running.queue_settlement()
    running.store.heartbeat_fault = fault
    await running.beats(5)
    assert running.heartbeat.is_running
    assert await running.totals() == [(4, 0)]
    running.store.heartbeat_fault = None
    await running.beats(2)
    await running.heartbeat.aclose()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert type(fault).__name__ in caplog.text
    assert running.changes == [], "a fault of another kind is no outage"


async def test_each_kind_of_fault_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Faults of two kinds give two log lines, however often each of them occurs."""
    running = Running()
    for _ in range(3):
        for fault in (ValueError("broken"), KeyError("broken")):
            running.store.heartbeat_fault = fault
            await running.beats()
    await running.heartbeat.aclose()
    assert len(caplog.records) == 2


async def test_store_down_and_back_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """An outage calls back once when it begins, with the error, and once when it is over; nothing else is logged."""
    running, first = Running(), StoreDown("no route")
    await running.beats(2)
    running.store.heartbeat_fault = first
    await running.beats(3)
    running.store.heartbeat_fault = None
    await running.beats(3)
    running.store.heartbeat_fault = second = StoreDown("again")
    await running.beats(2)
    await running.heartbeat.aclose()
    assert running.changes == [first, None, second]
    assert caplog.records == []


async def test_failing_callback_does_not_end_the_heartbeat(caplog: pytest.LogCaptureFixture) -> None:
    """A callback that raises is logged, and the heartbeats go on."""

    def fail(_: StoreDown | None) -> None:
        raise KeyError

    running = Running()
    running.heartbeat._on_change = fail
    running.store.heartbeat_fault = StoreDown("gone")
    await running.beats(3)
    assert running.heartbeat.is_running
    await running.heartbeat.aclose()
    assert "KeyError" in caplog.text


async def test_close_settles_after_a_fault() -> None:
    """Closing sends the settlements that are left, also after heartbeats that failed, and raises nothing."""
    running = Running()
    running.store.heartbeat_fault = ValueError("broken")
    await running.beats()
    await running.queue_settlement()
    await running.heartbeat.aclose()
    assert not running.heartbeat.is_running
    assert await running.totals() == [(4, 0)]


@pytest.mark.parametrize("fault", [StoreDown("gone"), ValueError("broken"), asyncio.CancelledError()], ids=repr)
async def test_close_while_the_store_is_down(fault: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """Closing raises nothing where the last settlements fail; settlements that are lost to the store are counted in the log."""
    running = Running()
    await running.queue_settlement()
    running.store.heartbeat_fault = running.store.settle_fault = fault
    await running.beats()
    await running.heartbeat.aclose()
    assert await running.totals() == [(0, 10)]
    assert ("1 settlements could not be sent" in caplog.text) == (not isinstance(fault, ValueError))


async def test_close_is_bounded_where_the_store_hangs(caplog: pytest.LogCaptureFixture) -> None:
    """Closing waits neither for a heartbeat nor for a settlement without an end."""
    running = Running()
    await running.queue_settlement()
    running.store.gate.clear()
    await running.beats()
    await asyncio.wait_for(running.heartbeat.aclose(), 5)
    assert "1 settlements could not be sent" in caplog.text


async def test_cancelled_heartbeat_ends() -> None:
    """A cancellation of its task, as at the end of the loop, ends the heartbeat; closing afterwards works."""
    running = Running()
    await running.beats()
    task = running.heartbeat._task
    assert task is not None
    task.cancel()
    await asyncio.wait([task])
    assert not running.heartbeat.is_running
    await running.heartbeat.aclose()


async def test_cancelled_close_is_cancelled() -> None:
    """A cancellation of the task that closes reaches it: it is not swallowed as a fault of the store."""
    running = Running()
    await running.queue_settlement()
    running.store.gate.clear()
    await running.beats()
    running.heartbeat._close_timeout = 60.0
    closing = asyncio.create_task(running.heartbeat.aclose())
    for _ in range(10):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    assert running.ledger.pending_settlements == 1


async def test_gateway_settles_when_its_heartbeat_had_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that closes after an unexpected fault of the heartbeat sends its settlements and closes its store."""
    monkeypatch.setattr("sidecar.server.gateway.STORE_HEARTBEAT_SECONDS", 0.0)
    store = FaultyStore()
    store.heartbeat_fault = ValueError("broken")
    gateway = Gateway(settings_of(tmp_path, "http://127.0.0.1:9"), policy_services=make_services(store=store))
    await store.reserve("1", [CLAIM])
    store.settle_fault = StoreDown("gone")
    await gateway._ledger._settlements.send("1", {CLAIM.key: 4})
    await store.reached(3)
    store.settle_fault = None
    await gateway.close()
    assert [(each.spent, each.reserved) for each in await store.accounts()] == [(4, 0)]
