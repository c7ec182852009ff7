"""Which failures are worth another attempt at the same upstream, and when."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from policies.api.call import Call
from policies.api.failure import GIVE_UP, Decision, Failure, Retry
from policies.api.failure_kinds import RETRYABLE, among, check_classes
from policies.api.policy import Policy

FINAL_KINDS = frozenset({"context", "unavailable"})
"""Final however they were found: not even `x-should-retry: true` makes them worth another attempt."""
MAX_EXTRA_WAIT_SHARE = 0.05
"""The most that is added to a wait that upstream asked for, so that those whom it told the same do not come at once."""

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class RetryClassifier(Policy, frozen=True):
    """Make up to `attempts` attempts at one upstream, for the failure classes `on` that are not in `never`.

    Each upstream of a call is counted by itself: one that took over has all of its attempts before it.

    The wait is the one that upstream asked for, up to `patience` seconds (a longer one is the caller's business), and up to
    a twentieth more; else exponential from `base` to `cap` with full jitter (AWS, "Exponential Backoff And Jitter").
    `x-should-retry` is obeyed; true overrides a status, but no code that is known to be final.
    An empty answer is tried again once: some servers answer an over-long prompt so.  Classes are those of
    `policies.api.failure_kinds`, `status:425`, or `code:warming_up`; a family (`timeout`) stands for all of its own.
    """

    attempts: Annotated[int, msgspec.Meta(ge=1, le=10)] = 3
    base: Seconds = 0.5
    cap: Seconds = 8.0
    patience: Seconds = 20.0
    on: tuple[str, ...] = RETRYABLE
    never: tuple[str, ...] = ()

    tightened_by_profiles: ClassVar[tuple[str, ...]] = ("attempts",)

    def __post_init__(self) -> None:
        check_classes("on", self.on)
        check_classes("never", self.never)
        if self.base > self.cap:
            msg = f"base: {self.base:g} is more than cap, which is {self.cap:g}; lower it, or raise cap"
            raise ValueError(msg)

    def retry(self, call: Call, failure: Failure) -> Decision:
        """Judge *failure* by its class, and by how often its upstream was tried."""
        last = 1 if failure.kind == "empty" else self.attempts - 1
        if not self._wanted(failure) or failure.attempts_here > min(last, self.attempts - 1):
            return GIVE_UP
        chance, asked = call.services.random, failure.retry_after or 0.0
        if asked > self.patience:
            return GIVE_UP
        if asked > 0:
            return Retry(asked * chance.uniform(1, 1 + MAX_EXTRA_WAIT_SHARE))
        return Retry(chance.uniform(0, min(self.cap, self.base * 2 ** (failure.attempts_here - 1))))

    def _wanted(self, failure: Failure) -> bool:
        if failure.should_retry is False or among(self.never, failure):
            return False
        final = failure.kind in FINAL_KINDS or (failure.kind_is_certain and not among(RETRYABLE, failure))
        return among(self.on, failure) or (failure.should_retry is True and not final)
