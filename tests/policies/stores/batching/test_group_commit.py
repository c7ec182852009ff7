"""Group commit: which operations share a transaction, in which order, and what happens if it fails."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from busy_store import RATE, BusyStore
from claims import budget
from stored import query

from policies.api.store import Grant, ReservationGone, StoreDown
from policies.engine.reservations.settlement_queue import Settlement, SettlementQueue
from policies.stores.sqlite.store import SQLiteStore
from policies.testing import FakeClock, make_services

pytestmark = pytest.mark.anyio

KEY = budget(100).key


async def test_operations_of_one_iteration_share_a_transaction(busy: BusyStore) -> None:
    """Operations of one event-loop iteration are one transaction, in their order: a settlement makes room for the next."""
    await asyncio.gather(busy.store.reserve("1", [budget(100, 100)]), busy.store.release("unknown"))
    busy.transactions.reset()
    refused, _, admitted, last = await asyncio.gather(
        busy.store.reserve("2", [budget(100, 40)]),
        busy.store.settle("1", {KEY: 50}),
        busy.store.reserve("3", [budget(100, 40)]),
        busy.store.reserve("4", [budget(100, 40)]),
    )
    assert (refused.refused, admitted.refused, last.refused) == (0, None, 0)
    assert busy.transactions.count() == 1
    assert await busy.totals() == [(50, 40)]


async def test_batch_is_bounded_by_its_claims(busy: BusyStore) -> None:
    """Calls with many limits are committed in batches of 640 claims, so that no step of the event loop takes long."""
    claims = [budget(1_000_000, name=f"b{at}") for at in range(20)]
    await asyncio.gather(busy.store.reserve("running", [budget(100)]), busy.store.release("unknown"))
    busy.transactions.reset()
    await asyncio.gather(*[busy.store.reserve(f"{at}", claims) for at in range(80)])
    assert busy.transactions.count() == 3
    await asyncio.gather(*[busy.store.settle(f"{at}", {}) for at in range(80)])
    assert busy.transactions.count() == 6


async def test_operations_of_a_lone_call_do_not_wait(tmp_path: Path) -> None:
    """The operations of a call that runs alone are executed at once, without an event-loop iteration."""
    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock())
    for operation in (store.reserve("1", [budget(100)]), store.settle("1", {}), store.release("1")):
        with pytest.raises(StopIteration):
            operation.send(None)
    await store.aclose()


async def test_operations_stop_waiting_where_none_come_together(busy: BusyStore) -> None:
    """After operations that were alone, most do not wait; once one finds others, all wait for each other again."""
    waited = []
    for at in range(300):
        operation = busy.store.reserve(f"{at}", [RATE])
        try:
            operation.send(None)
        except StopIteration:
            waited.append(False)
        else:
            waited.append(True)
            operation.close()
            await asyncio.sleep(0)
    assert sum(waited[-200:]) <= 4
    await asyncio.gather(*[busy.store.reserve(f"again {at}", [RATE]) for at in range(200)])
    busy.transactions.reset()
    await asyncio.gather(*[busy.store.release(f"again {at}") for at in range(200)])
    assert busy.transactions.count() == 2  # of at most 128 operations each


async def test_file_is_not_locked_while_operations_are_queued(busy: BusyStore) -> None:
    """While operations are queued, another process can write to the file."""
    other = sqlite3.connect(busy.path, timeout=0, isolation_level=None)
    operation = asyncio.create_task(busy.store.reserve("1", [budget(100)]))
    await asyncio.sleep(0)
    other.execute("BEGIN IMMEDIATE")
    other.execute("COMMIT")
    other.close()
    assert (await operation).refused is None


async def reserve_one_per_iteration(busy: BusyStore, iterations: int, prefix: str) -> int:
    """Start a reservation in each of *iterations*; return how many transactions that takes."""
    await busy.come_together()
    busy.transactions.reset()
    operations = []
    for at in range(iterations):
        operations.append(asyncio.create_task(busy.store.reserve(f"{prefix} {at}", [RATE])))
        await asyncio.sleep(0)
    await asyncio.gather(*operations)
    return busy.transactions.count()


async def test_shared_file_groups_several_iterations(busy: BusyStore) -> None:
    """Where other processes use the file, operations of some iterations share a transaction; otherwise those of one."""
    assert await reserve_one_per_iteration(busy, 8, "alone") > 2
    other = await busy.share()
    assert await reserve_one_per_iteration(busy, 8, "few") == 1
    assert 1 < await reserve_one_per_iteration(busy, 40, "many") < 10
    await other.aclose()


async def test_shared_file_waits_only_while_operations_come(busy: BusyStore) -> None:
    """Where other processes use the file, an operation waits for one more iteration, and longer only if that brings another."""
    other = await busy.share()
    operation = asyncio.create_task(busy.store.release("unknown"))
    for _ in range(4):
        await asyncio.sleep(0)
    assert operation.done()
    await other.aclose()


async def test_shared_file_waits_for_some_milliseconds(busy: BusyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where other processes use the file, operations wait for milliseconds at most, however long iterations are."""
    other = await busy.share()
    await busy.come_together()
    busy.transactions.reset()
    loop, operations = asyncio.get_running_loop(), []
    now = [loop.time()]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", lambda: now[0])
        for at in range(4):
            operations.append(asyncio.create_task(busy.store.reserve(f"{at}", [RATE])))
            await asyncio.sleep(0)
            now[0] += 0.02
        await asyncio.gather(*operations)
    assert busy.transactions.count() >= 2
    await other.aclose()


async def test_operations_are_executed_in_their_order(busy: BusyStore) -> None:
    """An operation that comes while others are queued is executed after them, also if no other call is running any more."""
    other = await busy.share()
    first = asyncio.create_task(busy.store.reserve("first", [budget(100, 90)]))
    await asyncio.sleep(0)
    ends = [asyncio.create_task(busy.store.release(name)) for name in ("running", "running too")]
    second = asyncio.create_task(busy.store.reserve("second", [budget(100, 90)]))
    await asyncio.gather(*ends)
    assert ((await first).refused, (await second).refused) == (None, 0)
    await other.aclose()


def disk_full(busy: BusyStore) -> contextlib.AbstractContextManager[None]:
    """Let no file grow: the commit fails, because it writes to the WAL."""

    @contextlib.contextmanager
    def limited() -> Iterator[None]:
        known = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, known[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, known)

    return limited()


@contextlib.contextmanager
def broken_table(busy: BusyStore) -> Iterator[None]:
    """Let every insertion into the table of reservations fail."""
    query(busy.path, "CREATE TRIGGER broken BEFORE INSERT ON hold BEGIN SELECT RAISE(ABORT, 'broken'); END")
    yield
    query(busy.path, "DROP TRIGGER broken")


@contextlib.contextmanager
def locked(busy: BusyStore) -> Iterator[None]:
    """Lock the file for longer than the store waits."""
    with contextlib.closing(sqlite3.connect(busy.path, timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@pytest.mark.parametrize("fault", [disk_full, broken_table, locked])
async def test_failed_transaction_fails_all_its_operations(
    busy: BusyStore, fault: Callable[[BusyStore], contextlib.AbstractContextManager[None]]
) -> None:
    """If the transaction fails, all of its operations raise StoreDown and the file has none of them; the next one works."""
    with fault(busy):
        operations = [
            busy.store.reserve("1", [budget(100)]),
            busy.store.settle("running", {}),
            busy.store.reserve("2", [budget(100)]),
        ]
        results = await asyncio.gather(*operations, return_exceptions=True)
    assert [isinstance(each, StoreDown) for each in results] == [True, True, True]
    busy.monotonic.advance(0.5)  # until then the store counts as down
    assert await busy.totals() == []
    assert (await busy.store.reserve("1", [budget(100)])).refused is None
    await busy.store.settle("1", {KEY: 7})
    assert await busy.totals() == [(7, 0)]


async def test_error_of_one_operation_fails_it_alone(busy: BusyStore) -> None:
    """An operation that raises an error of its own does not fail the others of its group."""
    absurd = budget(2**71, 2**70)
    first, ended, broken, _, last = await asyncio.gather(
        busy.store.reserve("1", [budget(100)]),
        busy.store.reserve("unknown", [budget(100)], part=1),
        busy.store.reserve("2", [absurd]),
        busy.store.settle("1", {KEY: 3}),
        busy.store.reserve("3", [budget(100)]),
        return_exceptions=True,
    )
    assert isinstance(ended, ReservationGone)
    assert isinstance(broken, OverflowError)
    assert not isinstance(first, BaseException)
    assert not isinstance(last, BaseException)
    assert await busy.totals() == [(3, 10)]


async def test_reservations_after_an_outage_see_all_queued_settlements(busy: BusyStore) -> None:
    """Calls that come together after an outage are reserved after all queued settlements, not after the first of them."""
    services = make_services(store=busy.store)
    queue = SettlementQueue(services)
    for at in range(8):
        await busy.store.reserve(f"{at}", [budget(100, 12)])
        queue.add(Settlement(f"{at}", {KEY: 0}))

    async def comes(at: int) -> Grant:
        await queue.catch_up()
        return await busy.store.reserve(f"new {at}", [budget(100, 20)])

    grants = await asyncio.gather(*[comes(at) for at in range(5)])
    assert [grant.refused for grant in grants] == [None] * 5
