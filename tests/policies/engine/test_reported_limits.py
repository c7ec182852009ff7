"""The limits that the policies of a chain report without a call: `RunningPolicy.limits_for`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from policies import Budget, Call, Chain, Claim, Lease, Match, Policy, Rate, RunningPolicy, Trim
from policies.api.claim import By
from policies.api.hooks import HookError
from policies.api.lease import ClaimLease
from policies.api.services import Services
from policies.api.window import Calendar
from policies.builtin.prices import Price
from policies.engine.error_report import HookMisuse
from policies.testing import ScriptedUpstream, make_call, make_services, serve

pytestmark = pytest.mark.anyio


def chain_of(*policies: Policy) -> Chain:
    return Chain(policies, ScriptedUpstream(), make_services())


@pytest.mark.parametrize("by", ["tenant", "ip", "model", "user", "global", ["tenant", "model"]])
async def test_reported_limits_are_those_that_calls_are_counted_by(by: By) -> None:
    """`rate` and `budget` report the counters and the limits of the claims of their leases."""
    services = make_services()
    policies = [
        Rate(name="rate", requests=9, by=by),
        Budget(name="tokens", tokens=1_000_000, by=by, window="hour"),
        Budget(name="usd", usd=5.0, by=by, prices={"*": Price(input=1.0, output=2.0)}, timezone="Europe/Berlin"),
    ]
    chain = Chain(policies, ScriptedUpstream(), services)
    call = make_call("hi", services=services, ip="10.0.0.7", tenant="acme", body={"user": "ann"})
    reported = [claim for listed in chain.limits_for(call) for claim in listed.claims]
    await serve([], call, chain=chain)

    counted = [claim for claim, _ in call.standings]
    assert [(each.key, each.limit, each.by) for each in reported] == [(each.key, each.limit, by) for each in counted]
    for one, other in zip(reported, counted, strict=True):
        assert (one.group_key, one.overflow_key) == (other.group_key, other.overflow_key)
        assert one.max_identities == other.max_identities


def test_limits_are_listed_in_the_order_of_the_chain_with_their_calls() -> None:
    """Each policy that reports limits is listed with its `only`, whether or not the call fits; others are not."""
    only = Match(path="/api/chat")
    found = chain_of(
        Trim(name="trim", max_messages=3), Rate(name="a", requests=1, match=only), Rate(name="b", requests=2)
    )
    listed = found.limits_for(make_call("hi"))
    assert [(each.policy, each.match) for each in listed] == [("a", only), ("b", Match())]
    assert found.unlisted == []


class Counted(RunningPolicy):
    """A running object that reports the limit of its policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def limits_for(self, call: Call) -> Iterator[Claim]:  # type: ignore[override]  # a generator is accepted
        yield self.policy.claim(call, 1, limit=3, window=Calendar("day"))

    async def admit(self, call: Call) -> Lease:
        return ClaimLease(*self.limits_for(call))


class Counting(Policy, frozen=True):
    def start(self, services: Services) -> RunningPolicy:
        return Counted(self)


class Waits(Policy, frozen=True):
    async def enter(self, call: Call) -> Lease | None:
        return None


async def test_running_objects_report_limits() -> None:
    """The object of `start` reports the limits; policies of a deployment that report none are named."""
    only = Match(tenant="acme")
    chain = chain_of(Counting(name="counted"), Waits(name="waits"), Waits(name="theirs", match=only))
    (listed,) = chain.limits_for(make_call("hi"))
    assert (listed.policy, [claim.limit for claim in listed.claims]) == ("counted", [3])
    assert chain.unlisted == [("waits", Match()), ("theirs", only)]


async def test_policy_that_only_waits_reports_limits() -> None:
    """The limits of a policy are reported whatever hook it refuses calls in."""

    class Slots(Policy, frozen=True):
        def limits_for(self, call: Call) -> Sequence[Claim]:
            return [self.claim(call, 1, limit=3, window=Calendar("day"))]

        async def enter(self, call: Call) -> Lease | None:
            return None

    chain = chain_of(Slots(name="slots"))
    assert [each.policy for each in chain.limits_for(make_call("hi"))] == ["slots"]
    assert chain.unlisted == []


@pytest.mark.parametrize(("made", "message"), [(None, "returned None"), ([1], "a sequence with a int"), (5, "a int")])
def test_wrong_results_are_refused(made: Any, message: str) -> None:
    """Another result than a sequence of claims raises an error that names the class and the hook."""

    class Wrong(Policy, frozen=True):
        def limits_for(self, call: Call) -> Sequence[Claim]:
            found: Sequence[Claim] = made
            return found

        async def admit(self, call: Call) -> Lease | None:
            return None

    with pytest.raises(HookMisuse, match=rf"Wrong\.limits_for.*{message}"):
        chain_of(Wrong(name="wrong")).limits_for(make_call("hi"))


def test_hook_is_checked_when_the_class_is_defined() -> None:
    """A coroutine, a misspelt name and a method on a lease are refused with the cure."""
    with pytest.raises(HookError, match="without async"):

        class Async(Policy, frozen=True):
            async def limits_for(self, call: Call) -> Sequence[Claim]:  # type: ignore[override]  # the mistake
                return ()

    with pytest.raises(HookError, match="did you mean limits_for"):

        class Misspelt(Policy, frozen=True):
            def limit_for(self, call: Call) -> Sequence[Claim]:
                return ()

    with pytest.raises(HookError, match="define limits_for on the policy"):

        class OnLease(Lease):
            def limits_for(self, call: Call) -> Sequence[Claim]:
                return ()
