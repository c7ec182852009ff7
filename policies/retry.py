"""Which failures are worth another attempt, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec

from .base import NO_RETRY, Policy, Retry

if TYPE_CHECKING:
    from .base import Failure
    from .call import Call

RETRYABLE = ("connect", "timeout", "rate", "overloaded", "server", "empty")
FINAL = frozenset({"quota", "context"})
"""Known final codes: not even `x-should-retry: true` makes them worth another attempt."""

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class RetryClassifier(Policy, frozen=True):
    """Try again up to `attempts` times in all, for the failure classes `on`.

    The wait is the one that upstream asked for, up to `patience` seconds (a longer one is the caller's business), else
    exponential from `base` to `cap` with full jitter (AWS, "Exponential Backoff And Jitter").  `x-should-retry` is obeyed.
    An empty answer is tried again once: some servers answer an over-long prompt so.
    """

    attempts: Annotated[int, msgspec.Meta(ge=1, le=10)] = 3
    base: Seconds = 0.5
    cap: Seconds = 8.0
    patience: Seconds = 20.0
    on: tuple[str, ...] = RETRYABLE

    lowers: ClassVar[tuple[str, ...]] = ("attempts",)

    def retry(self, call: Call, failure: Failure) -> Retry | None:
        """Judge *failure* by its class; the first attempt is number 1."""
        wanted = failure.kind in self.on if failure.should_retry is None else failure.should_retry
        last = 1 if failure.kind == "empty" else self.attempts - 1
        if not wanted or failure.kind in FINAL or failure.attempt > min(last, self.attempts - 1):
            return NO_RETRY
        if failure.retry_after is not None:
            return Retry(failure.retry_after) if failure.retry_after <= self.patience else NO_RETRY
        return Retry(call.process.random.uniform(0, min(self.cap, self.base * 2 ** (failure.attempt - 1))))
