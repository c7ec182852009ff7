"""Whether the claims of a call fit, and with which ceiling: the arithmetic that all stores share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from policies.api.claim import TOKEN_SCALES
from policies.api.store import CASES_BY_DURATION, refusal_case

if TYPE_CHECKING:
    from .claimed import ClaimedCounter

CounterT = TypeVar("CounterT")

MAX_COUNTER_VALUE = 2**53 - 1
"""No counter exceeds this: upstreams may report any number, and a database keeps 63 bits of it."""


def fitting_ceiling(counters: Sequence[ClaimedCounter], ceiling: int, *, distinct: bool) -> tuple[int, int | None]:
    """Return the highest ceiling, at most *ceiling*, with which all claims fit into what is left of their limits, and None.

    If there is none, return *ceiling* and the index of the first claim that does not fit. Claims on one counter add up; with
    *distinct* there are no two on one.
    """
    highest = ceiling
    for at, counter in enumerate(counters):
        claim = counter.claim
        base, per_token = claim.base, claim.per_token
        if not distinct:
            same = [other.claim for other in counters if other.counter == counter.counter]
            base, per_token = sum(other.base for other in same), sum(other.per_token for other in same)
        left = claim.limit - counter.used - base
        if left < 0:
            return ceiling, at
        if per_token:
            fits = left * TOKEN_SCALES.get(claim.unit, 1) // per_token
            if fits < claim.floor and fits < ceiling:
                return ceiling, at
            highest = min(highest, fits)
    return highest, None


class RefusedClaim(NamedTuple):
    """The claim that a refusal names: its index `at`, the least that it needs, and when that fits, in microseconds."""

    at: int
    needed: int
    resets_at: int


def longest_refusal(
    counters: Sequence[ClaimedCounter], ceiling: int, fits_at: Callable[[ClaimedCounter, int], int]
) -> RefusedClaim:
    """Return the claim that refuses a call for longest; see `Grant` for the order.

    *fits_at* returns when there will be room for an amount in a counter, in microseconds. A call has few claims, so
    comparing each pair is cheap.
    """
    found = []
    for at, counter in enumerate(counters):
        claim = counter.claim
        same = [other.claim for other in counters if other.counter == counter.counter]
        base, per_token = sum(other.base for other in same), sum(other.per_token for other in same)
        needed = base - (-per_token * min(claim.floor, ceiling) // TOKEN_SCALES.get(claim.unit, 1))
        if counter.used + needed > claim.limit:
            case = refusal_case(claim.limit, counter.used - counter.held, needed)
            resets_at = fits_at(counter, needed)
            waits_until = resets_at if case == "spent" else 0
            found.append((CASES_BY_DURATION.index(case), waits_until, -at, needed, resets_at))
    _, _, negative_index, needed, resets_at = max(found)
    return RefusedClaim(-negative_index, needed, resets_at)


def charge_for(claim_key: str, reserved: int, charges: Mapping[str, int], *, refund: bool) -> int:
    """Return what a claim that reserved *reserved* is charged: its entry in *charges*, or *reserved* where it has none.

    Without *refund* it is at least *reserved*.
    """
    wanted = charges.get(claim_key, reserved)
    if not 0 <= wanted <= MAX_COUNTER_VALUE:
        wanted = 0 if wanted < 0 else MAX_COUNTER_VALUE
    return wanted if refund else max(wanted, reserved)


def split_charge(
    taken: Iterable[tuple[str, CounterT, int]], charges: Mapping[str, int], *, refund: bool
) -> Iterator[tuple[CounterT, int, int]]:
    """Yield the counter, the reserved amount and the charge of each part of a reservation.

    *taken* are a claim's key, its counter and the amount, in the order of the parts. The charge of a claim (see `charge_for`)
    fills its parts one after the other, each up to its amount; an excess is charged to the first part.
    """
    by_key: dict[str, list[tuple[CounterT, int]]] = {}
    for key, counter, amount in taken:
        by_key.setdefault(key, []).append((counter, amount))
    for key, parts in by_key.items():
        reserved = parts[0][1] if len(parts) == 1 else sum(amount for _, amount in parts)
        cost = charge_for(key, reserved, charges, refund=refund)
        excess, rest = max(0, cost - reserved), min(cost, reserved)
        for counter, amount in parts:
            share = min(rest, amount)
            rest -= share
            yield counter, amount, share + excess
            excess = 0
