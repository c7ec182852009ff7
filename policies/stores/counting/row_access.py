"""What a store provides for its counting: access to the rows of counters, to groups and to reservations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from .claimed import ClaimedCounter
from .groups import GroupClock
from .rows import CounterRow, Taken

_CLAIM_KEY = itemgetter(0)


class Removed(NamedTuple):
    """What a reservation took, in the order of its parts. The first `charged` of it was charged already."""

    taken: Sequence[Taken]
    charged: int = 0

    @property
    def is_simple(self) -> bool:
        """Whether each claim took once, and nothing was charged."""
        return not self.charged and len(set(map(_CLAIM_KEY, self.taken))) == len(self.taken)


class CounterRows(ABC):
    """The rows of the counters of one store. None of its methods waits."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int], CounterRow] = {}
        """The counters in memory, by key and start."""

    @abstractmethod
    def _load_rows(self, counters: Sequence[ClaimedCounter]) -> None:
        """Set the row of each of *counters*, which are not in memory; leave None where there is none."""

    @abstractmethod
    def _find_row(self, counter: str, start: int) -> CounterRow | None:
        """Return the row of a counter; None where there is none."""

    @abstractmethod
    def _add_row(self, key: str, row: CounterRow) -> None:
        """Add a new counter: to the counters in memory, to its group, and to those that are to be removed."""

    @abstractmethod
    def _row_changed(self, key: str, start: int) -> None:
        """Note that the row of a counter in memory must be kept as it is now."""

    @abstractmethod
    def _remove_unused(self, now: int, number: int) -> int:
        """Look at about *number* counters that are due, remove those that are over, and return how many were looked at."""

    @abstractmethod
    def _group_size(self, group: str) -> int:
        """Return how many counters a group of identities has."""

    @abstractmethod
    def _group_clock(self) -> GroupClock:
        """Return the clock of the groups."""

    @abstractmethod
    def _set_group_clock(self, group_clock: GroupClock) -> None:
        """Replace the clock of the groups."""

    @abstractmethod
    def _record_part(
        self, call_id: str, part: int, ceiling: int, taken: list[Taken], counters: Sequence[ClaimedCounter]
    ) -> bool:
        """Record a part of a reservation, which took *taken* from *counters*; return False if it is recorded already."""

    @abstractmethod
    def _first_part(self, call_id: str) -> Sequence[Taken]:
        """Return what the first part of a reservation took; nothing where there is no reservation."""

    @abstractmethod
    def _recorded_ceiling(self, call_id: str, part: int) -> int | None:
        """Return the ceiling of a part of a reservation; None where there is no such part."""

    @abstractmethod
    def _remove_reservation(self, call_id: str) -> Removed | None:
        """Remove a reservation and return what it took; None where there is none."""
