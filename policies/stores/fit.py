"""Whether the claims of a call fit, and with which ceiling: the arithmetic that all stores share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from policies.store import Claim


class Fit(NamedTuple):
    """The highest ceiling that fits, or the index of the first claim that none fits."""

    ceiling: int
    refused: int | None


def fit(claims: Sequence[Claim], used: Sequence[int], ceiling: int) -> Fit:
    """Return how *claims* fit beside what is *used* of each; claims on one counter add up."""
    base: dict[str, int] = {}
    each: dict[str, int] = {}
    for claim in claims:
        base[claim.key] = base.get(claim.key, 0) + claim.base
        each[claim.key] = each.get(claim.key, 0) + claim.each
    highest = ceiling
    for at, claim in enumerate(claims):
        room = claim.limit - used[at] - base[claim.key]
        if each[claim.key]:
            highest_here = min(ceiling, room // each[claim.key])
            if room < 0 or highest_here < min(claim.floor, ceiling):
                return Fit(ceiling, at)
            highest = min(highest, highest_here)
        elif room < 0:
            return Fit(ceiling, at)
    return Fit(highest, None)


def distributed(charge: int, held: Sequence[int]) -> list[int]:
    """Return *charge* over holds of one counter made at different times: each up to its size, what is over to the first."""
    shares = []
    rest = charge
    for amount in held:
        shares.append(min(rest, amount))
        rest -= shares[-1]
    if shares:
        shares[0] += rest
    return shares
