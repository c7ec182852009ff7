"""Charge fractions of a unit in a store that counts whole units.

A charge is rounded up. The difference is kept for the counter and subtracted from its next charge. So in one process, the
charges of a counter are never less than the costs in all, and less than one unit more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.api.lease import ExactCharge

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.api.claim import Claim

MAX_ROUNDED_COUNTERS = 10_000
"""Counters whose fraction is kept; the one that was charged longest ago is dropped for a new one."""
PARTS_PER_UNIT = 1_000_000
"""A fraction is kept in these parts of a unit, rounded in favour of the counter: prices are per million tokens."""


class Rounding:
    """The fractions by which the counters of one process were charged too much."""

    def __init__(self) -> None:
        self._paid_ahead: dict[tuple[str, float], int] = {}
        """Parts of a unit by counter: its key, and the end of its window."""

    def whole(self, call: Call, claim: Claim, charge: int, *, exact: bool) -> int:
        """Return the whole units to charge for *claim*. Call it once per settlement; the settlement may be sent repeatedly.

        Without *exact* the store may charge more than *charge* (see `Store.settle`), so no fraction is kept or subtracted.
        """
        if not isinstance(charge, ExactCharge):
            return charge
        if not exact:
            return int(charge)
        end = next((standing.resets_at for each, standing in call.standings if each is claim), 0.0)
        counter, cost = (claim.key, end), charge.exact
        owed = -(-cost.numerator * PARTS_PER_UNIT // cost.denominator) - self._paid_ahead.pop(counter, 0)
        units = -(-owed // PARTS_PER_UNIT)
        if rest := units * PARTS_PER_UNIT - owed:
            if len(self._paid_ahead) >= MAX_ROUNDED_COUNTERS:
                self._paid_ahead.pop(next(iter(self._paid_ahead)))
            self._paid_ahead[counter] = rest
        return units
