"""The ledger: one reservation and one settlement for a call, and what is charged."""

from __future__ import annotations

import openai
import pytest
from claims import totals
from counting_store import services_with_counting_store
from failing_store import FailingStore
from hook_log import LoggedPolicy
from watched_sink import WatchedSink

from policies import (
    Batch,
    Budget,
    Calendar,
    Call,
    Chain,
    Claim,
    ClaimLease,
    Lease,
    Policy,
    Rate,
    Rejection,
    RetryClassifier,
    StoreDown,
    UpstreamError,
    Usage,
)
from policies.engine.ledger import Ledger
from policies.testing import FakeClock, ScriptedUpstream, make_call, make_services, serve

pytestmark = pytest.mark.anyio

BROKEN = UpstreamError(openai.OpenAIError("down"), "overloaded")
PAID = UpstreamError(openai.OpenAIError("silent"), "timeout", worked=True)


def limits() -> list[Policy]:
    """Return one rate and two budgets."""
    return [
        Rate(name="rate", requests=5),
        Budget(name="day", tokens=1000),
        Budget(name="min", tokens=900, window="minute"),
    ]


async def test_failing_charge_keeps_the_reservation() -> None:
    """A claim whose `charge` raises is charged its reservation, and the other leases settle."""

    class BrokenLease(ClaimLease):
        def charge(self, claim: Claim, usage: Usage) -> int:
            raise ZeroDivisionError

    class Broken(Policy, frozen=True):
        async def admit(self, call: Call) -> Lease:
            return BrokenLease(self.claim(call, 5, limit=1000, window=Calendar("day"), unit="tokens", per_token=1))

    services, store = services_with_counting_store()
    log: list[str] = []
    policies = [LoggedPolicy(log, name="a"), Broken(name="x"), Budget(name="y", tokens=1000)]
    served = await serve(policies, make_call("hi", services=services, body={"max_tokens": 40}))

    assert (served.text, log[-1]) == ("Hello world", "a settled")
    assert sorted((account.spent, account.reserved) for account in await store.accounts()) == [(7, 0), (45, 0)]


async def test_all_claims_are_one_store_operation() -> None:
    """All claims of a call are one `reserve` and one `settle`, for any number of limits."""
    services, store = services_with_counting_store()
    await serve(limits(), make_call("hi", services=services))

    assert store.steps == ["reserve 3", "settle"]


async def test_refusal_by_a_queue_releases_all_claims() -> None:
    """A call that a queue refuses releases all its claims, also its request of the rate."""
    services, store = services_with_counting_store()

    class Full(Policy, frozen=True):
        async def enter(self, call: Call) -> Lease | None:
            raise Rejection(503, "queue_full", "full")

    policies = [Rate(name="rate", requests=1), Budget(name="b", tokens=1000), Full(name="full")]
    for _ in range(3):
        served = await serve(policies, make_call("hi", services=services))
        assert served.rejection is not None
        assert served.rejection.code == "queue_full"

    assert store.steps == ["reserve 2", "release"] * 3
    assert await totals(store) == [(0, 0)]


async def test_failed_attempt_that_worked_is_reserved_once_more() -> None:
    """A failed attempt that may have cost its prompt is charged, and the next one is reserved beside it."""
    services, store = services_with_counting_store()
    upstream = ScriptedUpstream([PAID], [PAID], ["ok"])
    served = await serve(
        [Budget(name="b", tokens=1000), RetryClassifier(name="r")],
        make_call("hi", services=services, body={"max_tokens": 9}),
        upstream,
    )

    assert served.text == "ok"
    assert store.steps == ["reserve 1", "reserve 1", "reserve 1", "settle"]
    assert await totals(store) == [(3 * 5 + 1, 0)]


async def test_no_retry_beyond_the_budget() -> None:
    """A call is not retried if its budget cannot reserve the prompt once more."""
    upstream = ScriptedUpstream([PAID], ["ok"])
    call = make_call("hi", body={"max_tokens": 95})
    served = await serve([Budget(name="b", tokens=100), RetryClassifier(name="r")], call, upstream)

    assert (served.failure, len(upstream.calls)) == (PAID, 1)


@pytest.mark.parametrize(
    ("policies", "code"),
    [
        ([Rate(name="r", requests=1)], None),
        ([Budget(name="b", tokens=100)], "store_unavailable"),
        ([Rate(name="r", requests=1), Budget(name="b", tokens=100)], "store_unavailable"),
        ([Budget(name="b", tokens=100, when_store_fails="admit")], None),
        ([Rate(name="r", requests=1, when_store_fails="refuse")], "store_unavailable"),
    ],
)
async def test_failed_store_refuses_budgets_and_admits_rates(policies: list[Policy], code: str | None) -> None:
    """While the store is down a budget refuses with 503 and a rate admits, unless `when_store_fails` says otherwise."""
    store = FailingStore(clock=FakeClock())
    store.failure = StoreDown("gone")
    served = await serve(policies, make_call("hi", services=make_services(store=store)))

    assert (served.rejection.code if served.rejection else None) == code
    assert served.rejection is None or served.rejection.status == 503


async def test_settlement_is_sent_again_after_an_outage() -> None:
    """A settlement that failed is sent again when the store is back, and charged once."""
    clock = FakeClock()
    store = FailingStore(clock=clock)
    services = make_services(clock=clock, store=store)
    ledger = Ledger(services)
    chain = Chain([Budget(name="b", tokens=1000)], ScriptedUpstream(["a", "b"]), services, ledger=ledger)

    def take_down(_: Batch) -> None:
        store.failure = StoreDown("gone")

    await chain.run(make_call("hi", services=services), WatchedSink(take_down))
    assert [account.spent for account in await store.accounts()] == [0]
    store.failure = None
    await chain.run(make_call("hi", services=services), WatchedSink(take_down))
    store.failure = None
    await ledger.catch_up()

    assert await totals(store) == [(14, 0)]


async def test_first_call_after_an_outage_finds_what_the_others_gave_back() -> None:
    """Queued settlements are sent before a new call reserves, so that it is not refused for what they give back."""
    clock = FakeClock()
    store = FailingStore(clock=clock)
    services = make_services(clock=clock, store=store)
    chain = Chain([Budget(name="b", tokens=100)], ScriptedUpstream(["a", "b"]), services)

    def take_down(_: Batch) -> None:
        store.failure = StoreDown("gone")

    await chain.run(make_call("hi", services=services, body={"max_tokens": 90}), WatchedSink(take_down))
    store.failure = None
    served = await serve([], make_call("hi", services=services, body={"max_tokens": 80}), chain=chain)

    assert served.text == "ab"
    assert await totals(store) == [(14, 0)]


async def test_reported_usage_is_charged() -> None:
    """Usage that upstream reports is charged instead of the estimate."""
    services, store = services_with_counting_store()
    upstream = ScriptedUpstream(["a"], usage=Usage(input=100, output=11))
    await serve([Budget(name="b", tokens=1000)], make_call("hi", services=services), upstream)

    assert await totals(store) == [(111, 0)]


async def test_inexact_usage_refunds_nothing() -> None:
    """Usage that is only a lower bound refunds no part of the reservation."""
    services, store = services_with_counting_store()
    upstream = ScriptedUpstream(["a"], usage=Usage(output=1, unreported=1, exact=False))
    await serve([Budget(name="b", tokens=1000)], make_call("hi", services=services, body={"max_tokens": 50}), upstream)

    assert await totals(store) == [(55, 0)]
