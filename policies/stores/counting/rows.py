"""Counters and their rows, as the memory and the SQLite store share them."""

from __future__ import annotations

from array import array
from typing import TypeAlias

import msgspec

from policies.api.claim import Claim
from policies.api.window import MICROSECONDS_PER_SECOND

SLIDING_START = -1
"""The `start` of a sliding counter; that of a calendar counter is the start of its window."""
DAY_MICROSECONDS = 86_400 * MICROSECONDS_PER_SECOND
RETENTION_MICROSECONDS, MINUTE_RETENTION_MICROSECONDS = 40 * DAY_MICROSECONDS, 4 * DAY_MICROSECONDS
"""How long a calendar counter is kept after the end of its window, and that of a minute; so a clock that was wrong for a
while and is right again finds what is spent."""
MAX_MINUTE_MICROSECONDS = 60 * MICROSECONDS_PER_SECOND
CHARGED_RETENTION_MICROSECONDS = DAY_MICROSECONDS
"""How long a reservation is kept after it was charged because its process sent no heartbeat: a late settlement corrects it."""

Taken: TypeAlias = tuple[str, str, int, int, int, int]
"""What a reservation took for one claim: the claim's key, the counter's key and start, the cell (sliding), the amount, a mark.

The mark is that of the counter: of a sliding one when it was taken, of a calendar one when it was charged because its process
sent no heartbeat; until then it is 0.
"""
NO_RING = array("I")


class CounterRow(msgspec.Struct, eq=False):
    """One counter; times are in microseconds.

    `ends` is the end of the window (calendar), or when all that is counted has expired (sliding). A sliding counter has its
    total in `spent`, and what was taken in each cell in `ring` (see `ring.py`); `newest` is the number of the current cell,
    `oldest` that of the first that counts something. `group` is the group whose identities are limited in number, "" for none.
    `mark` changes when an operator resets the counter (calendar), or when the clock was set back (sliding): what was charged or
    taken before that cannot be found any more. Two sliding counters that have the same key one after the other differ in it.
    """

    key: str
    start: int
    ends: int
    spent: int = 0
    held: int = 0
    oldest: int = 0
    newest: int = 0
    ring: array[int] = NO_RING
    group: str = ""
    mark: int = 0

    @property
    def removable_at(self) -> int:
        """When the counter may be removed."""
        if self.start == SLIDING_START:
            return self.ends
        is_minute = self.ends - self.start <= MAX_MINUTE_MICROSECONDS
        return self.ends + (MINUTE_RETENTION_MICROSECONDS if is_minute else RETENTION_MICROSECONDS)


class ClaimedCounter(msgspec.Struct, eq=False):
    """The counter of one claim, as it is before the operation; times are in microseconds.

    `counter` is the key of the counter that the claim is counted in: `claim_key`, or the overflow counter of its group.
    `held` is the reserved part of `used`. `width` is the length of a cell, `cell` the current one and `mark` that of the row
    (sliding). `joins_group` is the group whose number of counters grows with this one; empty for none.
    """

    claim: Claim
    claim_key: str
    counter: str
    start: int
    ends: int
    cell: int
    width: int
    row: CounterRow | None
    used: int = 0
    held: int = 0
    joins_group: str = ""
    mark: int = 0
