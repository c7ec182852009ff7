"""Retry failures at the same upstream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

import msgspec

from policies.api.call import Call
from policies.api.failure import GIVE_UP, Decision, Failure, GiveUp, Retry
from policies.api.failure_kinds import RETRYABLE_KINDS, among, class_faults, is_useless
from policies.api.policy import Policy

from .option_checks import raise_faults

DECLINED_RETRY = GiveUp("declined")
NEVER_RETRIED_KINDS = frozenset({"context", "too_large", "unavailable"})
"""Classes that are not retried, not even with `x-should-retry: true`."""
MAX_EXTRA_WAIT_SHARE = 0.05
"""Upper limit of the jitter added to a wait that upstream requested, so that its clients do not all return at once."""

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class RetryClassifier(Policy, frozen=True):
    """Make up to `attempts` attempts at one upstream, for the failure classes `on` that are not in `never`.

    The attempts at each upstream of a call are counted separately.

    If upstream requested a wait, that is used, plus up to 5 %; if it exceeds `patience` seconds, the client gets the
    failure. Otherwise the wait is exponential, from `base` to `cap` seconds, with full jitter (AWS, "Exponential
    Backoff And Jitter").

    Upstream's `x-should-retry` is obeyed; true overrides a status, but not an error code that is known to be final. An
    empty answer without reported output tokens is retried once, because some servers send one for an over-long prompt.
    Classes are those of `policies.api.failure_kinds`, `status:425`, or `code:warming_up`; a family (`timeout`) stands for
    all of its classes.
    """

    attempts: Annotated[int, msgspec.Meta(ge=1, le=10)] = 3
    base: Seconds = 0.5
    cap: Seconds = 8.0
    patience: Seconds = 20.0
    on: tuple[str, ...] = RETRYABLE_KINDS
    never: tuple[str, ...] = ()

    tightened_by_profiles: ClassVar[tuple[str, ...]] = ("attempts",)

    def __post_init__(self) -> None:
        raise_faults(class_faults("on", self.on), class_faults("never", self.never), self._backoff_faults())

    def _backoff_faults(self) -> Iterator[str]:
        if self.base > self.cap:
            yield f"base: {self.base:g} is more than cap ({self.cap:g}); lower base, or raise cap"

    def retry(self, call: Call, failure: Failure) -> Decision:
        """Return the wait before the next attempt, or a `GiveUp`, by the class of *failure* and the attempts so far.

        A class that the options exclude and a wait beyond `patience` are `declined`: the client may retry them itself.
        """
        last = 1 if failure.kind == "empty" else self.attempts - 1
        if not self._wanted(failure):
            return GIVE_UP if is_useless(failure) else DECLINED_RETRY
        if failure.attempts_here > min(last, self.attempts - 1):
            return GIVE_UP
        random, requested_wait = call.services.random, failure.retry_after or 0.0
        if requested_wait > self.patience:
            return DECLINED_RETRY
        if requested_wait > 0:
            return Retry(requested_wait * random.uniform(1, 1 + MAX_EXTRA_WAIT_SHARE))
        return Retry(random.uniform(0, min(self.cap, self.base * 2 ** (failure.attempts_here - 1))))

    def _wanted(self, failure: Failure) -> bool:
        if failure.should_retry is False or among(self.never, failure):
            return False
        final = failure.kind in NEVER_RETRIED_KINDS or (failure.kind_is_certain and not among(RETRYABLE_KINDS, failure))
        return among(self.on, failure) or (failure.should_retry is True and not final)
