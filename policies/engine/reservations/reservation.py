"""What one call has reserved, in one or several parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from policies.api.claim import Calendar, Claim
from policies.api.lease import Lease
from policies.api.policy import StoreFailure
from policies.api.store import Grant, Standing
from policies.stores.counting.arithmetic import MAX_COUNTER_VALUE, charge_for

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
    next_part: int = 1
    """The number of the next part in the store; 0 if the reservation must be registered again."""
    losses: int = 0
    """How often the store has lost the reservation."""
    may_be_missing: bool = False
    """Whether the store may never have made it, because `reserve` was cancelled or failed: then it cannot be lost either."""
    step: int = 0
    """Tokens by which the reservation of a stream without a ceiling grows at a time; 0 if it does not grow."""
    later_ends: dict[str, float] = {}
    """When the windows end in which it was reserved again; see `window_ends`."""
    is_settled: bool = False
    """Whether the settlement has begun: nothing more may be reserved."""
    cost_usd: float | None = None
    """What the call cost in dollars, set by its settlement; None if no claim of it is in dollars."""

    @property
    def store_id(self) -> str:
        """The id of the reservation in the store: that of the call, or a new one for each time that the store lost it."""
        return f"{self.call.id}.again{self.losses}" if self.losses else self.call.id

    @property
    def amounts(self) -> dict[str, int]:
        """What all parts have reserved, by the keys of the claims."""
        found: dict[str, int] = {}
        for claims, ceiling in [(claims_of_leased(self.claims), self.ceiling), *self.later_parts]:
            for claim in claims:
                found[claim.key] = found.get(claim.key, 0) + claim.needs(ceiling)
        return found

    def debts(self, charges: Mapping[str, int], *, refund: bool) -> tuple[Claim, ...]:
        """Return claims that always fit, with what `Store.settle` would charge to each calendar counter."""
        reserved = self.amounts
        owed = {key: charge_for(key, amount, charges, refund=refund) for key, amount in reserved.items()}
        return tuple(debt for debt in self._debts(owed) if isinstance(debt.window, Calendar))

    @property
    def window_ends(self) -> dict[str, float]:
        """When the windows of its calendar claims end, by their keys, in seconds since 1970 on the clock of the store."""
        return _ends_of(self.call.standings) | self.later_ends

    def registered(self, claims: Sequence[Claim], grant: Grant) -> None:
        """Note that *claims*, which the store had lost, were reserved again by *grant*."""
        self.later_ends |= _ends_of(zip(claims, grant.standings, strict=True))
        self.next_part = 1

    def mark_as_lost(self) -> None:
        """Note that the store has lost the reservation: it gets another id, and must be registered again."""
        self.losses, self.next_part = self.losses + 1, 0

    def claims_to_register(self) -> Sequence[Claim]:
        """Return claims that always fit, with what all parts have reserved, for a reservation that the store has lost.

        Requests in sliding windows are left out: they counted when the call began.
        """
        return [
            debt for debt in self._debts(self.amounts) if isinstance(debt.window, Calendar) or debt.unit != "requests"
        ]

    def _debts(self, owed: Mapping[str, int]) -> list[Claim]:
        found: dict[str, Claim] = {}
        for claim in claims_of_leased(self.claims):
            amount = owed.get(claim.key, 0)
            if amount and claim.key not in found:
                found[claim.key] = msgspec.structs.replace(
                    claim, base=amount, per_token=0, floor=0, answer=0, limit=MAX_COUNTER_VALUE
                )
        return list(found.values())


def _ends_of(standings: Iterable[tuple[Claim, Standing]]) -> dict[str, float]:
    return {claim.key: standing.resets_at for claim, standing in standings if isinstance(claim.window, Calendar)}


def claims_of_leased(leased: Sequence[LeasedClaim]) -> list[Claim]:
    """Return the claims alone, in order."""
    return list(map(_CLAIM_OF_LEASED, leased))
