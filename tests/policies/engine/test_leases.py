"""The leases that policies return: a limit is never lost without an error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from policies import (
    Budget,
    Calendar,
    Call,
    Chain,
    Claim,
    ClaimLease,
    Event,
    HookError,
    Lease,
    Match,
    Outcome,
    Policy,
    Rate,
    RunningPolicy,
    Services,
)
from policies.api.requests.request_form import MODELS_REQUEST
from policies.testing import ScriptedUpstream, make_call, make_services, serve

pytestmark = pytest.mark.anyio

LEASE_CURE = r"return the lease of `await super\(\).admit\(call\)`: it is the limit"


class TaggedBudget(Budget, frozen=True):
    """Written for the first API, in which `admit` of a budget returned nothing."""

    async def admit(self, call: Call):  # type: ignore[no-untyped-def]  # noqa: ANN201  # the mistake that is tested
        await super().admit(call)
        call.body["metadata"] = {"budget": self.name}


class OfficeHours(Rate, frozen=True):
    """Written for the first API, in which a rate had no `admit`."""

    async def admit(self, call: Call):  # type: ignore[no-untyped-def]  # noqa: ANN201  # the mistake that is tested
        call.note("open")


@pytest.mark.parametrize("limit", [TaggedBudget(name="b", tokens=100), OfficeHours(name="r", requests=2)])
async def test_limit_without_a_lease_ends_the_call(limit: Policy) -> None:
    """A subclass of a limit whose `admit` returns None ends the call with an error that names the class."""
    upstream = ScriptedUpstream()
    with pytest.raises(TypeError, match=f"{type(limit).__name__}.admit returned None; {LEASE_CURE}"):
        await serve([limit], make_call("hi"), upstream)
    assert upstream.calls == []


async def test_limit_that_admits_late_needs_its_lease_too() -> None:
    """The same holds if the limit applies only after another policy has rewritten the call."""

    class Rename(Policy, frozen=True):
        async def admit(self, call: Call) -> None:
            call.model = "big"

    limit = TaggedBudget(name="b", tokens=100, match=Match(model="big"))
    with pytest.raises(TypeError, match=f"TaggedBudget.admit returned None; {LEASE_CURE}"):
        await serve([limit, Rename(name="n")], make_call("hi"))


async def test_limit_with_another_lease_needs_claims() -> None:
    """A lease without claims in place of the one of the limit is an error, too."""

    class Other(Lease):
        async def settle(self, outcome: Outcome) -> None: ...

    class Replaced(Budget, frozen=True):
        async def admit(self, call: Call) -> Lease | None:
            await super().admit(call)
            return Other()

    with pytest.raises(TypeError, match=f"Replaced.admit returned a Other without claims; {LEASE_CURE}"):
        await serve([Replaced(name="b", tokens=100)], make_call("hi"))


async def test_list_of_models_needs_no_lease() -> None:
    """A call that no model answers costs nothing: a budget returns no lease for it."""
    served = await serve([Budget(name="b", tokens=100)], make_call("hi", operation=MODELS_REQUEST))
    assert served.outcome is not None


async def test_limit_may_exempt_calls() -> None:
    """A subclass that exempts calls says so by `admit_returns_lease = False`."""

    class Exempting(Rate, frozen=True):
        admit_returns_lease = False

        async def admit(self, call: Call) -> Lease:
            return Lease() if call.tenant == "ops" else await super().admit(call)

    services, limit = make_services(), Exempting(name="r", requests=1)
    tenants = ["ops", "ops", "other", "other"]
    served = [await serve([limit], make_call("hi", services=services, tenant=tenant)) for tenant in tenants]
    assert [each.rejection is None for each in served] == [True, True, True, False]


def test_limit_that_starts_an_object_without_admit_is_refused() -> None:
    """A limit whose running object has no `admit` is refused when the chain starts."""

    class Waits(RunningPolicy):
        async def enter(self, call: Call) -> Lease | None:
            return None

    class Queued(Rate, frozen=True):
        def start(self, services: Services) -> RunningPolicy:
            return Waits()

    with pytest.raises(HookError, match=f"Queued.start returned a Waits without admit; {LEASE_CURE}"):
        Chain([Queued(name="q", requests=1)], ScriptedUpstream(), make_services())


class One(Policy, frozen=True):
    """Returns the lease that `lease` makes."""

    lease: Any

    async def admit(self, call: Call) -> Lease | None:
        made: Lease | None = self.lease(self.claim(call, 1, limit=1, window=Calendar("day")))
        return made


class Silent(Lease):
    """A base class that keeps its subclasses from the check."""

    def __init__(self, claim: Claim) -> None:
        self.claim_ = claim

    def __init_subclass__(cls) -> None:
        pass


class Counted(Silent):
    def claims(self) -> Sequence[Claim]:
        return (self.claim_,)


class Old(Silent):
    def event(self, event: Event) -> Event:
        return event


async def test_class_decides_about_claims() -> None:
    """Claims count also if a base class did not call `super().__init_subclass__()`."""
    services = make_services()
    served = [await serve([One(Counted, name="o")], make_call("hi", services=services)) for _ in range(2)]
    assert [each.rejection is None for each in served] == [True, False]


async def test_mistake_in_an_unchecked_class_ends_the_call() -> None:
    """A mistake in a class whose base class prevented the check is an error at its first call."""
    with pytest.raises(TypeError, match="Old.event is never called; it is now called on_event"):
        await serve([One(Old, name="o")], make_call("hi"))


async def test_hook_on_the_object_ends_the_call() -> None:
    """A method that is set on a lease itself would not be called: it is an error."""

    class Assigns(Lease):
        def __init__(self, claim: Claim) -> None:
            self.claims = lambda: (claim,)  # type: ignore[method-assign]  # the mistake that is tested

    with pytest.raises(
        TypeError, match="Assigns.claims is set on the object and never called; define claims in the class"
    ):
        await serve([One(Assigns, name="o")], make_call("hi"))


def test_hook_on_a_running_object_is_refused() -> None:
    """The same holds for the running object of a policy, when the chain starts."""

    class Running(RunningPolicy):
        def __init__(self, admit: Any) -> None:
            self.admit = admit  # type: ignore[method-assign]  # the mistake that is tested

        async def enter(self, call: Call) -> Lease | None:
            return None

    class Starts(Policy, frozen=True):
        value: Any

        def start(self, services: Services) -> RunningPolicy:
            return Running(self.value)

    with pytest.raises(
        HookError, match="Running.admit is set on the object and never called; define admit in the class"
    ):
        Chain([Starts(name="s", value=Lease)], ScriptedUpstream(), make_services())
    Chain([Starts(name="s", value=1.5)], ScriptedUpstream(), make_services())


@pytest.mark.parametrize(
    ("claims", "problem"),
    [
        (None, "returned None; return a sequence of claims"),
        (["hunter2"], "returned a sequence with a str; return a sequence of claims"),
    ],
)
async def test_wrong_claims_are_named_by_class(claims: Any, problem: str) -> None:
    """A value of `claims` other than claims is an error that names its class."""

    class Odd(ClaimLease):
        def claims(self) -> Sequence[Claim]:
            made: Sequence[Claim] = claims
            return made

    with pytest.raises(TypeError, match=f"Odd.claims {problem}"):
        await serve([One(Odd, name="o")], make_call("hi"))


async def test_claims_may_be_generated() -> None:
    """`claims` may yield."""

    class Yields(ClaimLease):
        def claims(self) -> Iterator[Claim]:  # type: ignore[override]  # a generator is no sequence, but works
            yield from super().claims()

    services = make_services()
    served = [await serve([One(Yields, name="o")], make_call("hi", services=services)) for _ in range(2)]
    assert [each.rejection is None for each in served] == [True, False]
