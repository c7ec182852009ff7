"""Operations of the script as MessagePack lists, and its results as objects of the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from policies.api.claim import Claim
from policies.api.store import Account, Grant, Standing, account
from policies.api.window import MICROSECONDS_PER_SECOND, Sliding
from policies.stores.counting.arithmetic import MAX_COUNTER_VALUE
from policies.stores.counting.rows import SLIDING_START

from .window_cache import WindowCache

Operation: TypeAlias = tuple[Any, ...]
"""The name of an operation and its arguments; each file of the script documents its operations."""
RESULT_OTHER_WINDOW, RESULT_CALL_ENDED = 1, 2
"""First element of the result of an operation that was not executed; it is 0 where it was, also if a claim was refused."""
ANSWERS_PER_CLAIM, STANDINGS_PER_CLAIM, FIELDS_PER_ACCOUNT = 4, 3, 4


class ClaimLists:
    """Encodes claims, in the form that `reserve.lua` documents."""

    def __init__(self) -> None:
        self._windows = WindowCache()

    def of(self, claims: Sequence[Claim], now: float) -> list[Any]:
        """Return eleven values for each of *claims*, with the windows that are current at *now*, in seconds since 1970."""
        microseconds, values = round(now * MICROSECONDS_PER_SECOND), list[Any]()
        for claim in claims:
            values += self._of(claim, microseconds)
        return values

    def _of(self, claim: Claim, now: int) -> Operation:
        window, key = claim.window, claim.key
        if isinstance(window, Sliding):
            start, ends = SLIDING_START, round(window.seconds * MICROSECONDS_PER_SECOND)
            name = "s"
        else:
            start, ends = self._windows.at(window, now)
            name = str(start)
        group = overflow = ""
        if claim.max_identities:
            group = claim.group_key if start == SLIDING_START else f"{claim.group_key}:{start}"
            overflow = f"{name}:{claim.overflow_key}"
        return (
            f"{name}:{key}",
            start,
            ends,
            claim.limit,
            claim.base,
            claim.per_token,
            claim.scale,
            claim.floor,
            claim.max_identities,
            group,
            overflow,
        )


def settlement(call_id: str, charges: Mapping[str, int], *, refund: bool) -> Operation:
    """Return the operation that settles a call."""
    pairs = [each for key, charge in charges.items() for each in (key, min(max(0, charge), MAX_COUNTER_VALUE))]
    return ("settle", call_id, refund, *pairs)


def grant_of(claims: Sequence[Claim], result: Sequence[int], now: float) -> Grant:
    """Return the result of `reserve`. *now* is in seconds since 1970."""
    _, ceiling, refused, *answers = result
    size = ANSWERS_PER_CLAIM
    standings = [
        Standing(claim.limit, answers[at], answers[at + 3] / MICROSECONDS_PER_SECOND, answers[at + 1], answers[at + 2])
        for claim, at in zip(claims, range(0, len(answers), size), strict=True)
    ]
    return Grant(ceiling, standings, now, None if refused < 0 else refused)


def standings_from(claims: Sequence[Claim], result: Sequence[int]) -> Sequence[Standing]:
    """Return the result of `standings`."""
    _, *answers = result
    return [
        Standing(
            claim.limit,
            used,
            resets_at / MICROSECONDS_PER_SECOND,
            held,
            claim.base if used + claim.base > claim.limit else 0,
        )
        for claim, used, held, resets_at in zip(
            claims,
            answers[::STANDINGS_PER_CLAIM],
            answers[1::STANDINGS_PER_CLAIM],
            answers[2::STANDINGS_PER_CLAIM],
            strict=True,
        )
    ]


def accounts_of(fields: Sequence[Any]) -> list[Account]:
    """Return the accounts of one page, without its first element."""
    rows = [fields[at : at + FIELDS_PER_ACCOUNT] for at in range(0, len(fields), FIELDS_PER_ACCOUNT)]
    return [account(key, spent, held, ends / MICROSECONDS_PER_SECOND) for key, spent, held, ends in rows]
