"""The names of groups of limited identities, under which stores count how many counters a group has.

The group of a calendar counter has the start of its window in its name. A sliding counter leaves its group when it is removed,
which is late if it was made while the clock was ahead. So a store keeps the latest time at which one was made or looked at. If that
is later than now, the clock was set back, and the group gets another name. Earlier counters do not count towards its size. They
stay in use, and are removed when they expire.
"""

from __future__ import annotations

from typing import NamedTuple

from policies.api.claim import Claim
from policies.api.window import MICROSECONDS_PER_SECOND

TOLERANCE_MICROSECONDS = MICROSECONDS_PER_SECOND
"""How much later than now the latest time may be. It is written again only when it is older than that, so writes are rare."""


class GroupClock(NamedTuple):
    """The latest time at which a sliding counter of a group was made or looked at, and how often the clock was set back."""

    latest: int = 0
    setbacks: int = 0

    def at(self, now: int) -> GroupClock:
        """Return the clock for *now*; the same object if it need not be written."""
        if self.latest > now + TOLERANCE_MICROSECONDS:
            return GroupClock(now, self.setbacks + 1)
        return GroupClock(now, self.setbacks) if now > self.latest + TOLERANCE_MICROSECONDS else self

    def group_of(self, claim: Claim) -> str:
        """Return the name of the group of *claim*, whose window is a sliding one."""
        return f"{claim.group_key}:{self.setbacks}" if self.setbacks else claim.group_key


def calendar_group(claim: Claim, start: int) -> str:
    """Return the name of the group of *claim*, whose window is a calendar one and has begun at *start*, in seconds."""
    return f"{claim.group_key}:{start}"
