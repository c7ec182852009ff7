"""Leases, the part of a policy that belongs to one call, and the outcome of a call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from fractions import Fraction
from typing import Self

import msgspec

from .claim import Claim, amount_text, number_text
from .event import Event
from .hooks import LEASE_CURES, LEASE_HOOKS, check_hooks
from .rejection import Rejection
from .store import Standing
from .usage import Usage
from .window import Calendar


class Ending(StrEnum):
    """How a call ended."""

    DONE = "done"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Outcome(msgspec.Struct, frozen=True):
    """The end of a call. Every lease is settled with the same one. Times are in seconds since 1970."""

    ending: Ending
    usage: Usage
    attempts: int
    status: int | None = None
    """HTTP status of the answer, the refusal or the upstream's error; None where there was none."""
    code: str = ""
    """Code of the refusal, or of the upstream's error object."""
    kind: str = ""
    """Class of the upstream's failure; "internal" for an unexpected exception."""
    message: str = ""
    """Message of the refusal or the failure, as the client may get it."""
    upstream: str = ""
    """The upstream of the last attempt; empty if there was none."""
    model: str = ""
    """The model of the last attempt by the upstream's name, or the call's own where that is not known."""
    started_at: float = 0.0
    """When the chain started with the call."""
    first_output_at: float | None = None
    """When the first batch with output was sent; None if none was."""
    ended_at: float = 0.0
    """When the last attempt ended; settlement follows."""

    @property
    def seconds(self) -> float:
        """The duration of the call in seconds, by a monotonic clock."""
        return self.ended_at - self.started_at

    @property
    def seconds_to_first_output(self) -> float | None:
        """The seconds until the client got output; None if it got none."""
        return None if self.first_output_at is None else self.first_output_at - self.started_at


class ExactCharge(int):
    """A charge of a fraction of a unit. The integer is the charge rounded up, `exact` the charge itself.

    Stores count whole units. If `Lease.charge` returns an `ExactCharge`, the fractions of several calls add up: each
    counter and process charges less than one unit too much in all. The result of arithmetic is a plain integer.
    """

    exact: Fraction

    def __new__(cls, exact: Fraction) -> Self:
        """Return the charge of *exact* units."""
        charge = super().__new__(cls, math.ceil(exact))
        charge.exact = exact
        return charge


class Lease:
    """The part of a policy that belongs to one call, from its admission to its end. Override the hooks you need.

    `claims`, `charge` and `refusal` are about limits, `on_event` and `flush` about the answer's events. The chain
    skips methods that are not overridden.
    """

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_hooks(cls, LEASE_HOOKS, LEASE_CURES)

    def claims(self) -> Sequence[Claim]:
        """Return what the call takes from limits. Called once, after all policies have admitted.

        The chain reserves the claims of all leases in one step, all or nothing, before anything goes upstream. May raise
        `Rejection`.
        """
        return ()

    def charge(self, claim: Claim, usage: Usage) -> int:
        """Return what *usage* of the call costs, in the claim's unit; an `ExactCharge` where that is a fraction.

        Called once when the call has ended, and before that for each failed attempt that another one follows. A claim of
        requests costs its `base`, a claim of tokens what was used (a prompt whose size upstream did not report costs
        `base`). A claim of dollars needs prices: override this method. Sliding windows keep their claims, unless the call was refused
        before its first attempt.
        """
        if claim.unit == "tokens":
            return usage.input + usage.output + usage.unreported * claim.base
        if claim.unit == "requests":
            return claim.base
        raise NotImplementedError(needs_charge(self))

    def refusal(self, claim: Claim, standing: Standing) -> Rejection:
        """Return the refusal of a claim that did not fit; *standing* is the limit as the store has it.

        `standing.case` is why it did not fit, `standing.needed` the least that the call needs in the claim's unit, and
        `standing.retry_after` the wait in seconds. The chain adds the numbers, the case, `Retry-After`, and whether SDKs
        should retry.
        """
        limit = f"Limit {claim.policy!r} of {amount_text(claim.unit, claim.limit)}"
        return Rejection(429, "rate_limit_exceeded", f"{limit}: {refusal_reason(claim, standing)}")

    def on_event(self, event: Event) -> Event | None:
        """Return the event as it goes on: unchanged, changed (`with_text`, `with_payload`), or None to drop it.

        Called for each event, synchronously, on the hot path: it must not block. To hold text back, return None and put
        it in front of a later event, or hand it out in `flush`. Raise `Stop` to end the answer cleanly.
        """
        return event

    def flush(self) -> Sequence[Event]:
        """Return events that were held back, and forget them, to be sent after the last one.

        Called before the finish of an answer that is complete or that a lease has stopped (`Stop`). It is also called before
        the error of an answer that broke or was cancelled after output, so that no text is lost. Not called where there
        was no output. An answer of chat completions has at most one call. The Responses API ends each text on its own: there
        it is called before the end of each text, and before the end of the answer if the lease has read events since.
        """
        return ()

    async def settle(self, outcome: Outcome) -> None:
        """Give back or record. Called exactly once, however the call ended, newest lease first.

        It is shielded from cancellation, and stopped after a few seconds.
        """


class ClaimLease(Lease):
    """A lease that only takes *claims* from limits, with the default charge and refusal."""

    __slots__ = ("_claims",)

    def __init__(self, *claims: Claim) -> None:
        self._claims = claims

    def claims(self) -> Sequence[Claim]:
        """Return the claims that it was made with."""
        return self._claims


def refusal_reason(claim: Claim, standing: Standing) -> str:
    """Return why *claim* did not fit, in numbers, and what to do: the second half of a refusal's message."""
    unit, needs = claim.unit, f"this call needs at least {amount_text(claim.unit, standing.needed)}"
    granted = max(0, -standing.spent)
    if standing.case == "never_fits":
        beyond = f" and the {number_text(unit, granted)} granted beyond it" if granted else ""
        if unit == "requests":
            return f"{needs}, which is more than the whole limit{beyond}."
        cure = "shorten the prompt" if claim.base > claim.limit + granted else "shorten the prompt or lower max_tokens"
        return f"{needs}, which is more than the whole limit{beyond}: {cure}."
    spent = f"{number_text(unit, standing.spent)} {_verb(claim, standing.spent)} spent"
    if granted:
        spent = f"{number_text(unit, granted)} {_verb(claim, granted)} granted beyond the limit"
    wait = "" if standing.retry_after is None else f"; retry in about {math.ceil(standing.retry_after)} s"
    if standing.case == "held":
        held = f"{number_text(unit, standing.held)} {_verb(claim, standing.held)} reserved by calls that run now"
        return f"{needs}, {spent} and {held}{wait}."
    if isinstance(claim.window, Calendar):
        wait = f"; it resets at {datetime.fromtimestamp(math.ceil(standing.resets_at), UTC):%Y-%m-%dT%H:%M:%SZ}"
    return f"{needs} and {spent}{wait}."


def _verb(claim: Claim, amount: int) -> str:
    return "is" if claim.unit == "usd" or amount == 1 else "are"


def needs_charge(lease: Lease) -> str:
    """Return the error for a claim in dollars whose lease has no prices."""
    return f"{type(lease).__name__} claims in usd: override `charge`, which knows the prices"
