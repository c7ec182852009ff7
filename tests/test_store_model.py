"""Any interleaving of what stores are asked for, beside a model that is too simple to be wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from policies.store import Claim, Store
from policies.stores.memory import MemoryStore
from policies.stores.sqlite import SQLiteStore
from policies.testing import FakeClock
from policies.window import Calendar, Sliding

T = TypeVar("T")
LIMIT, RATE, WINDOW = 100, 4, 30.0


def run(step: Coroutine[Any, Any, T]) -> T:
    """Run a step that never waits."""
    try:
        step.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    raise AssertionError("a store waited")


def claims(base: int, each: int, floor: int) -> tuple[Claim, Claim]:
    common: dict[str, Any] = {"identity": "t"}
    budget = Claim(
        policy="b", unit="tokens", limit=LIMIT, window=Calendar("minute"), base=base, each=each, floor=floor, **common
    )
    return budget, Claim(policy="r", unit="requests", limit=RATE, window=Sliding(WINDOW), base=1, **common)


class StoreMachine(RuleBasedStateMachine):
    """Holds by call: the minute they were made in, their size; spent by minute; the moments of admitted calls."""

    def make(self) -> Store:
        return MemoryStore(clock=self.clock)

    @initialize()
    def begin(self) -> None:
        self.clock = FakeClock(1_800_000_000.0)
        self.store: Store = self.make()
        self.holds: dict[str, list[tuple[float, int]]] = {}
        self.spent: dict[float, int] = {}
        self.moments: dict[str, float] = {}
        self.count = 0

    @property
    def minute(self) -> float:
        return self.clock.now // 60 * 60

    def used(self) -> int:
        held = sum(size for parts in self.holds.values() for minute, size in parts if minute == self.minute)
        return held + self.spent.get(self.minute, 0)

    def recent(self) -> int:
        return sum(1 for moment in self.moments.values() if moment > self.clock.now - WINDOW)

    @rule(base=st.integers(0, 60), each=st.integers(0, 3), floor=st.integers(0, 30), ceiling=st.integers(0, 80))
    def reserve(self, base: int, each: int, floor: int, ceiling: int) -> None:
        """Reserve, and again: the same answer, nothing more taken."""
        self.count += 1
        call, wanted = f"c{self.count}", claims(base, each, floor)
        best = min(ceiling, (LIMIT - self.used() - base) // each) if each else ceiling
        fits = self.used() + base <= LIMIT and (not each or best >= min(floor, ceiling)) and self.recent() < RATE
        for _ in range(2):
            grant = run(self.store.reserve(call, wanted, ceiling))
            assert (grant.refused is None) == fits
        if fits:
            assert grant.ceiling == best
            self.holds[call] = [(self.minute, base + each * best)]
            self.moments[call] = self.clock.now

    @rule(data=st.data(), base=st.integers(0, 40))
    def top_up(self, data: st.DataObject, base: int) -> None:
        """Add a part to a hold."""
        if self.holds:
            call = data.draw(st.sampled_from(sorted(self.holds)))
            part = len(self.holds[call])
            grant = run(self.store.reserve(call, claims(base, 0, 0)[:1], part=part))
            assert (grant.refused is None) == (self.used() + base <= LIMIT)
            if grant.refused is None:
                self.holds[call].append((self.minute, base))

    @rule(data=st.data(), charge=st.integers(0, 150), refund=st.booleans())
    def settle(self, data: st.DataObject, charge: int, *, refund: bool) -> None:
        """Settle twice; only the first counts."""
        if self.holds:
            call = data.draw(st.sampled_from(sorted(self.holds)))
            parts = self.holds.pop(call)
            for again in range(2):
                run(self.store.settle(call, {claims(0, 0, 0)[0].key: charge + again}, refund=refund))
            rest = charge if refund else max(charge, sum(size for _, size in parts))
            for minute, size in parts:
                share = min(rest, size)
                rest -= share
                self.spent[minute] = self.spent.get(minute, 0) + share
            self.spent[parts[0][0]] += rest

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Give a hold back."""
        if self.holds:
            call = data.draw(st.sampled_from(sorted(self.holds)))
            del self.holds[call]
            self.moments.pop(call, None)
            run(self.store.release(call))

    @rule(seconds=st.sampled_from([0.5, 1, 7, 15, 29.5, 30, 45]))
    def wait(self, seconds: float) -> None:
        """Let time pass, while the process lives."""
        self.clock.advance(seconds)
        run(self.store.beat())

    @invariant()
    def agrees(self) -> None:
        """The store's books are the model's."""
        if not hasattr(self, "store"):
            return
        now = [(x.spent, x.reserved) for x in run(self.store.accounts())]
        held = sum(size for parts in self.holds.values() for minute, size in parts if minute == self.minute)
        assert now in (
            [(self.spent.get(self.minute, 0), held)],
            [] if held == self.spent.get(self.minute, 0) == 0 else None,
        )

    def teardown(self) -> None:
        if hasattr(self, "store"):
            for call in list(self.holds):
                run(self.store.settle(call, {}))
            assert all(account.reserved == 0 for account in run(self.store.accounts()))
            run(self.store.aclose())


class SQLiteMachine(StoreMachine):
    """The same on a file, and its process may die at any moment."""

    def make(self) -> Store:
        self.folder = tempfile.TemporaryDirectory()
        return SQLiteStore(Path(self.folder.name) / "s.db", clock=self.clock)

    @rule()
    def die(self) -> None:
        """Die, and come back after the grace: every hold has become a charge."""
        run(self.store.aclose())
        self.clock.advance(31)
        self.store = SQLiteStore(Path(self.folder.name) / "s.db", clock=self.clock)
        for parts in self.holds.values():
            for minute, size in parts:
                self.spent[minute] = self.spent.get(minute, 0) + size
        self.holds.clear()

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestMemory = StoreMachine.TestCase
TestMemory.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSQLite = SQLiteMachine.TestCase
TestSQLite.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
