"""Standings of limits: those that an operation returns, and those that are read without a change.

Reading changes nothing: no cell expires, no identity gets a counter, and no row is cached.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from policies.api.claim import Claim
from policies.api.store import Standing
from policies.api.window import MICROSECONDS_PER_SECOND, Calendar, Sliding

from .arithmetic import RefusedClaim
from .groups import GroupClock
from .ring import cell_width, expires_at, fits_in_ring_at, move_to
from .rows import SLIDING_START, ClaimedCounter, CounterRow

WindowAt: TypeAlias = Callable[[Calendar, int], tuple[int, int]]
"""Returns the start and the end of the calendar window around a time; all in microseconds."""


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
    for at, counter in enumerate(counters):
        needed, row = 0, counter.row
        if refused is not None and at == refused.at:
            needed, resets_at = refused.needed, refused.resets_at
        elif not counter.width:
            resets_at = counter.ends
        elif row is None or not row.spent:
            resets_at = now
        else:
            resets_at = expires_at(row.oldest, counter.width)
        seconds = max(now, resets_at) / MICROSECONDS_PER_SECOND
        standings.append(Standing(counter.claim.limit, counter.used, seconds, counter.held, needed))
    return standings


def fits_at(counter: ClaimedCounter, needed: int) -> int:
    """Return when a counter will have room for *needed*; where it never has, when it is empty.

    A calendar counter has room at the end of its window, a sliding one when enough of its cells have expired.
    """
    if not counter.width:
        return counter.ends
    if counter.row is None or not counter.row.spent:
        return 0
    return fits_in_ring_at(counter.row, counter.width, counter.claim.limit - needed)


def read_standings(claims: Sequence[Claim], now: int, window_at: WindowAt, reads: CounterReads) -> list[Standing]:
    """Return the standing of each of *claims* at *now*, in microseconds. See `Store.standings`."""
    return [_standing(claim, now, window_at, reads) for claim in claims]


def _standing(claim: Claim, now: int, window_at: WindowAt, reads: CounterReads) -> Standing:
    window, cell, width = claim.window, 0, 0
    if isinstance(window, Sliding):
        width = cell_width(window)
        cell, start = now // width, SLIDING_START
        ends = expires_at(cell, width)
    else:
        start, ends = window_at(window, now)
    row = reads.find_row(claim.key, start)
    if row is None and claim.max_identities:
        row = _shared_row(claim, start, now, reads)
    counter = ClaimedCounter(claim, claim.key, claim.key, start, ends, cell, width, row)
    if row is not None:
        if width and row.newest != cell:
            counter.row = row = msgspec.structs.replace(row, ring=copy.copy(row.ring))
            move_to(row, cell)
        counter.used, counter.held = row.spent + row.held, row.held
    refused = None
    if counter.used + claim.base > claim.limit:
        refused = RefusedClaim(0, claim.base, fits_at(counter, claim.base))
    return standings_of([counter], now, refused)[0]


def _shared_row(claim: Claim, start: int, now: int, reads: CounterReads) -> CounterRow | None:
    """Return the overflow counter if a call of a new identity would be counted there. See `CounterStore`."""
    shared = reads.find_row(claim.overflow_key, start)
    is_sliding = start == SLIDING_START
    stays = is_sliding and shared is not None and shared.spent > 0 and shared.ends > now
    group = reads.group_clock().at(now).group_of(claim) if is_sliding else f"{claim.group_key}:{start}"
    return shared if stays or reads.group_size(group) >= claim.max_identities else None
