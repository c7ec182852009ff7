"""The store heartbeat: no exception ends it, each state change and each kind of fault is reported once, and closing settles."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from claims import totals
from scripts import answers
from serving import settings_of, sidecar
from wire import eventually, upstream

from policies import Budget, Chain, Claim, Grant, Usage
from policies.api.store import StoreDown
from policies.engine.ledger import Ledger
from policies.stores.memory import MemoryStore
from policies.testing import FakeClock, ScriptedUpstream, make_call, make_services, serve
from sidecar.server.gateway import Gateway
from sidecar.server.store_heartbeat import StoreHeartbeat

pytestmark = pytest.mark.anyio

HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 9}


class FaultyStore(MemoryStore):
    """Counts heartbeats; raises *heartbeat_fault* or *settle_fault* where one is set, waits for *gate* where one is closed."""

    def __init__(self) -> None:
        super().__init__(clock=FakeClock())
        self.heartbeats = 0
        self.heartbeat_fault: BaseException | None = None
        self.settle_fault: BaseException | None = None
        self.reserve_fault: BaseException | None = None
        self.settle_gate = asyncio.Event()
        self.settle_gate.set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def heartbeat(self) -> None:
        self.heartbeats += 1
        if self.heartbeat_fault is not None:
            raise self.heartbeat_fault
        await self.gate.wait()

    async def reached(self, heartbeats: int) -> None:
        await eventually(lambda: self.heartbeats >= heartbeats)

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        if self.reserve_fault is not None:
            raise self.reserve_fault
        return await super().reserve(call_id, claims, ceiling, part)

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
        await self.gate.wait()
        await self.settle_gate.wait()
        if self.settle_fault is not None:
            raise self.settle_fault
        await super().settle(call_id, charges, refund=refund)


class Running:
    """A heartbeat over a `FaultyStore`; time passes only in `beats`."""

    def __init__(self, **options: Any) -> None:
        self.store = FaultyStore()
        self.services = make_services(store=self.store)
        self.ledger = Ledger(self.services)
        self.changes: list[StoreDown | None] = []
        self._ticks = asyncio.Semaphore(0)
        options = {"on_change": self.changes.append, "close_timeout": 0.05, **options}
        self.heartbeat = StoreHeartbeat(self.services, self.ledger, 2.0, sleep=self._sleep, **options)
        before = asyncio.all_tasks()
        self.heartbeat.start()
        (self.task,) = asyncio.all_tasks() - before

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

    def chain(self) -> Chain:
        """Return a chain whose calls use 4 tokens."""
        upstream = ScriptedUpstream(["a"], usage=Usage(input=2, output=2))
        return Chain([Budget(name="b", tokens=100)], upstream, self.services, ledger=self.ledger)

    async def queue_settlement(self) -> None:
        """Make a call that reserved 10 tokens and used 4, and whose settlement the store did not take."""
        fault, self.store.settle_fault = self.store.settle_fault, StoreDown("gone")
        await serve([], make_call("hi", services=self.services, body={"max_tokens": 5}), chain=self.chain())
        self.store.settle_fault = fault
        assert self.ledger.pending_settlements == 1


@pytest.mark.parametrize("fault", [ValueError("broken"), asyncio.CancelledError(), TimeoutError()], ids=repr)
async def test_unexpected_exception_does_not_end_the_heartbeat(
    fault: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """A heartbeat that raises anything is tried again; the fault is logged once, and settlements are sent all the same."""
    running = Running()
    await running.queue_settlement()
    caplog.clear()
    running.store.heartbeat_fault = fault
    await running.beats(5)
    assert running.heartbeat.is_running
    assert await totals(running.store) == [(4, 0)]
    running.store.heartbeat_fault = None
    await running.beats(2)
    await running.heartbeat.aclose()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert type(fault).__name__ in caplog.text
    assert running.changes == [], "only StoreDown is an outage"


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


async def test_heartbeats_do_not_wait_for_settlements() -> None:
    """While queued settlements are being sent, heartbeats go on: otherwise the store would take the process for dead."""
    running = Running()
    await running.queue_settlement()
    running.store.settle_gate.clear()
    await running.beats(5)
    assert (running.store.heartbeats, running.ledger.pending_settlements) == (5, 1)
    running.store.settle_gate.set()
    await running.beats()
    assert await totals(running.store) == [(4, 0)]
    await running.heartbeat.aclose()


async def test_failure_that_a_call_has_reported_is_reported_as_over() -> None:
    """If only a call has noticed that the store is down, the next heartbeat reports that it is up again, once."""
    running = Running()
    await running.beats()
    running.store.reserve_fault = StoreDown("gone")
    served = await serve([], make_call("hi", services=running.services), chain=running.chain())
    assert served.rejection is not None
    await running.beats(3)
    await running.heartbeat.aclose()
    assert running.changes == [None]


async def test_failing_callback_does_not_end_the_heartbeat(caplog: pytest.LogCaptureFixture) -> None:
    """A callback that raises is logged, and the heartbeats continue."""

    def fail(_: StoreDown | None) -> None:
        raise KeyError

    running = Running(on_change=fail)
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
    assert await totals(running.store) == [(4, 0)]


@pytest.mark.parametrize("fault", [StoreDown("gone"), ValueError("broken"), asyncio.CancelledError()], ids=repr)
async def test_close_raises_nothing_while_the_store_is_down(
    fault: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing raises nothing if the last settlements fail; the log counts the settlements that could not be sent."""
    running = Running()
    await running.queue_settlement()
    running.store.heartbeat_fault = running.store.settle_fault = fault
    await running.beats()
    await running.heartbeat.aclose()
    assert await totals(running.store) == [(0, 10)]
    assert ("1 settlements could not be sent" in caplog.text) == (not isinstance(fault, ValueError))


async def test_close_is_bounded_while_the_store_hangs(caplog: pytest.LogCaptureFixture) -> None:
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
    running.task.cancel()
    await asyncio.wait([running.task])
    assert not running.heartbeat.is_running
    await running.heartbeat.aclose()


async def test_cancelled_close_is_cancelled() -> None:
    """A cancellation of the task that closes reaches it: it is not swallowed as a fault of the store."""
    running = Running(close_timeout=60.0)
    await running.queue_settlement()
    running.store.gate.clear()
    await running.beats()
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
    services = make_services(store=store)
    text = '[[policy]]\nuse = "budget"\ntokens = 100\n'
    async with upstream(answers) as up:
        settings = settings_of(tmp_path, up.url, text)
        async with sidecar(settings, make_gateway=lambda each: Gateway(each, policy_services=services)) as served:
            store.settle_fault = StoreDown("gone")
            status, _, _ = await served.post("/v1/chat/completions", HI)
            await store.reached(3)
            before = await totals(store)
            store.settle_fault = None

    assert (status, before) == (200, [(0, 5 + 9)])
    assert await totals(store) == [(5 + 2, 0)]
