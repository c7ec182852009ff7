"""Counters and their rows, as the memory and the SQLite store share them."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from policies.api.window import MICROSECONDS_PER_SECOND

SLIDING_START = -1
"""The `start` of a sliding counter; that of a calendar counter is the start of its window, in seconds since 1970."""
DAY_SECONDS = 86_400
RETENTION_SECONDS, MINUTE_RETENTION_SECONDS = 40 * DAY_SECONDS, 4 * DAY_SECONDS
"""How long a calendar counter is kept after the end of its window, and that of a minute; so a clock that was wrong for a
while and is right again finds what is spent."""
MAX_MINUTE_SECONDS = 60
REQUEUE_SECONDS = 3_600
"""When a counter is looked at again that is over but has reservations."""

Taken: TypeAlias = tuple[str, str, int, int, int, int]
"""What a reservation took for one claim: the claim's key, the counter's key and start, the cell (sliding), the amount, a mark.

The mark is that of the counter: of a sliding one when it was taken, of a calendar one when it was charged because its process
sent no heartbeat; until then it is 0.
"""


class CounterRow(msgspec.Struct, eq=False, array_like=True):
    """One counter; the SQLite store writes its fields in this order. Times are in whole seconds since 1970.

    `ends` is the end of the window (calendar), or when all that is counted has expired (sliding), rounded up. A sliding counter has
    its total in `spent`, and what was taken in each cell in `cells`, the first of which has the number `oldest` (see
    `ring.py`); `newest` is the number of the current cell. `group` is the group whose identities are limited in number, "" for
    none. `mark` changes when an operator resets the counter (calendar), or when the clock was set back (sliding): what was
    charged or taken before that cannot be found any more. Two sliding counters that have the same key one after the other
    differ in it. `number` is for the store.
    """

    number: int
    start: int
    ends: int
    spent: int = 0
    held: int = 0
    group: str = ""
    mark: int = 0
    newest: int = 0
    oldest: int = 0
    cells: list[int] | None = None

    @property
    def removable_at(self) -> int:
        """When the counter may be removed."""
        if self.start == SLIDING_START:
            return self.ends
        is_minute = self.ends - self.start <= MAX_MINUTE_SECONDS
        return self.ends + (MINUTE_RETENTION_SECONDS if is_minute else RETENTION_SECONDS)

    def due_after(self, seconds: int) -> int:
        """Return when the counter is to be looked at, and removed if it is over; later than *seconds* if it has reservations."""
        return max(self.removable_at, seconds + REQUEUE_SECONDS) if self.held else self.removable_at


def seconds_up(microseconds: int) -> int:
    """Return *microseconds* in seconds, rounded up."""
    return -(-microseconds // MICROSECONDS_PER_SECOND)
