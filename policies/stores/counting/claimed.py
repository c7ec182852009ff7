"""The counters that the claims of one call are counted in."""

from __future__ import annotations

import msgspec

from policies.api.claim import Claim

from .limits import COUNTED_CELLS, CountedLimit, expires_at
from .rows import SLIDING_START, CounterRow


class ClaimedCounter(msgspec.Struct, eq=False):
    """The counter of one claim, as it is before the operation.

    `counter` is the key of the counter that the claim is counted in: `claim_key`, or the overflow counter of its group.
    `start` is in seconds, `ends` in microseconds. `held` is the reserved part of `used`. `cell` is the current one, and `mark`
    that of the row (sliding). `joins_group` is the group whose number of counters grows with this one; empty for none.
    """

    claim: Claim
    limit: CountedLimit
    claim_key: str
    counter: str
    start: int
    ends: int
    cell: int
    row: CounterRow | None
    used: int = 0
    held: int = 0
    joins_group: str = ""
    mark: int = 0


def claimed_counter(claim: Claim, limit: CountedLimit, now: int) -> ClaimedCounter:
    """Return the counter of *claim* at *now*, in microseconds, without its row."""
    key, width = f"{limit.prefix}{claim.identity}{limit.suffix}", limit.width
    if width:
        cell = now // width
        return ClaimedCounter(claim, limit, key, key, SLIDING_START, (cell + COUNTED_CELLS) * width, cell, None)
    if not limit.begins <= now < limit.ends:
        limit.move_to(now)
    return ClaimedCounter(claim, limit, key, key, limit.start, limit.ends, 0, None)


def is_in_use(overflow: CounterRow | None, width: int, now: int) -> bool:
    """Return whether a sliding *overflow* counter, with cells of *width*, counts something at *now*."""
    if overflow is None or overflow.spent <= 0 or not overflow.cells:
        return False
    return expires_at(overflow.oldest + len(overflow.cells) - 1, width) > now
