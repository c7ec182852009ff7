"""Where limits are counted.

1. `reserve` checks every limit of a call and takes from all of them, or from none, in one step of the store.
2. `settle` turns what was reserved into what was spent; `release` gives it all back.
3. All three are idempotent by the call's id, which is made before the first of them: each may be sent again, and a
   cancelled reservation is released, not leaked.

The store's own clock decides about windows.  A reservation whose process has died becomes a charge in full: it may have
been spent, so it is.  A store that cannot be reached raises `StoreDown`; the chain then does what each policy says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from .claim import KEY_SEPARATOR, Claim


class StoreDown(Exception):
    """The store did not answer, or not in time.  *taken*: what was asked of it may have happened all the same."""

    def __init__(self, message: str, *, taken: bool = False) -> None:
        super().__init__(message)
        self.taken = taken


class ReservationGone(StoreDown):
    """There is no such hold any more: it was settled, or charged because its process was taken for dead."""

    def __init__(self, call_id: str) -> None:
        super().__init__(f"call {call_id} holds nothing any more")


class Standing(msgspec.Struct, frozen=True, gc=False):
    """Where one limit stands: `used` counts what is spent and what is reserved; `resets_at` is in seconds since 1970.

    For a calendar window `resets_at` is its end.  For a sliding one it is when the refused claim would fit with the
    lowest ceiling that it takes (for any other, when the first of what is counted is free again).
    """

    limit: int
    used: int
    resets_at: float

    @property
    def left(self) -> int:
        """What may still be taken."""
        return max(0, self.limit - self.used)


class Grant(msgspec.Struct, frozen=True):
    """The store's answer.  `refused` is the index of the claim that did not fit, None if all did and are reserved.

    `ceiling` is the call's own, or the lower one that fits; `standings` are in the order of the claims, this call
    included if it was admitted; `now` is the store's clock.
    """

    ceiling: int
    standings: Sequence[Standing]
    now: float
    refused: int | None = None


class Account(msgspec.Struct, frozen=True):
    """One counter as it stands, for people: spent and reserved are apart, in units."""

    policy: str
    identity: str
    unit: str
    window: str
    spent: int
    reserved: int
    resets_at: float


def account(key: str, spent: int, reserved: int, resets_at: float) -> Account:
    """Return the counter called *key* as people read it."""
    policy, identity, unit, window = key.split(KEY_SEPARATOR)
    return Account(policy, identity, unit, window, spent, reserved, resets_at)


class Store(Protocol):
    """Counters that all calls share; with several workers or nodes, the only place where they are."""

    @property
    def is_remote(self) -> bool:
        """Whether a settlement may wait for the outside, so that it needs a shield from cancellation and a limit of time.

        One that waits for the end of the loop's turn needs none: it cannot be cancelled.
        """
        ...

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        """Take all *claims* with the highest ceiling that fits, at most *ceiling*, or none of them.

        `spent + reserved + taken <= limit` holds for each counter when it succeeds.  A claim fits with a lowered ceiling
        only down to its `floor`, or to *ceiling* itself where that is less.  A second call with the same id and *part*
        takes nothing and answers as the first did; further parts add to the same hold, and raise `ReservationGone` without one.
        Raises `StoreDown`.  Once per call, before anything goes upstream; where the call is cancelled meanwhile, it holds all or nothing.
        """
        ...

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
        """End the hold: what all its parts took is given back, and *charges* (by `Claim.key`) are spent instead.

        They land in the window that the hold was made in.  Without *refund* a counter is charged at least what was
        held.  A key that is not in *charges* is charged what was held; sliding windows keep what they took.  Nothing
        happens if there is no such hold.  Raises `StoreDown`.
        """
        ...

    async def release(self, call_id: str) -> None:
        """Give back all that the call took, sliding windows included.  Nothing happens if there is no such hold."""
        ...

    async def accounts(self) -> Sequence[Account]:
        """Return every calendar counter whose window is open; for people and tests, not for calls."""
        ...

    async def heartbeat(self) -> None:
        """Say that this process lives, so that the holds of its long calls are not charged.  Every few seconds."""
        ...

    async def ping(self) -> None:
        """Raise `StoreDown` unless the store can count."""
        ...

    async def aclose(self) -> None:
        """Let go of files and connections."""
        ...
