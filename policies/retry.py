"""Which failures are worth another attempt at the same upstream, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec

from .base import NO_RETRY, Policy, Retry
from .classes import RETRYABLE, among, check_classes

if TYPE_CHECKING:
    from .base import Failure
    from .call import Call

FINAL = frozenset({"quota", "context", "unavailable"})
"""Known final classes: not even `x-should-retry: true` makes them worth another attempt."""

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class RetryClassifier(Policy, frozen=True):
    """Try again up to `attempts` times in all, for the failure classes `on` that are not in `never`.

    The wait is the one that upstream asked for, up to `patience` seconds (a longer one is the caller's business), else
    exponential from `base` to `cap` with full jitter (AWS, "Exponential Backoff And Jitter").  `x-should-retry` is obeyed.
    An empty answer is tried again once: some servers answer an over-long prompt so.  Classes are those of
    `policies.classes`, `status:425`, or `code:warming_up`; a family (`timeout`) stands for all of its own.
    """

    attempts: Annotated[int, msgspec.Meta(ge=1, le=10)] = 3
    base: Seconds = 0.5
    cap: Seconds = 8.0
    patience: Seconds = 20.0
    on: tuple[str, ...] = RETRYABLE
    never: tuple[str, ...] = ()

    lowers: ClassVar[tuple[str, ...]] = ("attempts",)

    def __post_init__(self) -> None:
        check_classes("on", self.on)
        check_classes("never", self.never)

    def retry(self, call: Call, failure: Failure) -> Retry | None:
        """Judge *failure* by its class; the first attempt is number 1."""
        last = 1 if failure.kind == "empty" else self.attempts - 1
        if not self._wanted(failure) or failure.attempt > min(last, self.attempts - 1):
            return NO_RETRY
        if failure.retry_after is not None:
            return Retry(failure.retry_after) if failure.retry_after <= self.patience else NO_RETRY
        return Retry(call.process.random.uniform(0, min(self.cap, self.base * 2 ** (failure.attempt - 1))))

    def _wanted(self, failure: Failure) -> bool:
        if failure.should_retry is False or among(self.never, failure):
            return False
        return among(self.on, failure) or (failure.should_retry is True and failure.kind not in FINAL)
