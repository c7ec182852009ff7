"""The limits that a store counts, remembered: each call needs the keys of its counters and the spans of their windows."""

from __future__ import annotations

import functools

import msgspec

from policies.api.claim import KEY_SEPARATOR, Claim, Unit, Window
from policies.api.window import MICROSECONDS_PER_SECOND, Sliding, span_of

WINDOW_CELLS = 64
"""Complete cells of a window."""
COUNTED_CELLS = WINDOW_CELLS + 1
"""The complete cells, and the current one."""
MAX_REMEMBERED_LIMITS = 1_024


@functools.lru_cache(1024)
def cell_width(window: Sliding) -> int:
    """Return the length of a cell of *window* in microseconds, rounded up."""
    return max(1, -(-round(window.seconds * MICROSECONDS_PER_SECOND) // WINDOW_CELLS))


@functools.lru_cache(1024)
def _cell_width_of(window: str) -> int:
    return cell_width(Sliding(float(window.removeprefix("sliding@"))))


def cell_width_of(key: str) -> int:
    """Return the length of a cell of the sliding counter *key*, in microseconds."""
    return _cell_width_of(key.rpartition(KEY_SEPARATOR)[2])


def expires_at(cell: int, width: int) -> int:
    """Return when what *cell* counts expires, in microseconds."""
    return (cell + COUNTED_CELLS) * width


class CountedLimit(msgspec.Struct, eq=False):
    """What the counters of one limit have in common; times are in microseconds.

    The key of a counter is `prefix`, its identity, `suffix`. `width` is the length of a cell (sliding; 0 for a calendar window).
    `begins` and `ends` are the span of the calendar window at the last `move_to`; `start` is its begin in seconds, which
    identifies a counter. `number` is for the store.
    """

    window: Window
    prefix: str
    suffix: str
    width: int = 0
    begins: int = 0
    ends: int = 0
    start: int = 0
    number: int = 0

    @classmethod
    def of(cls, claim: Claim) -> CountedLimit:
        """Return the limit of *claim*."""
        window = claim.window
        width = cell_width(window) if isinstance(window, Sliding) else 0
        suffix = f"{KEY_SEPARATOR}{claim.unit}{KEY_SEPARATOR}{window.key}"
        return cls(window, claim.policy + KEY_SEPARATOR, suffix, width)

    def move_to(self, now: int) -> None:
        """Set the span of a calendar window to the one that holds *now*."""
        if not self.begins <= now < self.ends and not isinstance(self.window, Sliding):
            start, end = span_of(self.window, now / MICROSECONDS_PER_SECOND)
            self.start = round(start)
            self.begins, self.ends = self.start * MICROSECONDS_PER_SECOND, round(end) * MICROSECONDS_PER_SECOND


class Limits(dict[tuple[str, Unit, Window], CountedLimit]):
    """The limits that were used, by policy, unit and window: as many as the configuration has, and bounded."""

    def of(self, claim: Claim) -> CountedLimit:
        """Return the limit of *claim*, and remember it."""
        key = claim.policy, claim.unit, claim.window
        limit = self.get(key)
        if limit is None:
            if len(self) >= MAX_REMEMBERED_LIMITS:
                self.clear()
            limit = self[key] = CountedLimit.of(claim)
        return limit
