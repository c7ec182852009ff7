"""Refusals of limits: the case, the numbers, the wait, and whether SDKs should retry."""

from __future__ import annotations

import random
from typing import Any

import pytest
from claims import budget, reserve
from hypothesis import given
from hypothesis import strategies as st

from policies import Budget, Calendar, Call, Claim, ClaimLease, Grant, Lease, Policy, Rate, Rejection, Sliding, Standing
from policies.api.services import Services
from policies.engine.chain import Chain
from policies.engine.ledger import Ledger
from policies.engine.reservations.refusals import (
    MAX_HELD_WAIT,
    MIN_HELD_WAIT,
    UNKNOWN_CALL_SECONDS,
    CallDurations,
    refusal_of,
)
from policies.testing import FakeClock, ScriptedUpstream, make_call, make_services, serve

pytestmark = pytest.mark.anyio

MINUTE, DAY = Calendar("minute"), Calendar("day")
NOW = 1_800_000_000.0


class Limit(Policy, frozen=True):
    """Claims *amount* of *limit* in *window*."""

    amount: int = 1
    limit: int = 10
    window: Any = DAY

    async def admit(self, call: Call) -> Lease:
        return ClaimLease(self.claim(call, self.amount, limit=self.limit, window=self.window))


class FixedRandom(random.Random):
    """Draws the same number always."""

    def __init__(self, drawn: float) -> None:
        super().__init__()
        self._drawn = drawn

    def random(self) -> float:
        return self._drawn


async def refused(policy: Policy, services: Services, *before: str, **body: Any) -> Rejection:
    """Return the refusal of a call by *policy*, after *before* were served."""
    for text in before:
        assert (await serve([policy], make_call(text, services=services, body=body))).rejection is None
    served = await serve([policy], make_call("hi", services=services, body=body))
    assert served.rejection is not None
    return served.rejection


async def test_never_fitting_call_has_no_wait() -> None:
    """A call that needs more than the whole limit is final and has no `retry_after`, whatever else is spent or held."""
    for window in (MINUTE, DAY, Sliding(1.0)):
        services = make_services()
        await serve([Limit(name="l", amount=10, window=window)], make_call(services=services))
        rejection = await refused(Limit(name="l", amount=11, window=window), services)
        assert (rejection.retry_after, rejection.final) == (None, True)
        assert rejection.details | {"resets_at": 0} == {
            "policy": "l",
            "limit": 10,
            "used": 10,
            "held": 0,
            "needed": 11,
            "resets_at": 0,
            "case": "never_fits",
        }


@pytest.mark.parametrize(
    ("window", "wait", "final"),
    [
        (Sliding(60.0), 60, False),
        (Sliding(61.0), 61, True),
        (Sliding(3600.0), 3600, True),
        (Calendar("minute"), 60, False),
        (Calendar("hour"), 3600, True),
        (Calendar("day"), 86_400, True),
    ],
)
async def test_spent_limit_waits_for_its_reset(window: Calendar | Sliding, wait: float, *, final: bool) -> None:
    """A spent limit has the wait until its reset; it is final unless SDKs can wait that long."""
    services = make_services(clock=FakeClock(1_799_971_200.0))  # midnight
    rejection = await refused(Limit(name="l", amount=6, window=window), services, "first")
    details = rejection.details
    assert (details["case"], details["used"], details["held"], details["needed"]) == ("spent", 6, 0, 6)
    late = details["resets_at"] - 1_799_971_200 - wait
    assert 0 <= late <= (wait / 60 if isinstance(window, Sliding) else 0)
    assert rejection.retry_after is not None
    assert wait <= rejection.retry_after <= (wait + late if final else wait)
    assert rejection.final == final


async def test_lease_decides_whether_a_long_wait_is_final() -> None:
    """A lease may say that SDKs should retry although a calendar limit is spent for long."""

    class Patient(ClaimLease):
        def refusal(self, claim: Claim, standing: Standing) -> Rejection:
            return Rejection(429, "later", f"in {standing.retry_after:g} s", final=False)

    class Images(Limit, frozen=True):
        async def admit(self, call: Call) -> Lease:
            return Patient(self.claim(call, 10, limit=10, window=DAY))

    rejection = await refused(Images(name="i"), make_services(clock=FakeClock(1_799_971_200.0)), "first")
    assert (rejection.message, rejection.final, rejection.retry_after) == ("in 86400 s", False, 86_400)


async def test_held_limit_is_retried_within_seconds() -> None:
    """Where running calls have reserved what is missing, SDKs retry after about as long as calls took lately."""
    services = make_services()
    services.random = FixedRandom(0.5)
    ledger = Ledger(services)
    chain = Chain([Limit(name="l", amount=6)], ScriptedUpstream(), services, ledger=ledger)
    call = make_call("hi", services=services)
    await reserve(services.store, "running", Limit(name="l").claim(call, 5, limit=10, window=DAY))
    for wait, known in ((UNKNOWN_CALL_SECONDS, None), (8.0, 8.0)):
        if known is not None:
            ledger.durations.add(known)
        rejection = (await serve([], make_call("hi", services=services), chain=chain)).rejection
        assert rejection is not None
        assert (rejection.retry_after, rejection.final) == (wait * 1.25, False)
        assert {name: rejection.details[name] for name in ("case", "used", "held", "needed")} == {
            "case": "held",
            "used": 0,
            "held": 5,
            "needed": 6,
        }


async def test_held_wait_ends_with_the_window() -> None:
    """A limit whose window resets sooner than running calls end is worth a try at its reset."""
    standing = Standing(100, 90, NOW + 1.5, held=90, needed=20)
    claim = budget(100, 20)
    rejection = refusal_of(claim, ClaimLease(claim), Grant(0, [standing], NOW, 0), CallDurations(FixedRandom(0)))
    assert (rejection.retry_after, rejection.final) == (1.5, False)


async def test_store_without_held_amounts_is_told_as_spent() -> None:
    """A store of a deployment that reports only what is used is taken as spent, and what is needed is computed."""
    standing = Standing(100, 90, NOW + 1000)
    claim = budget(100, 10, per_token=1, floor=20)
    rejection = refusal_of(claim, ClaimLease(claim), Grant(15, [standing], NOW, 0), CallDurations(FixedRandom(0)))
    assert (rejection.details["case"], rejection.details["needed"], rejection.retry_after) == ("spent", 25, 1000)


@given(st.lists(st.floats(0, 1e9), max_size=60), st.floats(0, 1, exclude_max=True))
def test_held_wait_is_bounded(durations: list[float], drawn: float) -> None:
    """The wait is bounded whatever calls took, and spread over half of it, so that refused calls do not return at once."""
    known = CallDurations(FixedRandom(drawn))
    for seconds in durations:
        known.add(seconds)
    assert MIN_HELD_WAIT <= known.held_wait() <= MAX_HELD_WAIT * 1.5


def test_held_wait_follows_recent_calls() -> None:
    """The wait is the average duration of recent calls: older ones are forgotten."""
    known = CallDurations(FixedRandom(0))
    known.add(3.0)
    assert known.held_wait() == 3.0
    for _ in range(100):
        known.add(8.0)
    assert known.held_wait() == pytest.approx(8.0, rel=0.01)


async def test_calls_without_a_reservation_do_not_count() -> None:
    """Only calls that held an amount of a calendar window count: a rate holds nothing, a refused call nothing either."""
    clock = FakeClock()
    services = make_services(clock=clock)
    ledger = Ledger(services)
    slow = ScriptedUpstream(["a"])

    class Takes(Policy, frozen=True):
        seconds: float = 0.0

        async def enter(self, call: Call) -> None:
            clock.advance(self.seconds)
            if self.seconds > 100:
                raise Rejection(503, "queue_full", "full")

    limits = [Rate(name="r", requests=9), Budget(name="b", tokens=1000)]
    for policies in ([limits[0], Takes(name="t", seconds=20)], [limits[1], Takes(name="t", seconds=200)]):
        await serve([], make_call("hi", services=services), chain=Chain(policies, slow, services, ledger=ledger))
    assert ledger.durations.held_wait() <= UNKNOWN_CALL_SECONDS * 1.5
    policies = [limits[1], Takes(name="t", seconds=20)]
    await serve([], make_call("hi", services=services), chain=Chain(policies, slow, services, ledger=ledger))
    assert 20 <= ledger.durations.held_wait() <= 30


@pytest.mark.parametrize(
    ("spent", "held", "own", "case"), [(15, 80, 80, "spent"), (5, 90, 20, "held"), (95, 0, 0, "spent")]
)
def test_refusal_of_a_running_call_is_final(spent: int, held: int, own: int, case: str) -> None:
    """A running call that gets no further part ends: the refusal is final without a wait; its own reservation is spent."""
    claim = budget(100, 10, name="b")
    standing = Standing(100, spent + held, NOW + 1.5, held, 10)
    durations = CallDurations(FixedRandom(0))
    rejection = refusal_of(claim, ClaimLease(claim), Grant(0, [standing], NOW, 0), durations, own=own)
    found = rejection.details
    assert (rejection.retry_after, rejection.final) == (None, True)
    assert (found["used"], found["held"], found["case"]) == (spent + own, held - own, case)
    assert "retry" not in rejection.message
