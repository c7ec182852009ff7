"""Claims of leases: when the chain collects them, what is charged, and how they are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from claims import totals

from policies import (
    Calendar,
    Call,
    Claim,
    ClaimLease,
    Lease,
    Match,
    Policy,
    Rejection,
    Sliding,
    Standing,
    Usage,
)
from policies.testing import ScriptedUpstream, make_call, make_services, serve

pytestmark = pytest.mark.anyio

DAY = Calendar("day")


class Limit(Policy, frozen=True):
    """Claims *amount* of *limit*; *more* are further arguments of the claim."""

    amount: int = 5
    limit: int = 10_000
    more: Any = None

    async def admit(self, call: Call) -> Lease:
        return ClaimLease(self.claim(call, self.amount, limit=self.limit, **{"window": DAY, **(self.more or {})}))


@pytest.mark.parametrize(
    ("more", "usage", "charged"),
    [
        ({"unit": "tokens", "per_token": 1}, Usage(input=5, output=900), 905),
        ({"unit": "tokens", "per_token": 1}, Usage(output=7, unreported=1), 12),
        ({"unit": "tokens"}, Usage(input=100, output=11), 111),
        ({"unit": "requests"}, Usage(input=5, output=900), 5),
    ],
)
async def test_default_charge_depends_on_the_unit(more: dict[str, Any], usage: Usage, charged: int) -> None:
    """By default a claim of tokens is charged the usage, and a claim of requests its base."""
    services = make_services()
    call = make_call("hi", services=services, body={"max_tokens": 1000})
    await serve([Limit(name="l", more=more)], call, ScriptedUpstream(["a"], usage=usage))

    assert await totals(services.store) == [(charged, 0)]


async def test_claim_in_dollars_needs_a_charge(caplog: pytest.LogCaptureFixture) -> None:
    """A claim in dollars whose lease overrides no `charge` is an error at its first call, before upstream is called."""
    upstream = ScriptedUpstream()
    with pytest.raises(TypeError, match="ClaimLease claims in usd: override `charge`, which knows the prices"):
        await serve([Limit(name="l", more={"unit": "usd"})], make_call("hi"), upstream)
    assert upstream.calls == []


async def test_lease_words_its_refusal() -> None:
    """A lease can word its refusal by the standing of the limit."""

    class Worded(ClaimLease):
        def refusal(self, claim: Claim, standing: Standing) -> Rejection:
            return Rejection(429, "too_many", f"{standing.used} of {claim.limit} used", error_type="images")

    class Images(Limit, frozen=True):
        async def admit(self, call: Call) -> Lease:
            return Worded(self.claim(call, 1, limit=1, window=Sliding(60)))

    services = make_services()
    await serve([Images(name="i")], make_call("hi", services=services))
    served = await serve([Images(name="i")], make_call("hi", services=services))

    assert served.rejection is not None
    assert (served.rejection.message, served.rejection.error_type) == ("1 of 1 used", "images")
    assert served.rejection.retry_after == 60
    assert served.rejection.details["policy"] == "i"


async def test_claims_come_after_all_have_admitted() -> None:
    """Claims are collected after all policies rewrote the call, and only of policies that still match it."""

    class Late(Lease):
        def __init__(self, policy: Policy, call: Call) -> None:
            self._policy, self._call = policy, call

        def claims(self) -> Sequence[Claim]:
            return [self._policy.claim(self._call, 1, limit=9, window=DAY, by="model")]

    class Counts(Policy, frozen=True):
        async def admit(self, call: Call) -> Lease:
            return Late(self, call)

    class Reroute(Policy, frozen=True):
        async def admit(self, call: Call) -> None:
            call.model = "big"

    services = make_services()
    policies = [
        Counts(name="all"),
        Counts(name="big", match=Match(model="big")),
        Counts(name="test", match=Match(model="test-*")),
        Reroute(name="r"),
    ]
    await serve(policies, make_call("hi", services=services))

    accounts = {account.policy: account.identity for account in await services.store.accounts()}
    assert accounts == {"all": "big", "big": "big"}


async def test_claims_of_enter_are_refused() -> None:
    """A lease with claims from `enter` is an error, because its claims would never be reserved."""

    class Wrong(Limit, frozen=True):
        async def admit(self, call: Call) -> None: ...  # type: ignore[override]  # it returns no lease

        async def enter(self, call: Call) -> Lease:
            return ClaimLease(self.claim(call, 1, limit=1, window=DAY))

    with pytest.raises(
        TypeError, match="Wrong.enter returned a ClaimLease with claims; return a lease with claims from"
    ):
        await serve([Wrong(name="w")], make_call("hi"))


async def test_claim_counts_by_the_named_fields() -> None:
    """A claim counts by the fields that the policy names; identities that clients choose are bounded."""
    call = make_call("hi", tenant="acme", ip="10.0.0.1")
    policy = Limit(name="l")

    own = policy.claim(call, 1, limit=9, window=DAY)
    by_ip = policy.claim(call, 1, limit=9, window=DAY, by=["tenant", "ip"], max_identities=7)
    assert (own.policy, own.identity, own.max_identities, own.unit) == ("l", "acme", 0, "requests")
    assert (by_ip.identity, by_ip.identity_group, by_ip.max_identities) == ("acme\x1e10.0.0.1", "acme", 7)
