"""Read the standings of limits and change nothing: no entry expires, no identity gets a counter, no row is cached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeAlias

from policies.api.claim import Claim
from policies.api.store import Standing
from policies.api.window import MICROSECONDS_PER_SECOND, Calendar, Sliding

from .rows import SLIDING_START, RowT

WindowAt: TypeAlias = Callable[[Calendar, int], tuple[int, int]]
"""Returns the start and the end of the calendar window around a time; all in microseconds."""


class CounterReads(NamedTuple, Generic[RowT]):
    """How a store reads its counters."""

    row: Callable[[str, int], RowT | None]
    """Returns the row of a counter, by its key and the start of its window; None where there is none."""
    entries: Callable[[RowT], Iterable[tuple[int, int]]]
    """Returns the time of the last request and the amount of each entry of a sliding counter, oldest first."""
    group_size: Callable[[str], int]
    """Returns how many counters a group of identities has."""


def read_standings(
    claims: Sequence[Claim], now: int, window_at: WindowAt, reads: CounterReads[RowT]
) -> Sequence[Standing]:
    """Return the standing of each of *claims* at *now*, in microseconds. See `Store.standings`."""
    return [_standing(claim, now, window_at, reads) for claim in claims]


def _standing(claim: Claim, now: int, window_at: WindowAt, reads: CounterReads[RowT]) -> Standing:
    window = claim.window
    if isinstance(window, Sliding):
        start, length = SLIDING_START, round(window.seconds * MICROSECONDS_PER_SECOND)
        row = _row(claim, start, claim.group_key, now, reads)
        return _of_sliding(claim, row, now, length, reads)
    start, ends = window_at(window, now)
    row = _row(claim, start, f"{claim.group_key}:{start}", now, reads)
    used, held = (0, 0) if row is None else (row.spent + row.held, row.held)
    return _made(claim, used, held, ends)


def _row(claim: Claim, start: int, group: str, now: int, reads: CounterReads[RowT]) -> RowT | None:
    """Return the row of the counter that a call would be counted in; None for a new one. See `CounterStore`."""
    row = reads.row(claim.key, start)
    if row is not None or not claim.max_identities:
        return row
    shared = reads.row(claim.overflow_key, start)
    stays = start == SLIDING_START and shared is not None and shared.spent > 0 and shared.ends > now
    return shared if stays or reads.group_size(group) >= claim.max_identities else None


def _of_sliding(claim: Claim, row: RowT | None, now: int, length: int, reads: CounterReads[RowT]) -> Standing:
    if row is None or not row.spent:
        return _made(claim, 0, 0, now)
    since = max(now, row.ends - length) - length
    if row.oldest > since and row.spent + claim.base <= claim.limit:
        return _made(claim, row.spent, 0, max(now, row.oldest + length))
    used, left, resets_at = row.spent, row.spent, now
    for last, amount in reads.entries(row):  # the expired ones come first
        left -= amount
        if last <= since:
            used = left
            continue
        resets_at = last + length
        if left + claim.base <= claim.limit:
            break
    return _made(claim, used, 0, max(now, resets_at))


def _made(claim: Claim, used: int, held: int, resets_at: int) -> Standing:
    needed = claim.base if used + claim.base > claim.limit else 0
    return Standing(claim.limit, used, resets_at / MICROSECONDS_PER_SECOND, held, needed)
