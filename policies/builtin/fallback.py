"""Try another upstream after a failure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from policies.api.call import Call
from policies.api.failure import Failure, Retry
from policies.api.failure_kinds import among, class_faults
from policies.api.policy import Policy

from .option_checks import raise_faults

TAKEN_OVER_KINDS = ("connect", "timeout", "rate", "overloaded", "server", "unavailable", "quota", "too_large")
"""Kinds of failure after which another upstream is tried by default."""


class Fallback(Policy, frozen=True):
    """Send a failed call to the next upstream of `to`, without a wait, after `attempts` attempts at each upstream.

    It applies to the failure classes `on`. Without `to` the upstreams are all those of the file, in its order. Several
    fallbacks can send different classes to different upstreams; the first one in the chain with an untried upstream
    decides. Without `to`, upstreams that are known to lack the call's model are left out.

    Put it before `retry`, which decides about each of the `attempts` but the last. If `retry` gives up (a spent quota,
    a long wait), the fallback moves on earlier. When every upstream of the list was tried, only `retry` decides. A call
    moves only before its first output. Each further attempt at an upstream counts in that upstream's retry budget.
    """

    to: tuple[str, ...] = ()
    on: tuple[str, ...] = TAKEN_OVER_KINDS
    attempts: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1

    def __post_init__(self) -> None:
        raise_faults(class_faults("on", self.on), self._target_faults())

    def _target_faults(self) -> Iterator[str]:
        if len(set(self.to)) < len(self.to):
            yield "to: an upstream is listed twice; list each once, in the order in which to try them"

    def retry(self, call: Call, failure: Failure) -> Retry | None:
        """Return a retry at the next upstream that was not tried; None if there is none or *failure* is not in `on`."""
        if not among(self.on, failure):
            return None
        if failure.attempts_here < self.attempts and failure.can_retry_here and failure.kind != "unavailable":
            return None
        services = call.services
        others = [
            name for name in self.to or services.upstreams if name in services.upstreams and name not in failure.tried
        ]
        if others and not self.to:
            model, substituted = call.model, not call.names_model
            others = [name for name in others if services.may_serve(name, model, substituted=substituted)]
        return Retry(0.0, others[0]) if others else None
