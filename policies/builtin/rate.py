"""Limit the calls that start in a span of time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import msgspec

from policies.api.call import Call
from policies.api.claim import DEFAULT_MAX_IDENTITIES, By, Claim, Identities, amount_text, counts_by_model
from policies.api.lease import Lease
from policies.api.policy import Policy, StoreFailure
from policies.api.rejection import Rejection
from policies.api.store import Standing
from policies.api.window import Sliding


class Rate(Policy, frozen=True, kw_only=True):
    """Admit at most `requests` calls in any span of `window` seconds; all of them may start at once.

    A call that is refused before its first attempt does not count. When the store is down, calls are admitted unless `when_store_fails = "refuse"`.
    """

    requests: Annotated[int, msgspec.Meta(ge=1)]
    window: Annotated[float, msgspec.Meta(ge=0.001, le=31_536_000)] = 60.0
    by: By = "tenant"
    identities: Identities = DEFAULT_MAX_IDENTITIES
    when_store_fails: StoreFailure = "admit"

    admit_returns_lease: ClassVar[bool] = True
    tightened_by_profiles: ClassVar[tuple[str, ...]] = ("requests",)
    fixed_in_profiles: ClassVar[tuple[str, ...]] = (*Policy.fixed_in_profiles, "window", "by", "identities")

    @property
    def model_options(self) -> Mapping[str, Sequence[str]]:
        """See `Policy.model_options`: a limit by model has a counter for each."""
        return {**super().model_options, **({"by": ()} if counts_by_model(self.by) else {})}

    async def admit(self, call: Call) -> Lease:
        """Return a lease that claims one request."""
        return _RateLease(self, call)

    def limits_for(self, call: Call) -> Sequence[Claim]:
        """Return the claim of one request."""
        return _RateLease(self, call).claims()


class _RateLease(Lease):
    __slots__ = ("_call", "_policy")

    def __init__(self, policy: Rate, call: Call) -> None:
        self._policy, self._call = policy, call

    def claims(self) -> Sequence[Claim]:
        policy = self._policy
        return (
            policy.claim(
                self._call,
                1,
                limit=policy.requests,
                window=Sliding(policy.window),
                by=policy.by,
                max_identities=policy.identities,
            ),
        )

    def refusal(self, claim: Claim, standing: Standing) -> Rejection:
        policy = self._policy
        limit = f"{amount_text('requests', claim.limit)} in {policy.window:g} s"
        msg = f"Rate limit {policy.name!r} exceeded: {limit}; retry in {math.ceil(standing.retry_after or 0)} s."
        return Rejection(429, "rate_limit_exceeded", msg, error_type="requests")
