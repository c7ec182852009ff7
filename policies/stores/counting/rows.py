"""Counters and their rows, as the memory and the SQLite store share them."""

from __future__ import annotations

from typing import Generic, TypeAlias, TypeVar

import msgspec

from policies.api.claim import Claim

SLIDING = -1


Taken: TypeAlias = tuple[str, str, int, int, int]
"""One claim of a hold: its key, the counter's key, the start of the window, the first moment of the taking, the amount."""


class CounterRow(msgspec.Struct, eq=False):
    """A counter: what is spent and held, when its window ends, and the oldest taking of a sliding one."""

    spent: int
    held: int
    oldest: int
    ends: int

    def youngest(self) -> int | None:
        """Return the first moment of the youngest taking.  Each store's rows say it; a Struct cannot be an abstract class."""
        raise NotImplementedError


R = TypeVar("R", bound=CounterRow)


class ClaimedCounter(msgspec.Struct, Generic[R], eq=False):
    """Where one claim is counted, as it stands before the step.

    `moment` is now, but never before the counter's newest taking; `first` says which taking a new one joins.
    """

    claim: Claim
    key: str
    counter: str
    start: int
    ends: int
    moment: int
    first: int
    row: R | None
    used: int = 0
    oldest: int = 0
    crowd: str = ""
