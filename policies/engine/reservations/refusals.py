"""Turn a claim that did not fit into the refusal that the client gets: which limit, by how much, and when to try again.

- `never_fits`: one call needs more than the whole limit. Waiting does not help, so there is no `Retry-After`.
- `spent`: the limit has room again when its window resets. A long wait is final for SDKs.
- `held`: running calls have reserved what is missing. They give back what they do not use when they end, so the wait is
  the average duration of recent calls.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from policies.api.claim import Claim, in_units
from policies.api.store import Grant, refusal_case
from policies.api.window import MAX_SENSIBLE_WAIT, Calendar, Sliding, resets_soon

if TYPE_CHECKING:
    import random

    from policies.api.lease import Lease
    from policies.api.rejection import Rejection

UNKNOWN_CALL_SECONDS = 2.0
"""Assumed duration of a call in a process in which none has ended yet."""
NEWEST_CALL_WEIGHT = 0.1
"""Share of the newest call in the moving average: about the last twenty calls count."""
MIN_HELD_WAIT, MAX_HELD_WAIT = 0.25, 30.0
"""Bounds of the average, in seconds, before it is spread."""
HELD_WAIT_SPREAD = 0.5
"""Largest random extension of a wait, as a share of the average: refused calls must not return all at once."""


class CallDurations:
    """A moving average of how long the calls of this process held their reservations, in seconds."""

    __slots__ = ("_average", "_random")

    def __init__(self, random: random.Random) -> None:
        self._random = random
        self._average: float | None = None

    def add(self, seconds: float) -> None:
        """Count a call that has ended after *seconds*."""
        known = self._average
        self._average = seconds if known is None else known + (seconds - known) * NEWEST_CALL_WEIGHT

    def held_wait(self) -> float:
        """Return after how many seconds running calls are expected to have ended: bounded, and spread at random."""
        average = UNKNOWN_CALL_SECONDS if self._average is None else self._average
        return min(max(MIN_HELD_WAIT, average), MAX_HELD_WAIT) * (1 + HELD_WAIT_SPREAD * self._random.random())


def refusal_of(
    claim: Claim, lease: Lease, grant: Grant, durations: CallDurations, *, own: int | None = None
) -> Rejection:
    """Return the refusal of *claim* by *grant*, in the words of its *lease*, with the numbers of its standing.

    *own* is what a running call has reserved from this limit; the claim is then a further part. The refusal ends the
    answer, so *own* counts as spent. It is final and has no wait, because a repeated call would be a new answer.
    """
    assert grant.refused is not None  # for the type: it was refused
    standing = grant.standings[grant.refused]
    if own is not None:
        standing = msgspec.structs.replace(standing, held=max(0, standing.held - own))
    # A store of a deployment may not report what is needed.
    needed = standing.needed or claim.needs(min(claim.floor, grant.ceiling))
    case = refusal_case(claim.limit, standing.spent, needed)
    until_reset = max(0.0, standing.resets_at - grant.now)
    wait: float | None = until_reset
    if own is not None or case == "never_fits":
        wait = None
    elif case == "held":
        wait = min(until_reset, durations.held_wait())
    elif isinstance(claim.window, Sliding) and claim.window.seconds <= MAX_SENSIBLE_WAIT:
        # A sliding window returns room up to 1/64 of it late, and SDKs ignore a wait of more than a minute. A call that
        # comes too early, by a second at most, is told the rest.
        wait = min(until_reset, MAX_SENSIBLE_WAIT)
    rejection = lease.refusal(claim, msgspec.structs.replace(standing, needed=needed, retry_after=wait))
    rejection.retry_after = wait
    if wait is None or case == "held":
        rejection.final = wait is None
    elif isinstance(claim.window, Calendar):
        rejection.final = rejection.final and not resets_soon(claim.window)
    else:
        rejection.final = wait > MAX_SENSIBLE_WAIT
    rejection.details = {
        "policy": claim.policy,
        "limit": in_units(claim.unit, claim.limit),
        "used": in_units(claim.unit, standing.spent),
        "held": in_units(claim.unit, standing.held),
        "needed": in_units(claim.unit, needed),
        "resets_at": math.ceil(standing.resets_at),
        "case": case,
        **rejection.details,
    }
    return rejection
