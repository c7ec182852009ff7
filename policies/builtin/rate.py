"""How many calls may begin in a span of time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec

from policies.api.claim import Claim
from policies.api.identity import MANY, By, Identities, identity
from policies.api.policy import Policy, StoreFailure
from policies.api.rejection import Rejection
from policies.api.window import Sliding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.api.call import Call


class Rate(Policy, frozen=True, kw_only=True):
    """Admit at most `requests` calls in any span of `window` seconds; all of them may come at once.

    Refused calls do not count.  When the store is down, calls pass unless `when_store_fails = "refuse"`.
    """

    requests: Annotated[int, msgspec.Meta(ge=1)]
    window: Annotated[float, msgspec.Meta(ge=0.001, le=31_536_000)] = 60.0
    by: By = "tenant"
    identities: Identities = MANY
    when_store_fails: StoreFailure = "admit"

    lowers: ClassVar[tuple[str, ...]] = ("requests",)
    pinned: ClassVar[tuple[str, ...]] = (*Policy.pinned, "window", "by", "identities")

    def claims(self, call: Call) -> Sequence[Claim]:
        """Return one request of this limit."""
        counted = identity(call, self.by)
        return (
            Claim(
                policy=self.name,
                identity=counted.identity,
                unit="requests",
                limit=self.requests,
                window=Sliding(self.window),
                base=1,
                bound=0 if counted.crowd is None else self.identities,
                crowd=counted.crowd or "",
            ),
        )

    def refusal(self, call: Call, claim: Claim) -> Rejection:
        """Return the 429 of this limit."""
        msg = f"Rate limit {self.name!r} exceeded: {self.requests} requests in {self.window:g} s."
        return Rejection(429, "rate_limit_exceeded", msg, kind="requests")
