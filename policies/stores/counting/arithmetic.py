"""Whether the claims of a call fit, and with which ceiling: the arithmetic that all stores share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from policies.api.claim import TOKEN_SCALES

if TYPE_CHECKING:
    from .rows import ClaimedCounter

H = TypeVar("H")

LARGEST = 2**53 - 1
"""No counter passes this number: an upstream may report any, and a database keeps only 63 bits of it."""


def fit(places: Sequence[ClaimedCounter[Any]], ceiling: int, *, apart: bool) -> tuple[int, int | None]:
    """Return the highest ceiling with which the claims of *places* fit beside what is used of their counters, and None.

    Or *ceiling*, and the index of the first claim that fits with none.  Claims on one counter add up, unless they are all
    *apart*.
    """
    highest = ceiling
    for at, place in enumerate(places):
        claim = place.claim
        base, each = claim.base, claim.per_token
        if not apart:
            same = [other.claim for other in places if other.counter == place.counter]
            base, each = sum(other.base for other in same), sum(other.per_token for other in same)
        room = claim.limit - place.used - base
        if room < 0:
            return ceiling, at
        if each:
            here = room * TOKEN_SCALES.get(claim.unit, 1) // each
            if here < claim.floor and here < ceiling:
                return ceiling, at
            highest = min(highest, here)
    return highest, None


def charge(key: str, held: int, charges: Mapping[str, int], *, refund: bool) -> int:
    """Return what is charged for a claim that held *held*; see `shares`."""
    wanted = min(max(0, charges.get(key, held)), LARGEST)
    return wanted if refund else max(wanted, held)


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
        held = parts[0][1] if len(parts) == 1 else sum(amount for _, amount in parts)
        cost = charge(key, held, charges, refund=refund)
        over, rest = max(0, cost - held), min(cost, held)
        for counter, amount in parts:
            share = min(rest, amount)
            rest -= share
            yield counter, amount, share + over
            over = 0
