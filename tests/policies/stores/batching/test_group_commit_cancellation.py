"""Group commit: operations of calls that are cancelled, of loops that stop, and of a store that is closed."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest
from busy_store import RATE, BusyStore
from claims import budget
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.stores.batching.group_commit import MAX_BATCH_OPERATIONS, StoreBusy
from policies.stores.sqlite.store import SQLiteStore
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio

KEY = budget(100).key


async def test_cancelled_reservation_is_not_made(busy: BusyStore) -> None:
    """A reservation that is cancelled while it is queued is not executed, and its settlement changes nothing."""
    step = asyncio.create_task(busy.store.reserve("1", [budget(100)]))
    await asyncio.sleep(0)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    await busy.store.settle("1", {KEY: 5})
    assert await busy.totals() == []


@pytest.mark.parametrize("how", ["scope", "task"])
@pytest.mark.parametrize("early", [False, True])
async def test_settlement_of_a_cancelled_call_is_executed(busy: BusyStore, how: str, *, early: bool) -> None:
    """A settlement is executed, also in a call that is cancelled before or meanwhile; the cancellation is delivered afterwards."""
    await asyncio.gather(busy.store.reserve("1", [budget(100)]), busy.store.release("unknown"))
    scope, seen = anyio.CancelScope(), []

    async def call() -> None:
        with scope:
            if early:
                (scope if how == "scope" else asyncio.current_task() or scope).cancel()
            try:
                await busy.store.settle("1", {KEY: 5})
            except asyncio.CancelledError:
                seen.append(await busy.totals())
                raise

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    assert not seen, "it waits for the end of the iteration"
    if not early:
        (scope if how == "scope" else task).cancel()
    await asyncio.wait([task])
    assert seen == [[(5, 0)]]
    assert task.cancelled() == (how == "task")
    assert await busy.totals() == [(5, 0)]


async def test_shield_after_a_settlement_is_not_interrupted(busy: BusyStore) -> None:
    """Code that a cancelled call shields after its settlement, such as that of its leases, is not interrupted."""
    await asyncio.gather(busy.store.reserve("1", [budget(100)]), busy.store.release("unknown"))
    seen = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await busy.store.settle("1", {KEY: 5})
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0)
                seen.append("shielded")
            await asyncio.sleep(0)
            seen.append("never")
    assert seen == ["shielded"]


async def test_timeout_during_a_settlement_is_raised_there(busy: BusyStore) -> None:
    """A timeout that ends during a settlement is raised after it, and interrupts nothing that follows."""
    await asyncio.gather(busy.store.reserve("1", [budget(100)]), busy.store.release("unknown"))
    over = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout_at(over):
            await busy.store.settle("1", {KEY: 5})
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert (task.cancelling(), await busy.totals()) == (0, [(5, 0)])


@pytest.mark.parametrize("closed", [False, True])
def test_settlement_queued_on_a_stopped_loop(tmp_path: Path, *, closed: bool) -> None:
    """A settlement that was queued when its loop stopped is executed by the next loop, or when the store is closed."""
    other = SQLiteStore(tmp_path / "s.db", clock=FakeClock())
    asyncio.run(other.heartbeat())
    store, first = SQLiteStore(tmp_path / "s.db", clock=FakeClock()), asyncio.new_event_loop()

    async def reserved() -> None:
        for name in "ABC":
            await store.reserve(name, [budget(100)])

    async def nothing() -> None:
        pass

    first.run_until_complete(reserved())
    settling = first.create_task(store.settle("A", {KEY: 3}))
    first.run_until_complete(nothing())
    if closed:
        first.close()
    else:
        asyncio.run(store.settle("B", {KEY: 3}))
        first.run_until_complete(asyncio.wait_for(settling, 5))
        first.close()
    asyncio.run(store.aclose())
    (account,) = asyncio.run(other.accounts())
    asyncio.run(other.aclose())
    assert (account.spent, account.reserved) == ((3, 20) if closed else (6, 10))


def test_operations_of_a_stopped_loop_do_not_block(tmp_path: Path) -> None:
    """Operations that are left on a stopped loop do not block those of another loop."""
    busy = BusyStore(tmp_path)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def leaves() -> None:
        await busy.begin()
        step = asyncio.ensure_future(busy.store.reserve("left", [budget(100)]))
        step.add_done_callback(lambda each: each.cancelled() or each.exception())
        await asyncio.sleep(0)
        first.stop()

    try:
        running = first.create_task(leaves())
        first.run_forever()
        for task in asyncio.all_tasks(first):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio would log it
        grant = second.run_until_complete(asyncio.wait_for(busy.store.reserve("2", [budget(100)]), 5))
        second.run_until_complete(busy.store.aclose())
    finally:
        first.close()
        second.close()
    assert (running.done(), grant.refused) == (True, None)


async def test_closing_executes_queued_operations(busy: BusyStore) -> None:
    """Closing a store first executes the operations that are queued."""
    step = asyncio.create_task(busy.store.reserve("1", [budget(100)]))
    await asyncio.sleep(0)
    await busy.store.aclose()
    assert (await step).refused is None
    assert await busy.totals() == [(0, 10)]


async def test_closing_a_locked_file_fails_all_operations_but_cancelled_ones(busy: BusyStore) -> None:
    """Where the file is locked, closing fails what is queued, behind operations of cancelled callers too: none waits for ever."""
    with contextlib.closing(sqlite3.connect(busy.path, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        steps = [asyncio.create_task(busy.store.reserve(f"{at}", [RATE])) for at in range(MAX_BATCH_OPERATIONS + 20)]
        await asyncio.sleep(0)
        steps[-10].cancel()
        await busy.store.aclose()
        results = await asyncio.wait_for(asyncio.gather(*steps, return_exceptions=True), 5)
    kinds = [type(each) for each in results]
    assert (kinds.count(StoreBusy), kinds.count(asyncio.CancelledError)) == (len(steps) - 1, 1)


CALL = st.tuples(st.integers(1, 60), st.integers(0, 80), st.integers(0, 4), st.integers(0, 4), st.integers(0, 9))
"""A call: what it reserves and costs, the iterations before each step, and the one in which it is cancelled."""


@settings(max_examples=60, deadline=None)
@given(calls=st.lists(CALL, max_size=20), by_scope=st.booleans())
def test_limits_hold_in_any_interleaving(calls: list[tuple[int, ...]], *, by_scope: bool) -> None:
    """In any interleaving with cancellations no limit is exceeded, each call is settled once, and no reservation stays."""

    async def story(folder: Path) -> None:
        busy = BusyStore(folder)
        await busy.begin()
        charged = []

        async def call(at: int, base: int, cost: int, begins: int, goes_on: int, scope: anyio.CancelScope) -> None:
            admitted = False
            try:
                with scope:
                    for _ in range(begins):
                        await asyncio.sleep(0)
                    admitted = (await busy.store.reserve(f"{at}", [RATE, budget(100, base)])).refused is None
                    for _ in range(goes_on):
                        await asyncio.sleep(0)
            finally:
                with scope:
                    if admitted:
                        charged.append(cost)
                        await busy.store.settle(f"{at}", {KEY: cost})
                    else:
                        await busy.store.release(f"{at}")

        tasks, scopes = [], []
        for at, (base, cost, begins, goes_on, _) in enumerate(calls):
            scopes.append(anyio.CancelScope())
            tasks.append(asyncio.create_task(call(at, base, cost, begins, goes_on, scopes[-1])))
        for iteration in range(20):
            for at, (*_, ends) in enumerate(calls):
                if ends == iteration:
                    (scopes if by_scope else tasks)[at].cancel()
            for spent, reserved in await busy.totals():
                assert spent <= sum(cost for _, cost, *_ in calls)
                assert reserved == 0 or spent + reserved <= 100 + max(cost for _, cost, *_ in calls) * len(calls)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await busy.totals() in ([(sum(charged), 0)], [] if not charged else None)
        await busy.store.aclose()

    with TemporaryDirectory() as name:
        asyncio.run(story(Path(name)))
