"""What a policy is.  A policy is settings; what it holds for one call is a lease; only the chain cleans up."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import msgspec

from .cause import Cause
from .only import Only

if TYPE_CHECKING:
    from .call import Call
    from .event import Event, Usage
    from .process import Process
    from .store import Claim

StoreFailure: TypeAlias = Literal["refuse", "admit"]


class Rejection(Exception):
    """A policy's no.  It becomes the HTTP answer, or the last event of a stream that has begun.

    *status* is the HTTP status towards OpenAI clients (never 408 or 409: SDKs send those again).  *retry_after* is in
    seconds and given only where waiting helps; *final* tells the client's SDK not to try again.  *details* are added to
    the body: a limit's refusal carries `policy`, `limit`, `used` and `resets_at`.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after: float | None = None,
        final: bool | None = None,
        kind: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after
        self.final = final if final is not None else retry_after is None
        self.kind, self.details = kind, details or {}


class Stop(Exception):
    """Raised by `Lease.event`: end the answer here, cleanly, with *finish* as its reason; upstream is closed."""

    def __init__(self, finish: str = "content_filter") -> None:
        super().__init__(finish)
        self.finish = finish


class Ending(StrEnum):
    """How a call ended."""

    DONE = "done"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Outcome(msgspec.Struct, frozen=True):
    """The end of a call; every lease is settled with the same one."""

    ending: Ending
    usage: Usage
    attempts: int


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


class Lease:
    """What one policy holds for one call, from its admission to its end."""

    __slots__ = ()

    def event(self, event: Event) -> Event | None:
        """See, change (`event.with_text`), drop (None) or `Stop` one piece of the answer.

        Called for each piece, synchronously, on the hot path: it must not block.  To hold text back, return None and
        put it in front of a later piece, or hand it out in `end`.
        """
        return event

    def end(self) -> Sequence[Event]:
        """Return the last word: pieces to send after the last one.  Once, only when the answer is complete."""
        return ()

    async def settle(self, outcome: Outcome) -> None:
        """Give back or charge.  Exactly once, however the call ended; newest lease first; shielded, in bounded time."""


class Hooks:
    """The points at which a policy may act.  Those that a class does not override cost nothing."""

    __slots__ = ()

    async def admit(self, call: Call) -> Lease | None:
        """Rewrite *call*, raise `Rejection`, or return a `Lease`.

        Once per call, in the order of the file, never again for a retry.  It is cancelled when the client leaves; so
        take what must be given back last, and return the lease at once.
        """
        return None

    def claims(self, call: Call) -> Sequence[Claim]:
        """Return what the call takes from limits.  Once, after all policies have admitted.

        The chain reserves the claims of all policies in one step, all or nothing, before anything goes upstream.
        """
        return ()

    def charge(self, call: Call, claim: Claim, usage: Usage) -> int:
        """Return what *usage* of *call* costs in the claim's unit.

        Once for all of it, when the call has ended; before that for each broken attempt that another one follows.  Sliding windows keep what they took.
        """
        return claim.base

    def refusal(self, call: Call, claim: Claim) -> Rejection:
        """Return the words for a claim that did not fit; the chain adds limit, use and reset time."""
        return Rejection(429, "rate_limit_exceeded", f"The limit {claim.policy!r} is used up.")

    async def enter(self, call: Call) -> Lease | None:
        """Wait for a place, with pings flowing; raise `Rejection` if there is none.  Once, after the reservation."""
        return None

    def retry(self, call: Call, failure: Failure) -> Retry | None:
        """Judge a failed attempt: `Retry`, `NO_RETRY`, or None for no opinion.  The first opinion decides."""
        return None

    async def close(self) -> None:
        """Let go of what runs.  Once, when the chain goes."""


HOOKS = ("admit", "claims", "enter", "retry")


class Policy(msgspec.Struct, Hooks, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule for calls: an immutable settings object.  Its fields are its options in the configuration file.

    One instance serves all calls at once, so state of a call belongs into a `Lease`, and anything that runs (a queue, a
    breaker, what was learnt) into the object that `open` returns.
    """

    name: str = ""
    """What the limit is called in counters, messages and headers; `use` where the file gives none."""
    only: Only = Only()
    when_store_fails: StoreFailure = "refuse"

    lowers: ClassVar[tuple[str, ...]] = ()
    """Fields that a profile may only lower: a missing limit is the loosest."""
    pinned: ClassVar[tuple[str, ...]] = ("name", "only", "when_store_fails")
    """Fields that a profile cannot change, because its calls share the base chain's counters."""

    def open(self, process: Process) -> Hooks:
        """Return what serves the calls: the policy itself, unless something has to run.  Once, when a chain is built."""
        return self


def overrides(hooks: Hooks, name: str) -> bool:
    """Whether the class of *hooks* has a hook *name* of its own."""
    return getattr(type(hooks), name) is not getattr(Hooks, name)
