"""Fractions of a unit are charged once: never too little, and less than one unit too much for each counter and process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from fractions import Fraction
from math import ceil

import openai
import pytest
from claims import DAY_SECONDS, totals
from failing_store import FailingStore
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    Budget,
    Calendar,
    Call,
    Chain,
    Claim,
    ClaimLease,
    ExactCharge,
    Lease,
    Policy,
    RetryClassifier,
    Services,
    Standing,
    StoreDown,
    UpstreamError,
    Usage,
)
from policies.builtin.prices import Price
from policies.engine.call_control import CallControl
from policies.engine.ledger import Ledger
from policies.engine.reservations.rounding import MAX_ROUNDED_COUNTERS, Rounding
from policies.stores.memory import MemoryStore
from policies.testing import FakeClock, ScriptedUpstream, make_call, make_services

pytestmark = pytest.mark.anyio

PRICES = {"*": Price(0.02, 0.02)}
TEN_TOKENS = Usage(input=9, output=1)
"""At `PRICES`, 0.2 micro-dollars."""


def claim_of(identity: str, unit: str = "usd") -> Claim:
    window = Calendar("day")
    return Claim(policy="b", identity=identity, unit=unit, limit=10**9, window=window, base=1)  # type: ignore[arg-type]


def call_with(*claims: Claim, ends: float = 1.0) -> Call:
    """Return a call that holds *claims*, in windows that end at *ends*."""
    call = make_call("hi")
    call.standings = [(claim, Standing(claim.limit, 0, ends)) for claim in claims]
    return call


def chain_of(services: Services, *policies: Policy, usage: Usage = TEN_TOKENS) -> Chain:
    budget = Budget(name="b", usd=1.0, prices=PRICES)
    return Chain([budget, *policies], ScriptedUpstream(["a"], usage=usage), services, ledger=Ledger(services))


class Nowhere:
    """A client that reads nothing."""

    def write_nowait(self, batch: object) -> bool:
        return True

    async def drain(self) -> None:
        return


async def calls(chain: Chain, services: Services, number: int) -> None:
    for _ in range(number):
        await chain.run(make_call("hi", services=services), Nowhere())


def test_a_million_small_calls_cost_what_they_cost() -> None:
    """A million calls of 10 tokens at $0.02 per million tokens cost $0.20."""
    rounding, claim = Rounding(), claim_of("t")
    call, charge = call_with(claim), ExactCharge(PRICES["*"].cost(TEN_TOKENS))

    assert sum(rounding.whole(call, claim, charge, exact=True) for _ in range(1_000_000)) == 200_000


async def test_fractions_of_calls_add_up_in_the_store() -> None:
    """A hundred calls of 0.2 micro-dollars each are charged 20, and the record of each has its own cost."""
    services = make_services()
    chain, control = chain_of(services), CallControl()
    await calls(chain, services, 99)
    await chain.run(make_call("hi", services=services), Nowhere(), control=control)

    assert await totals(services.store) == [(20, 0)]
    assert control.cost_usd == 0.2e-6


async def test_concurrent_settlements_share_the_fractions() -> None:
    """Settlements that are in progress at once charge each fraction once."""

    class Slow(MemoryStore):
        is_remote = True

        async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
            for _ in range(int(call_id[0], 16)):
                await asyncio.sleep(0)
            await super().settle(call_id, charges, refund=refund)

    services = make_services(store=Slow(clock=FakeClock()))
    chain = chain_of(services)
    await asyncio.gather(*(calls(chain, services, 5) for _ in range(20)))

    assert await totals(services.store) == [(20, 0)]


@pytest.mark.parametrize("failing", [(3,), (3, 4), tuple(range(10))])
async def test_queued_settlement_charges_its_fraction_once(failing: tuple[int, ...]) -> None:
    """A settlement that the store takes later, after several failures, charges what it would have charged at once."""
    services = make_services(store=FailingStore(clock=FakeClock()))
    assert isinstance(services.store, FailingStore)
    ledger = Ledger(services)
    budget = Budget(name="b", usd=1.0, prices=PRICES)

    class Outage(Nowhere):
        """A client whose answer comes while the store is down, for some calls."""

        def __init__(self, number: int) -> None:
            self.number = number

        def write_nowait(self, batch: object) -> bool:
            if self.number in failing:
                store.failure = StoreDown("gone")
            return True

    store = services.store
    for number in range(10):
        chain = Chain([budget], ScriptedUpstream(["a", "b"], usage=TEN_TOKENS), services, ledger=ledger)
        await chain.run(make_call("hi", services=services), Outage(number))
        if number in failing:
            await ledger.catch_up()
        store.failure = None
    await ledger.catch_up()
    await ledger.catch_up()

    assert await totals(store) == [(2, 0)]


async def test_restart_costs_less_than_one_unit() -> None:
    """Fractions are forgotten in a restart: less than one micro-dollar is charged too much for each start."""
    services = make_services()
    for _ in range(3):
        await calls(chain_of(services), services, 6)  # 1.2 micro-dollars

    ((spent, _),) = await totals(services.store)
    assert 3 * 1.2 <= spent <= 3 * 1.2 + 3
    assert spent == 3 * 2


async def test_lower_bound_neither_keeps_nor_uses_a_fraction() -> None:
    """A settlement that refunds nothing may charge more than asked for, so its fraction counts as charged."""
    rounding, claim = Rounding(), claim_of("t")
    call = call_with(claim)

    charged = [
        rounding.whole(call, claim, ExactCharge(Fraction(2, 10)), exact=exact)
        for exact in (False, False, True, False, True)
    ]
    assert charged == [1, 1, 1, 1, 0]


async def test_window_charges_its_own_cost() -> None:
    """The fraction of a window is not used in the next one: each window is charged at least what it cost."""
    clock = FakeClock()
    services = make_services(clock=clock)
    chain = chain_of(services)
    for _ in range(3):
        await calls(chain, services, 1)
        assert await totals(services.store) == [(1, 0)]
        clock.advance(DAY_SECONDS)


@given(
    costs=st.lists(
        st.tuples(st.integers(0, 3), st.fractions(0, 50, max_denominator=10**9), st.booleans()), max_size=60
    ),
)
def test_each_counter_is_charged_its_cost(costs: list[tuple[int, Fraction, bool]]) -> None:
    """Each of several counters is charged at least its cost; what is rounded adds less than a unit and a millionth a call."""
    rounding, claims = Rounding(), [claim_of(f"t{at}") for at in range(4)]
    call = call_with(*claims)
    charged, cost, lost = [0] * 4, [Fraction()] * 4, [0] * 4
    for at, amount, exact in costs:
        units = rounding.whole(call, claims[at], ExactCharge(amount), exact=exact)
        assert type(units) is int
        assert 0 <= units <= ceil(amount)
        charged[at] += units
        cost[at] += amount
        lost[at] += not exact

    for at in range(4):
        assert cost[at] <= charged[at]
        assert charged[at] < cost[at] + 1 + lost[at] + Fraction(len(costs), 1_000_000)


def test_table_is_bounded() -> None:
    """Beyond the counters that are remembered each call is charged at least its cost; the latest are remembered."""
    rounding = Rounding()
    claims = [claim_of(f"t{at}") for at in range(MAX_ROUNDED_COUNTERS + 1)]
    charge = ExactCharge(Fraction(1, 2))
    for claim in claims:
        assert rounding.whole(call_with(claim), claim, charge, exact=True) == 1

    assert rounding.whole(call_with(claims[-1]), claims[-1], charge, exact=True) == 0
    assert rounding.whole(call_with(claims[0]), claims[0], charge, exact=True) == 1


async def test_whole_charges_are_not_changed() -> None:
    """A policy that charges whole units is charged them as they are."""

    class Fixed(ClaimLease):
        def charge(self, claim: Claim, usage: Usage) -> int:
            return 7

    class Flat(Policy, frozen=True):
        async def admit(self, call: Call) -> Lease:
            return Fixed(self.claim(call, 9, limit=1000, window=Calendar("day"), unit="usd"))

    services = make_services()
    chain = chain_of(services, Flat(name="x"))
    await calls(chain, services, 5)

    assert sorted(await totals(services.store)) == [(1, 0), (35, 0)]


async def test_retry_reserves_whole_units() -> None:
    """A policy may charge any fraction; what a failed attempt cost is reserved in whole units, and charged with the call."""

    class Thirds(ClaimLease):
        def charge(self, claim: Claim, usage: Usage) -> int:
            return ExactCharge(Fraction(4, 3))

    class Third(Policy, frozen=True):
        async def admit(self, call: Call) -> Lease:
            return Thirds(self.claim(call, 1, limit=1000, window=Calendar("day"), unit="usd"))

    held: list[int] = []

    class Watched(MemoryStore):
        async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
            held.extend(reserved for _, reserved in await totals(self))
            await super().settle(call_id, charges, refund=refund)

    services = make_services(store=Watched(clock=FakeClock()))
    failed = UpstreamError(openai.OpenAIError("silent"), "timeout", worked=True)
    chain = Chain([Third(name="x"), RetryClassifier(name="r")], ScriptedUpstream([failed], ["ok"]), services)
    await calls(chain, services, 1)

    assert held == [1 + 2]
    assert await totals(services.store) == [(2, 0)]
