"""Which failures another upstream takes over, and which one."""

from __future__ import annotations

from typing import Annotated

import msgspec

from policies.api.call import Call
from policies.api.failure import Failure, Retry
from policies.api.failure_kinds import among, check_classes
from policies.api.policy import Policy

TAKEN_OVER_KINDS = ("connect", "timeout", "rate", "overloaded", "server", "unavailable", "quota")


class Fallback(Policy, frozen=True):
    """Go to the next upstream of `to`, at once, for the failure classes `on`; each gets `attempts` before the next.

    Without `to` they are all upstreams in the order of the file.  Several of this policy, each with its own `on` and `to`,
    send each class its own way; the first in the chain that has somewhere to go decides.  Put it before `retry`, which
    judges each of the `attempts` but the last; where it says no (a spent quota, a long wait), the next upstream's turn comes
    earlier.  Once every upstream of the list was tried, `retry` judges alone.  Only before the first output, and each
    further attempt at an upstream counts in that upstream's retry budget.
    """

    to: tuple[str, ...] = ()
    on: tuple[str, ...] = TAKEN_OVER_KINDS
    attempts: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1

    def __post_init__(self) -> None:
        check_classes("on", self.on)
        if len(set(self.to)) < len(self.to):
            msg = "to: names an upstream twice; name each once, in the order in which they are tried"
            raise ValueError(msg)

    def retry(self, call: Call, failure: Failure) -> Retry | None:
        """Return the next upstream that this call has not tried; None where *failure* is not for another one."""
        if not among(self.on, failure):
            return None
        if failure.attempts_here < self.attempts and failure.can_retry_here and failure.kind != "unavailable":
            return None
        known = call.services.upstreams
        others = [name for name in self.to or known if name in known and name not in failure.tried]
        return Retry(0.0, others[0]) if others else None
