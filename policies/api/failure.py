"""Failed upstream attempts, and what a policy decides about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .sdk_error import Cause


class Failure(msgspec.Struct, frozen=True):
    """One upstream attempt that broke before the client saw any output.

    *error* is what the OpenAI SDK would have raised (`openai.RateLimitError`, `openai.APITimeoutError`, ...), *kind* our
    finer class of it (`policies.classes`), *attempt* 1 for the first, *retry_after* the seconds that upstream asked for in
    this very attempt.  *should_retry* is upstream's `x-should-retry`, where it sent one.  *upstream* is the one that failed,
    *tried* are those of all attempts so far, this one last.  *by_code*: upstream's own code says that it is of this class.
    *may_repeat*: another attempt at *upstream* can be.  A verdict that is a no, that ends too late, or that the retry
    budget does not bear, is asked for once more without it; then only an upstream that was not tried will do.
    """

    attempt: int
    error: Exception
    kind: str
    retry_after: float | None = None
    should_retry: bool | None = None
    upstream: str = ""
    tried: tuple[str, ...] = ()
    may_repeat: bool = True
    by_code: bool = False

    if not TYPE_CHECKING:

        def __getattribute__(self, name: str) -> object:
            value = super().__getattribute__(name)
            return value.error if isinstance(value, Cause) and name == "error" else value

    @property
    def cause(self) -> Cause:
        """What is known of *error* before it is looked at."""
        held: Exception = super().__getattribute__("error")
        return Cause.of(held)

    @property
    def here(self) -> int:
        """How many attempts *upstream* has had; all of them where nobody says who was tried."""
        return self.tried.count(self.upstream) or self.attempt


class Retry(msgspec.Struct, frozen=True):
    """Try again in *after* seconds, at *upstream* if it names another one; *after* < 0 forbids it.

    An upstream that is not configured is a fault of the policy: the call ends with 500, and the log names those that are.
    """

    after: float = 0.0
    upstream: str | None = None


NO_RETRY = Retry(after=-1)
