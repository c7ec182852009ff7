"""Any sequence of operations on a store, compared with a simple model: one suite for all stores."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis_server import RedisServer, with_own_prefix
from ring_model import RingModel

from policies.api.claim import Claim
from policies.api.store import ReservationGone, Store
from policies.api.window import Calendar, Sliding
from policies.stores.opening import open_store
from policies.testing import FakeClock

T = TypeVar("T")
LIMIT, RATE, WINDOW, GRACE = 100, 4, 30.0, 30.0


def budget(base: int, each: int = 0, floor: int = 0) -> Claim:
    window = Calendar("minute")
    return Claim(
        policy="b", identity="t", unit="tokens", limit=LIMIT, window=window, base=base, per_token=each, floor=floor
    )


def rate() -> Claim:
    return Claim(policy="r", identity="t", unit="requests", limit=RATE, window=Sliding(WINDOW), base=1)


class StoreMachine(RuleBasedStateMachine):
    """The model: by call the minute and size of each reserved part; what is spent by minute; what the rate counts.

    Parts of a process that died are charged, and corrected by a later settlement.
    """

    url: ClassVar[str]
    """The store under test; each example has counters of its own."""

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(step)

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock(1_800_000_000.0)
        self.address = with_own_prefix(self.url) if self.url.startswith("redis") else self.url
        self.store: Store = self.opened()
        self.reservations: dict[str, list[tuple[float, int, bool]]] = {}
        self.spent: dict[float, int] = {}
        self.ring = RingModel(WINDOW)
        self.ended: list[str] = []
        self.count = 0

    def opened(self) -> Store:
        return open_store(self.address, folder=Path(self.folder.name), clock=self.clock)

    @property
    def minute(self) -> float:
        return self.clock.now // 60 * 60

    def reserved(self, of: float) -> int:
        parts = [part for parts in self.reservations.values() for part in parts]
        return sum(size for minute, size, is_charged in parts if minute == of and not is_charged)

    def used(self) -> int:
        return self.used_in(self.minute)

    def used_in(self, minute: float) -> int:
        return self.reserved(minute) + self.spent.get(minute, 0)

    def refused(self, needed: int) -> int | None:
        """Return the index of the claim that keeps a call out for longest: of the budget (0), or of the rate (1)."""
        fits, has_room = self.used() + needed <= LIMIT, self.recent() < RATE
        if fits or has_room:
            return None if fits and has_room else 0 if has_room else 1
        if needed > LIMIT:
            return 0
        is_spent = self.spent.get(self.minute, 0) + needed > LIMIT
        return 0 if is_spent and self.minute + 60 >= self.ring.first_expiry(self.clock.now) else 1

    def recent(self) -> int:
        return self.ring.used(self.clock.now)

    @rule(base=st.integers(0, 60), each=st.integers(0, 3), floor=st.integers(0, 30), ceiling=st.integers(0, 80))
    def reserve(self, base: int, each: int, floor: int, ceiling: int) -> None:
        """Reserve twice: the second gets the same answer and reserves nothing, and the limit is never exceeded."""
        self.count += 1
        call, wanted = f"c{self.count}", [budget(base, each, floor), rate()]
        best = min(ceiling, (LIMIT - self.used() - base) // each) if each else ceiling
        needed = base + each * min(floor, ceiling)
        refused = self.refused(needed)
        for _ in range(2):
            grant = self.run(self.store.reserve(call, wanted, ceiling))
            assert grant.refused == refused
            assert grant.now == self.clock.now
        if refused is None:
            assert grant.ceiling == best
            self.reservations[call] = [(self.minute, base + each * best, False)]
            self.ring.add(call, self.clock.now)
            assert self.used() <= LIMIT
        assert [standing.used for standing in grant.standings] == [self.used(), self.recent()]
        assert [standing.held for standing in grant.standings] == [self.reserved(self.minute), 0]
        assert [standing.needed for standing in grant.standings] == [needed * (refused == 0), refused == 1]
        assert grant.standings[0].resets_at == self.minute + 60
        if self.recent():
            assert grant.standings[1].resets_at == pytest.approx(self.ring.first_expiry(self.clock.now), abs=1e-5)

    @precondition(lambda self: bool(getattr(self, "reservations", None)))
    @rule(data=st.data(), base=st.integers(0, 40))
    def top_up(self, data: st.DataObject, base: int) -> None:
        """Add a part to a reservation, in the minute of its first part."""
        call = data.draw(st.sampled_from(sorted(self.reservations)))
        part, first = len(self.reservations[call]), self.reservations[call][0][0]
        grant = self.run(self.store.reserve(call, [budget(base)], part=part))
        assert (grant.refused is None) == (self.used_in(first) + base <= LIMIT)
        if grant.refused is None:
            self.reservations[call].append((first, base, False))

    @precondition(lambda self: bool(getattr(self, "reservations", None)))
    @rule(data=st.data(), charge=st.integers(0, 150), refund=st.booleans())
    def settle(self, data: st.DataObject, charge: int, *, refund: bool) -> None:
        """Settle twice; the second does nothing."""
        call = data.draw(st.sampled_from(sorted(self.reservations)))
        parts = self.reservations.pop(call)
        self.ended.append(call)
        for again in range(2):
            self.run(self.store.settle(call, {budget(0).key: charge + again}, refund=refund))
        rest = charge if refund else max(charge, sum(size for _, size, _ in parts))
        for minute, size, is_charged in parts:
            share = min(rest, size)
            rest -= share
            self.spent[minute] = self.spent.get(minute, 0) + share - size * is_charged
        self.spent[parts[0][0]] += rest

    @precondition(lambda self: bool(getattr(self, "reservations", None)))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Release a reservation."""
        call = data.draw(st.sampled_from(sorted(self.reservations)))
        for minute, size, is_charged in self.reservations.pop(call):
            self.spent[minute] = self.spent.get(minute, 0) - size * is_charged
        self.ring.remove(call)
        self.ended.append(call)
        self.run(self.store.release(call))

    @precondition(lambda self: bool(getattr(self, "ended", None)))
    @rule(data=st.data(), how=st.sampled_from(["settle", "release", "top_up"]))
    def late(self, data: st.DataObject, how: str) -> None:
        """Ending a call again changes nothing, and it cannot reserve more."""
        call = data.draw(st.sampled_from(self.ended))
        if how == "settle":
            self.run(self.store.settle(call, {budget(0).key: 50}))
        elif how == "release":
            self.run(self.store.release(call))
        else:
            with pytest.raises(ReservationGone):
                self.run(self.store.reserve(call, [budget(1)], part=1))

    @rule(seconds=st.sampled_from([0.5, 1, 7, 15, 29.5, 30, 45]))
    def wait(self, seconds: float) -> None:
        """Let time pass, with a heartbeat."""
        self.clock.advance(seconds)
        self.run(self.store.heartbeat())

    @precondition(lambda self: getattr(self, "url", "memory://") != "memory://")
    @rule()
    def die(self) -> None:
        """Crash, and restart after the grace: every reservation has been charged."""
        self.run(self.store.aclose())
        self.clock.advance(GRACE + 1)
        self.store = self.opened()
        self.run(self.store.heartbeat())
        for call, parts in self.reservations.items():
            for minute, size, is_charged in parts:
                self.spent[minute] = self.spent.get(minute, 0) + size * (not is_charged)
            self.reservations[call] = [(minute, size, True) for minute, size, _ in parts]

    @invariant()
    def agrees(self) -> None:
        """The accounts of the store equal those of the model."""
        if not hasattr(self, "store"):
            return
        now = [(x.spent, x.reserved) for x in self.run(self.store.accounts())]
        spent = self.spent.get(self.minute, 0)
        assert now in ([(spent, self.reserved(self.minute))], [] if self.reserved(self.minute) == spent == 0 else None)

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            for call in list(self.reservations):
                self.run(self.store.settle(call, {}))
            assert all(account.reserved == 0 for account in self.run(self.store.accounts()))
        finally:
            self.run(self.store.aclose())
            self.loop.close()
            self.folder.cleanup()


@pytest.mark.parametrize(("kind", "examples"), [("memory", 200), ("sqlite", 80), ("redis", 60)])
def test_store_equals_its_model(request: pytest.FixtureRequest, kind: str, examples: int) -> None:
    """After any sequence of operations the accounts equal the model's: within the limit, each reservation ended once."""
    if kind == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        address = server.url
    else:
        address = {"memory": "memory://", "sqlite": "sqlite:///s.db"}[kind]
    machine = type("Machine", (StoreMachine,), {"url": address})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None))
