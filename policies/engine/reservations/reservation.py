"""What one call has reserved, in one or several parts."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from policies.api.claim import Claim
from policies.api.lease import Lease
from policies.api.policy import StoreFailure

if TYPE_CHECKING:
    from policies.api.call import Call

_CLAIM_OF_LEASED = itemgetter(0)

LeasedClaim: TypeAlias = tuple[Claim, Lease, StoreFailure]
"""One claim, the lease that charges and refuses it, and what its policy does while the store is down."""


class Reservation(msgspec.Struct, eq=False):
    """What one call has reserved."""

    call: Call
    claims: Sequence[LeasedClaim]
    ceiling: int = 0
    """The ceiling in tokens, or the expected length, with which `claims` were reserved."""
    later_parts: list[tuple[Sequence[Claim], int]] = []
    """The claims and the ceiling of each further part."""
    step: int = 0
    """Tokens by which the reservation of a stream without a ceiling grows at a time; 0 if it does not grow."""
    is_charged: bool = False
    """Whether the store has charged the reservation already, because it took the process for dead."""
    cost_usd: float | None = None
    """What the call cost in dollars, set by its settlement; None if no claim of it is in dollars."""

    @property
    def parts(self) -> int:
        """The number of parts that are reserved."""
        return 1 + len(self.later_parts)

    @property
    def amounts(self) -> dict[str, int]:
        """What all parts have reserved, by the keys of the claims."""
        found: dict[str, int] = {}
        for claims, ceiling in [(claims_of_leased(self.claims), self.ceiling), *self.later_parts]:
            for claim in claims:
                found[claim.key] = found.get(claim.key, 0) + claim.needs(ceiling)
        return found


def claims_of_leased(leased: Sequence[LeasedClaim]) -> list[Claim]:
    """Return the claims alone, in order."""
    return list(map(_CLAIM_OF_LEASED, leased))
