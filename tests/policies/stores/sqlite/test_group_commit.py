"""Steps of many calls that fall into one turn of the loop: one transaction, and each of them as if it were alone."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api.claim import Claim
from policies.api.store import Grant, ReservationGone, StoreDown
from policies.api.window import Calendar, Sliding
from policies.engine.settlement_queue import Settlement, SettlementQueue
from policies.stores.sqlite.group_commit import LONGEST
from policies.stores.sqlite.store import SQLiteStore
from policies.testing import FakeClock, make_services

pytestmark = pytest.mark.anyio


def budget(base: int = 10, *, limit: int = 100) -> Claim:
    return Claim(policy="b", identity="t", unit="tokens", limit=limit, window=Calendar("day"), base=base)


RATE = Claim(policy="r", identity="t", unit="requests", limit=1000, window=Sliding(60.0), base=1)
KEY = budget().key


class Busy:
    """A store in which two calls are running, and which knows that steps have company."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "s.db"
        self.store = SQLiteStore(self.path, clock=FakeClock())

    async def begin(self) -> None:
        for name in ("running", "running too"):
            await self.store.reserve(name, [RATE])
        await asyncio.gather(*[self.store.release("unknown") for _ in range(8)])

    async def totals(self) -> list[tuple[int, int]]:
        return [(each.spent, each.reserved) for each in await self.store.accounts()]

    def commits(self) -> list[str]:
        """Return a list that grows with each commit from now on."""
        said: list[str] = []
        sql = self.store._file.sql

        def spied(statement: str, *more: Any) -> sqlite3.Cursor:
            if statement == "COMMIT":
                said.append(statement)
            return sql(statement, *more)

        self.store._file.sql = spied
        return said


@pytest.fixture
async def busy(tmp_path: Path) -> AsyncIterator[Busy]:
    made = Busy(tmp_path)
    await made.begin()
    yield made
    await made.store.aclose()


async def test_one_transaction(busy: Busy) -> None:
    """What is asked for in one turn is made in one transaction, in its order: a settlement makes room for the next call."""
    await asyncio.gather(busy.store.reserve("1", [budget(100)]), busy.store.release("unknown"))
    commits = busy.commits()
    refused, _, admitted, last = await asyncio.gather(
        busy.store.reserve("2", [budget(40)]),
        busy.store.settle("1", {KEY: 50}),
        busy.store.reserve("3", [budget(40)]),
        busy.store.reserve("4", [budget(40)]),
    )
    assert (refused.refused, admitted.refused, last.refused) == (0, None, 0)
    assert len(commits) == 1
    assert await busy.totals() == [(50, 40)]


async def test_alone_at_once(tmp_path: Path) -> None:
    """The steps of a call that runs alone are made before they could wait for anything."""
    store = SQLiteStore(tmp_path / "s.db", clock=FakeClock())
    for step in (store.reserve("1", [budget()]), store.settle("1", {}), store.release("1")):
        with pytest.raises(StopIteration):
            step.send(None)
    await store.aclose()


async def test_company_is_learnt(busy: Busy) -> None:
    """Where steps find no company, most of the next ones do not wait for any; where one does, all are queued again."""
    waited = []
    for at in range(300):
        step = busy.store.reserve(f"{at}", [RATE])
        try:
            step.send(None)
        except StopIteration:
            waited.append(False)
        else:
            waited.append(True)
            step.close()
            await asyncio.sleep(0)
    assert sum(waited[-200:]) <= 4
    steps = [asyncio.create_task(busy.store.reserve(f"again {at}", [RATE])) for at in range(200)]
    await asyncio.gather(*steps)
    commits = busy.commits()
    await asyncio.gather(*[busy.store.release(f"again {at}") for at in range(200)])
    assert len(commits) == 1


async def test_nothing_is_locked_meanwhile(busy: Busy) -> None:
    """While steps are queued others may write to the file."""
    other = sqlite3.connect(busy.path, timeout=0, isolation_level=None)
    step = asyncio.create_task(busy.store.reserve("1", [budget()]))
    await asyncio.sleep(0)
    other.execute("BEGIN IMMEDIATE")
    other.execute("COMMIT")
    other.close()
    assert (await step).refused is None


async def test_patience_where_others_write(busy: Busy, tmp_path: Path) -> None:
    """Where others use the file, steps of some turns are made together, as long as each turn brings one; else of one turn."""

    async def transactions(turns: int) -> int:
        await asyncio.gather(*[busy.store.release("unknown") for _ in range(200)])  # so that company is known
        commits, steps = busy.commits(), []
        for _ in range(turns):
            steps.append(asyncio.create_task(busy.store.release("unknown")))
            await asyncio.sleep(0)
        await asyncio.gather(*steps)
        return len(commits)

    assert await transactions(8) > 2
    other = SQLiteStore(tmp_path / "s.db", clock=FakeClock())
    await other.heartbeat()
    await busy.store.heartbeat()
    assert await transactions(8) == 1
    assert 1 < await transactions(40) < 10
    await other.aclose()


async def test_patience_has_an_end(busy: Busy, tmp_path: Path) -> None:
    """Where others use the file, a step that finds no company waits for one more turn and no longer."""
    other = SQLiteStore(tmp_path / "s.db", clock=FakeClock())
    await other.heartbeat()
    await busy.store.heartbeat()
    step = asyncio.create_task(busy.store.release("unknown"))
    for _ in range(4):
        await asyncio.sleep(0)
    assert step.done()
    await other.aclose()


async def test_patience_is_short(busy: Busy, tmp_path: Path) -> None:
    """Where others use the file, steps wait for some milliseconds at most, however long the turns are and whatever they bring."""
    other = SQLiteStore(tmp_path / "s.db", clock=FakeClock())
    await other.heartbeat()
    await busy.store.heartbeat()
    await asyncio.gather(*[busy.store.release("unknown") for _ in range(200)])
    commits, steps = busy.commits(), []
    for _ in range(4):
        steps.append(asyncio.create_task(busy.store.release("unknown")))
        await asyncio.sleep(0)
        time.sleep(2 * LONGEST)  # noqa: ASYNC251  # so long does a turn take
    await asyncio.gather(*steps)
    assert len(commits) >= 2
    await other.aclose()


async def test_first_come_first_served(busy: Busy, tmp_path: Path) -> None:
    """What is asked for while a step is queued is made behind it, also where all other calls have ended meanwhile."""
    other = SQLiteStore(tmp_path / "s.db", clock=FakeClock())
    await other.heartbeat()
    await busy.store.heartbeat()
    first = asyncio.create_task(busy.store.reserve("first", [budget(90)]))
    await asyncio.sleep(0)
    ends = [asyncio.create_task(busy.store.release(name)) for name in ("running", "running too")]
    second = asyncio.create_task(busy.store.reserve("second", [budget(90)]))
    await asyncio.gather(*ends)
    assert ((await first).refused, (await second).refused) == (None, 0)
    await other.aclose()


@pytest.mark.parametrize("closed", [False, True])
def test_a_loop_that_stops(tmp_path: Path, *, closed: bool) -> None:
    """A settlement that was queued when its loop stopped is made by the next loop, or at the end; the file is closed then."""
    other = SQLiteStore(tmp_path / "s.db", clock=FakeClock())
    asyncio.run(other.heartbeat())
    store, first = SQLiteStore(tmp_path / "s.db", clock=FakeClock()), asyncio.new_event_loop()

    async def reserved() -> None:
        for name in "ABC":
            await store.reserve(name, [budget()])

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


@pytest.mark.parametrize("failing", ["COMMIT", "INSERT INTO hold", "BEGIN IMMEDIATE"])
async def test_all_fail_together(busy: Busy, failing: str) -> None:
    """When the transaction fails, all of its steps have failed and nothing of them is in the file; the next is well."""
    sql, failure = busy.store._file.sql, sqlite3.OperationalError("disk I/O error")
    failure.sqlite_errorcode = sqlite3.SQLITE_IOERR

    def broken(statement: str, *more: Any) -> sqlite3.Cursor:
        if statement.startswith(failing):
            raise failure
        return sql(statement, *more)

    busy.store._file.sql = broken
    steps = [busy.store.reserve("1", [budget()]), busy.store.settle("running", {}), busy.store.reserve("2", [budget()])]
    results = await asyncio.gather(*steps, return_exceptions=True)
    assert [type(each) for each in results] == [StoreDown, StoreDown, StoreDown]
    assert await busy.totals() == []
    assert (await busy.store.reserve("1", [budget()])).refused is None
    await busy.store.settle("1", {KEY: 7})
    assert await busy.totals() == [(7, 0)]


async def test_one_fails_alone(busy: Busy) -> None:
    """A step that fails for a reason of its own takes none of the others with it."""
    absurd = budget(2**70, limit=2**71)
    first, ended, broken, _, last = await asyncio.gather(
        busy.store.reserve("1", [budget()]),
        busy.store.reserve("unknown", [budget()], part=1),
        busy.store.reserve("2", [absurd]),
        busy.store.settle("1", {KEY: 3}),
        busy.store.reserve("3", [budget()]),
        return_exceptions=True,
    )
    assert isinstance(ended, ReservationGone)
    assert isinstance(broken, OverflowError)
    assert not isinstance(first, BaseException)
    assert not isinstance(last, BaseException)
    assert await busy.totals() == [(3, 10)]


async def test_a_cancelled_reservation(busy: Busy) -> None:
    """A reservation that is cancelled while it is queued has not been made, and its settlement changes nothing."""
    step = asyncio.create_task(busy.store.reserve("1", [budget()]))
    await asyncio.sleep(0)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    await busy.store.settle("1", {KEY: 5})
    assert await busy.totals() == []


@pytest.mark.parametrize("how", ["scope", "task"])
@pytest.mark.parametrize("early", [False, True])
async def test_a_settlement_is_made_whoever_is_cancelled(busy: Busy, how: str, *, early: bool) -> None:
    """A settlement is made, also in a call that is cancelled before or meanwhile; then that is told, and not before."""
    await asyncio.gather(busy.store.reserve("1", [budget()]), busy.store.release("unknown"))
    scope, told = anyio.CancelScope(), []

    async def call() -> None:
        with scope:
            if early:
                (scope if how == "scope" else asyncio.current_task() or scope).cancel()
            try:
                await busy.store.settle("1", {KEY: 5})
            except asyncio.CancelledError:
                told.append(await busy.totals())
                raise

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    assert not told, "it waits for the end of the turn"
    if not early:
        (scope if how == "scope" else task).cancel()
    await asyncio.wait([task])
    assert told == [[(5, 0)]]
    assert task.cancelled() == (how == "task")
    assert await busy.totals() == [(5, 0)]


async def test_a_shield_behind_a_settlement_holds(busy: Busy) -> None:
    """What a cancelled call shields after its settlement, such as its leases, is not interrupted by it."""
    await asyncio.gather(busy.store.reserve("1", [budget()]), busy.store.release("unknown"))
    told = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await busy.store.settle("1", {KEY: 5})
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0)
                told.append("shielded")
            await asyncio.sleep(0)
            told.append("never")
    assert told == ["shielded"]


async def test_a_time_limit_around_a_settlement(busy: Busy) -> None:
    """A time that is over in the settlement's turn is told there, and hits nothing that follows."""
    await asyncio.gather(busy.store.reserve("1", [budget()]), busy.store.release("unknown"))
    over = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout_at(over):
            await busy.store.settle("1", {KEY: 5})
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert (task.cancelling(), await busy.totals()) == (0, [(5, 0)])


def test_a_loop_that_was_stopped(tmp_path: Path) -> None:
    """Steps that a stopped loop has left behind hold up nobody."""
    busy = Busy(tmp_path)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def leaves() -> None:
        await busy.begin()
        step = asyncio.ensure_future(busy.store.reserve("left", [budget()]))
        step.add_done_callback(lambda each: each.cancelled() or each.exception())
        await asyncio.sleep(0)
        first.stop()

    try:
        running = first.create_task(leaves())
        first.run_forever()
        for task in asyncio.all_tasks(first):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        grant = second.run_until_complete(asyncio.wait_for(busy.store.reserve("2", [budget()]), 5))
        second.run_until_complete(busy.store.aclose())
    finally:
        first.close()
        second.close()
    assert (running.done(), grant.refused) == (True, None)


async def test_closing_makes_what_is_queued(busy: Busy) -> None:
    """A store that is closed first makes the steps that wait for the end of the turn."""
    step = asyncio.create_task(busy.store.reserve("1", [budget()]))
    await asyncio.sleep(0)
    await busy.store.aclose()
    assert (await step).refused is None
    assert await busy.totals() == [(0, 10)]


CALL = st.tuples(st.integers(1, 60), st.integers(0, 80), st.integers(0, 4), st.integers(0, 4), st.integers(0, 9))
"""What it reserves and costs, in which turns it begins and goes on, and after how many more it is cancelled, if it lives."""


@settings(max_examples=60, deadline=None)
@given(calls=st.lists(CALL, max_size=20), by_scope=st.booleans())
def test_any_interleaving(calls: list[tuple[int, ...]], *, by_scope: bool) -> None:
    """However calls fall together and are cancelled, no limit is passed, each is settled once, and no hold stays."""

    async def story(folder: Path) -> None:
        busy = Busy(folder)
        await busy.begin()
        charged = []

        async def call(at: int, base: int, cost: int, begins: int, goes_on: int, scope: anyio.CancelScope) -> None:
            admitted = False
            try:
                with scope:
                    for _ in range(begins):
                        await asyncio.sleep(0)
                    admitted = (await busy.store.reserve(f"{at}", [RATE, budget(base)])).refused is None
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
        for turn in range(20):
            for at, (*_, ends) in enumerate(calls):
                if ends == turn:
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


async def test_kept_settlements_come_first(busy: Busy) -> None:
    """Calls that come together after an outage find the room of all settlements that were kept, not of the first."""
    services = make_services(store=busy.store)
    settlements = SettlementQueue(services)
    for at in range(8):
        await busy.store.reserve(f"{at}", [budget(12)])
        settlements.add(Settlement(f"{at}", {KEY: 0}))

    async def comes(at: int) -> Grant:
        await settlements.catch_up()
        return await busy.store.reserve(f"new {at}", [budget(20)])

    grants = await asyncio.gather(*[comes(at) for at in range(5)])
    assert [grant.refused for grant in grants] == [None] * 5
