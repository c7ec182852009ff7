"""Standings of limits: those that an operation returns, and those that are read without a change.

Reading changes nothing: no cell expires, no identity gets a counter, and no row is cached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from policies.api.claim import Claim
from policies.api.store import Standing
from policies.api.window import MICROSECONDS_PER_SECOND

from .arithmetic import RefusedClaim
from .claimed import ClaimedCounter, claimed_counter, is_in_use
from .groups import GroupClock, calendar_group
from .limits import Limits, expires_at
from .ring import fits_in_ring_at, move_to
from .rows import SLIDING_START, CounterRow


class CounterReads(NamedTuple):
    """How a store reads its counters."""

    find_row: Callable[[str, int], CounterRow | None]
    """Returns the row of a counter, by its key and the start of its window; None where there is none."""
    group_size: Callable[[str], int]
    """Returns how many counters a group of identities has."""
    group_clock: Callable[[], GroupClock]
    """Returns the clock of the groups."""


def standings_of(counters: Sequence[ClaimedCounter], now: int, refused: RefusedClaim | None = None) -> list[Standing]:
    """Return the standing of each of *counters* after the operation. `needed` is set for the claim that is *refused*."""
    standings = []
    for counter in counters:
        row = counter.row
        if not counter.limit.width:
            resets_at = counter.ends
        elif row is None or not row.spent:
            resets_at = now
        else:
            resets_at = expires_at(row.oldest, counter.limit.width)
        seconds = max(now, resets_at) / MICROSECONDS_PER_SECOND
        standings.append(Standing(counter.claim.limit, counter.used, seconds, counter.held))
    if refused is not None:
        seconds = max(now, refused.resets_at) / MICROSECONDS_PER_SECOND
        standing = msgspec.structs.replace(standings[refused.at], resets_at=seconds, needed=refused.needed)
        standings[refused.at] = standing
    return standings


def fits_at(counter: ClaimedCounter, needed: int) -> int:
    """Return when a counter will have room for *needed*; where it never has, when it is empty.

    A calendar counter has room at the end of its window, a sliding one when enough of its cells have expired.
    """
    if not counter.limit.width:
        return counter.ends
    if counter.row is None or not counter.row.spent:
        return 0
    return fits_in_ring_at(counter.row, counter.limit.width, counter.claim.limit - needed)


def read_standings(claims: Sequence[Claim], now: int, limits: Limits, reads: CounterReads) -> list[Standing]:
    """Return the standing of each of *claims* at *now*, in microseconds. See `Store.standings`."""
    return [_standing(claimed_counter(claim, limits.of(claim), now), now, reads) for claim in claims]


def _standing(counter: ClaimedCounter, now: int, reads: CounterReads) -> Standing:
    claim, row = counter.claim, reads.find_row(counter.counter, counter.start)
    if row is None and claim.max_identities:
        row = _shared_row(counter, now, reads)
    counter.row = row
    if row is not None:
        if row.cells and row.newest != counter.cell:
            counter.row = row = msgspec.structs.replace(row, cells=row.cells.copy())
            move_to(row, counter.cell)
        counter.used, counter.held = row.spent + row.held, row.held
    refused = None
    if counter.used + claim.base > claim.limit:
        refused = RefusedClaim(0, claim.base, fits_at(counter, claim.base))
    return standings_of([counter], now, refused)[0]


def _shared_row(counter: ClaimedCounter, now: int, reads: CounterReads) -> CounterRow | None:
    """Return the overflow counter if a call of a new identity would be counted there. See `CounterStore`."""
    claim = counter.claim
    shared = reads.find_row(claim.overflow_key, counter.start)
    is_sliding = counter.start == SLIDING_START
    stays = is_sliding and is_in_use(shared, counter.limit.width, now)
    group = reads.group_clock().at(now).group_of(claim) if is_sliding else calendar_group(claim, counter.start)
    return shared if stays or reads.group_size(group) >= claim.max_identities else None
