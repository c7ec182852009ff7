"""Counters and their rows, as the memory and the SQLite store share them."""

from __future__ import annotations

from typing import Generic, TypeAlias, TypeVar

import msgspec

from policies.api.claim import Claim
from policies.api.window import MICROSECONDS_PER_SECOND

SLIDING_START = -1
"""The `start` of a sliding counter; that of a calendar counter is the start of its window."""
MAX_RETENTION_MICROSECONDS = 3_600 * MICROSECONDS_PER_SECOND
"""Longest time for which a closed calendar counter is kept, so that a clock that is set back does not find it empty."""

Taken: TypeAlias = tuple[str, str, int, int, int]
"""What a reservation took for one claim: the claim's key, the counter's key and start, the entry's start, the amount."""


class CounterRow(msgspec.Struct, eq=False):
    """One counter; times are in microseconds.

    `oldest` is when the last request of the oldest entry came (sliding), `ends` the end of the window (calendar) or the time
    when the newest entry expires (sliding). The total of a sliding counter is in `spent`.
    """

    spent: int
    held: int
    oldest: int
    ends: int

    def newest_start(self) -> int | None:
        """Return the start of the newest entry of a sliding counter. Abstract: a Struct cannot be an abstract class."""
        raise NotImplementedError


RowT = TypeVar("RowT", bound=CounterRow)


class ClaimedCounter(msgspec.Struct, Generic[RowT], eq=False):
    """The counter of one claim, as it is before the operation; times are in microseconds.

    `counter` is the key of the counter that the claim is counted in: `claim_key`, or the overflow counter of its group.
    `held` is the reserved part of `used`. `time` is now, but never before the newest entry of the counter. `entry_start`
    is the start of the entry that the claim is added to. `joins_group` is the group whose number of counters grows with
    this one; empty for none.
    """

    claim: Claim
    claim_key: str
    counter: str
    start: int
    ends: int
    time: int
    entry_start: int
    row: RowT | None
    used: int = 0
    held: int = 0
    oldest: int = 0
    joins_group: str = ""
