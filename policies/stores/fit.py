"""Whether the claims of a call fit, and with which ceiling: the arithmetic that all stores share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from policies.store import Claim

H = TypeVar("H")

LARGEST = 2**53 - 1
"""No counter passes this number: an upstream may report any, and a database keeps only 63 bits of it."""


class Fit(NamedTuple):
    """The highest ceiling that fits, or the index of the first claim that none fits."""

    ceiling: int
    refused: int | None


def fit(claims: Sequence[Claim], counters: Sequence[str], used: Sequence[int], ceiling: int) -> Fit:
    """Return how *claims* fit beside what is *used* of their *counters*; claims on one counter add up."""
    if len(claims) == 1 or len(set(counters)) == len(counters):
        base, each = [claim.base for claim in claims], [claim.each for claim in claims]
    else:
        base = [sum(x.base for x, on in zip(claims, counters, strict=True) if on == key) for key in counters]
        each = [sum(x.each for x, on in zip(claims, counters, strict=True) if on == key) for key in counters]
    highest = ceiling
    for at, claim in enumerate(claims):
        room = claim.limit - used[at] - base[at]
        if each[at]:
            highest_here = min(ceiling, room * claim.scale // each[at])
            if room < 0 or highest_here < min(claim.floor, ceiling):
                return Fit(ceiling, at)
            highest = min(highest, highest_here)
        elif room < 0:
            return Fit(ceiling, at)
    return Fit(highest, None)


def shares(
    took: Iterable[tuple[str, H, int]], charges: Mapping[str, int], *, refund: bool
) -> Iterator[tuple[H, int, int]]:
    """Return what each part of a hold becomes: its counter, what it held, what it is charged.

    *took* are the claim's key, the counter and the amount, the first part first.  A key that is not in *charges* is
    charged what it held; without *refund*, each at least that.  Each part takes up to its size; what is over falls to the
    first.
    """
    by_key: dict[str, list[tuple[H, int]]] = {}
    for key, counter, amount in took:
        by_key.setdefault(key, []).append((counter, amount))
    for key, parts in by_key.items():
        held = sum(amount for _, amount in parts)
        charge = min(max(0, charges.get(key, held)), LARGEST)
        charge = charge if refund else max(charge, held)
        over, rest = max(0, charge - held), min(charge, held)
        for counter, amount in parts:
            share = min(rest, amount)
            rest -= share
            yield counter, amount, share + over
            over = 0
