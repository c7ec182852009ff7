"""The load of the upstreams: attempts in flight, and which of several upstreams is least busy."""

from __future__ import annotations

from collections.abc import Sequence

SPILL_FACTOR, SPILL_MARGIN = 1.25, 1.0
"""A preferred upstream is passed over while it has more attempts than this factor of its fair share, and this many more.

Bounded loads (Mirrokni, Thorup and Zadimoghaddam 2017).
"""


class UpstreamLoad:
    """The load of one upstream: its *weight*, and the attempts that are in flight."""

    __slots__ = ("in_flight", "next_turn", "weight")

    def __init__(self, weight: float) -> None:
        self.weight, self.in_flight = weight, 0
        self.next_turn = 0.0
        """Its place in the rotation of upstreams that are equally busy."""

    def begin(self) -> None:
        """Count an attempt that begins."""
        self.in_flight += 1

    def end(self) -> None:
        """Count an attempt that has ended."""
        self.in_flight -= 1


class Rotation:
    """Take turns among upstreams that are equally busy, in proportion to their weights (stride scheduling).

    An upstream that was not used for a while gets no more than its share afterwards: its place moves up to the present.
    """

    def __init__(self) -> None:
        self._present = 0.0

    def least_busy(self, loads: Sequence[UpstreamLoad]) -> int:
        """Return the index of the least busy of *loads*, and give it its turn."""
        present = self._present
        at = min(
            range(len(loads)),
            key=lambda each: (loads[each].in_flight / loads[each].weight, max(loads[each].next_turn, present)),
        )
        chosen = loads[at]
        self._present = max(chosen.next_turn, present)
        chosen.next_turn = self._present + 1 / chosen.weight
        return at


def is_overloaded(load: UpstreamLoad, loads: Sequence[UpstreamLoad]) -> bool:
    """Whether *load* has so many more attempts in flight than its fair share of all *loads* that calls spill to others."""
    total, weights = sum(each.in_flight for each in loads), sum(each.weight for each in loads)
    return load.in_flight > SPILL_FACTOR * total * load.weight / weights + SPILL_MARGIN
