"""What a policy is.  A policy is settings; what it holds for one call is a lease; only the chain cleans up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import msgspec

from .failure import Failure, Retry
from .lease import Lease
from .match import Match
from .rejection import Rejection

if TYPE_CHECKING:
    from .call import Call
    from .claim import Claim
    from .services import Services
    from .usage import Usage

StoreFailure: TypeAlias = Literal["refuse", "admit"]


class RunningPolicy:
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


class Policy(msgspec.Struct, RunningPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule for calls: an immutable settings object.  Its fields are its options in the configuration file.

    One instance serves all calls at once, so state of a call belongs into a `Lease`, and anything that runs (a queue, a
    breaker, what was learnt) into the object that `open` returns.
    """

    name: str = ""
    """What the limit is called in counters, messages and headers; `use` where the file gives none."""
    only: Match = Match()
    when_store_fails: StoreFailure = "refuse"

    lowers: ClassVar[tuple[str, ...]] = ()
    """Fields that a profile may only lower: a missing limit is the loosest."""
    pinned: ClassVar[tuple[str, ...]] = ("name", "only", "when_store_fails")
    """Fields that a profile cannot change, because its calls share the base chain's counters."""

    def open(self, services: Services) -> RunningPolicy:
        """Return what serves the calls: the policy itself, unless something has to run.  Once, when a chain is built."""
        return self


def overrides(hooks: RunningPolicy, name: str) -> bool:
    """Whether the class of *hooks* has a hook *name* of its own."""
    return getattr(type(hooks), name) is not getattr(RunningPolicy, name)
