"""The interface of stores, which count the limits of all calls.

1. `reserve` checks all limits of a call and reserves from all of them or from none, in one atomic operation.
2. `settle` replaces the reservation by the charge; `release` returns all of it.
3. All three are idempotent by the call's id, which exists before the first of them. So each one may be repeated, and the
   reservation of a cancelled call can be released.

Windows follow the store's own clock. The reservations of a process that died are charged in full, because its calls
may have cost that much. If it was only suspended, its own settlement corrects that charge. A store that cannot be reached
raises `StoreDown`; the chain then follows each policy's `when_store_fails`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from .claim import KEY_SEPARATOR, Claim


class StoreDown(Exception):
    """The store did not answer, or not in time. With *taken* it may have executed the operation nevertheless."""

    def __init__(self, message: str, *, taken: bool = False) -> None:
        super().__init__(message)
        self.taken = taken


class ReservationGone(StoreDown):
    """The call has no reservation any more: it was settled, or the store has lost it."""

    def __init__(self, call_id: str) -> None:
        super().__init__(f"call {call_id} has no reservation any more")


RefusalCase: TypeAlias = Literal["held", "spent", "never_fits"]
"""Why a claim does not fit.

`held`: running calls have reserved what is missing. `spent`: too much is spent. `never_fits`: the limit is too small.
"""
CASES_BY_DURATION: tuple[RefusalCase, ...] = ("held", "spent", "never_fits")
"""A later case lasts longer: seconds, until the window resets, for ever."""


def refusal_case(limit: int, spent: int, needed: int) -> RefusalCase:
    """Return why a claim that needs at least *needed* does not fit into *limit*, of which *spent* is spent.

    A negative *spent* is room that an operator has granted beyond the limit.
    """
    if needed > limit - min(0, spent):
        return "never_fits"
    return "spent" if spent + needed > limit else "held"


class Standing(msgspec.Struct, frozen=True, gc=False):
    """The state of one limit. `used` is what is spent and reserved; `resets_at` is in seconds since 1970.

    For a calendar window `resets_at` is its end. For a sliding one it is when a refused claim would fit with its lowest
    ceiling; for a claim that was not refused, when the oldest entry expires.
    """

    limit: int
    used: int
    resets_at: float
    held: int = 0
    """The part of `used` that running calls have reserved. A sliding window counts at once, so it holds nothing."""
    needed: int = 0
    """The smallest amount with which the refused call would be admitted; 0 for a claim that was not refused."""
    retry_after: float | None = None
    """Seconds after which the refused call may fit; None if waiting does not help. Set by the chain for `Lease.refusal`."""

    @property
    def left(self) -> int:
        """The remainder of the limit, at least 0; more than the limit where an operator has granted room beyond it."""
        return max(0, self.limit - self.used)

    @property
    def spent(self) -> int:
        """The part of `used` that stays until the window resets; negative where an operator has granted room."""
        return self.used - self.held

    @property
    def case(self) -> RefusalCase:
        """Why the claim was refused; meaningless for a claim that was not refused."""
        return refusal_case(self.limit, self.spent, self.needed)


class Grant(msgspec.Struct, frozen=True):
    """The result of `reserve`. `refused` is the index of a claim that did not fit; None if all are reserved.

    Of several that do not fit, it is the one that lasts longest. A claim that never fits comes first, then one whose
    limit is spent (the one that resets last), then one whose limit is held. Of equal ones it is the first.

    `ceiling` is the one that was asked for, or the lower one that fits. `standings` are in the order of the claims, and
    include this call if it was admitted. `now` is the store's clock, in seconds since 1970.
    """

    ceiling: int
    standings: Sequence[Standing]
    now: float
    refused: int | None = None


class Account(msgspec.Struct, frozen=True):
    """One calendar counter, for reports: `spent` and `reserved` are in its unit, `resets_at` in seconds since 1970."""

    policy: str
    identity: str
    unit: str
    window: str
    spent: int
    reserved: int
    resets_at: float


def account(key: str, spent: int, reserved: int, resets_at: float) -> Account:
    """Return the counter *key* as an `Account`."""
    policy, identity, unit, window = key.split(KEY_SEPARATOR)
    return Account(policy, identity, unit, window, spent, reserved, resets_at)


class Store(Protocol):
    """Counters that all calls share: of one process, of the processes of a machine, or of many machines."""

    @property
    def is_remote(self) -> bool:
        """Whether a settlement waits for a network: then it needs a shield from cancellation, and a time limit.

        Other stores answer soon, or raise `StoreDown` within a bound of their own (2 seconds for a locked file). Their
        settlements are executed even if the caller is cancelled; the cancellation is delivered afterwards.
        """
        ...

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        """Reserve all *claims* with the highest ceiling that fits, at most *ceiling*; or reserve none of them.

        After success, `spent + reserved <= limit` holds for each counter. The ceiling is lowered to `Claim.floor` at most,
        or to *ceiling* itself where that is less. A second call with the same id and *part* reserves nothing and returns the
        ceiling of the first. Parts after the first (0) add to the same reservation. They count in its calendar windows,
        even after those have ended, and raise `ReservationGone` without a reservation. A part of a reservation that was charged,
        because its process sent no heartbeat, is reserved like any other.

        Call it before anything is sent upstream. After a cancellation everything is reserved, or nothing. Raises `StoreDown`.
        """
        ...

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> bool | None:
        """End a reservation: return the amounts of all its parts, and spend *charges* (by `Claim.key`) instead.

        The charges go to the window that was reserved from, also where the reservation was charged meanwhile. Without
        *refund*, a counter is charged at least what was reserved; one that is not in *charges* is charged exactly that.
        Sliding windows keep what they counted. Returns False if there is no such reservation: the store has lost it, or it
        was settled before. A store that remembers the latter may return True for it, and one that knows neither None.
        Raises `StoreDown`.
        """
        ...

    async def release(self, call_id: str) -> None:
        """Return all amounts of a call's reservation, those of sliding windows too.

        Does nothing without a reservation.
        """
        ...

    async def accounts(self) -> Sequence[Account]:
        """Return all calendar counters whose window is open. For reports and tests: it may take long."""
        ...

    async def standings(self, claims: Sequence[Claim]) -> Sequence[Standing]:
        """Return the standing of each claim's counter, in their order, and change nothing. For `GET /v1/usage`.

        Each claim is checked alone, without a ceiling: `needed` is its `base` where that does not fit now, else 0.
        `resets_at` is as in `Grant.standings`. Raises `StoreDown`.
        """
        ...

    async def heartbeat(self) -> None:
        """Record that this process is alive, so that its reservations are not charged. Call it every few seconds."""
        ...

    async def ping(self) -> None:
        """Raise `StoreDown` unless the store can count."""
        ...

    async def aclose(self) -> None:
        """Close files and connections."""
        ...


@runtime_checkable
class CorrectableStore(Protocol):
    """A store whose counters an operator can correct. It may be missing; then `sidecar budget` says so."""

    async def correct(self, claims: Sequence[Claim], amount: int | None, note: str) -> Sequence[Standing]:
        """Subtract *amount* from what the calendar counters of *claims* have spent; None sets that to 0. All or none.

        The current windows are corrected; what is reserved stays. `spent` may become negative: that is room beyond the limit,
        until the window ends. A counter that does not exist is created. *note* is kept, and each process that uses the store logs
        it at its next heartbeat. Returns the standings afterwards. Raises `StoreDown`, and ValueError for a sliding window.
        Not idempotent: after `StoreDown` with `taken` it may have been executed.
        """
        ...


@runtime_checkable
class AdvisedStore(Protocol):
    """A store that knows what endangers its counters while it works, such as a server that evicts keys. It may be missing."""

    async def warnings(self) -> Sequence[str]:
        """Return a line for each danger, as "PLACE: problem; remedy", without passwords and with the same words each time.

        Called at start, after an outage, and every five minutes. Raises `StoreDown`.
        """
        ...


MAX_REGISTERED_LIMITS = 1_000
"""Most limits that a store remembers."""


@runtime_checkable
class LimitRegistry(Protocol):
    """A store that remembers which limits were configured, so that a changed one can be reported. It may be missing."""

    @property
    def generation(self) -> str:
        """Id of the content of the store: it changes when the content was lost, with the limits. Empty while unknown."""
        ...

    async def register_limits(self, limits: Mapping[str, str]) -> Mapping[str, str]:
        """Replace the limits that the store remembers by *limits*, and return those before.

        Called at start, and again when `generation` has changed.

        Keys are names of policies, values describe what identifies their counters (unit, window, `by`). At most
        `MAX_REGISTERED_LIMITS` are kept. Raises `StoreDown`.
        """
        ...


MAX_ENTRY_KEY_CHARACTERS, MAX_ENTRY_BYTES, MAX_ENTRIES_AT_ONCE = 128, 512, 256
"""Bounds of one operation on entries: the length of a key, the size of a value, and the number of keys."""


@runtime_checkable
class EntryStore(Protocol):
    """Small values that expire, shared by the same processes as the counters of the store.

    A store may lack these operations; then each process keeps the entries in its own memory. The number of entries is
    bounded: the store drops the oldest ones, so each caller must accept that an entry is missing. The operations are
    idempotent and raise `StoreDown`. After a cancellation an operation may have been executed. Keys are printable ASCII; keys
    and values beyond the bounds above raise `ValueError`.
    """

    async def remember(self, entries: Mapping[str, bytes], seconds: float) -> None:
        """Keep *entries* for *seconds*, in one operation. An entry with the same key is replaced."""
        ...

    async def recall(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return the values of *keys* in their order; None for an entry that is missing or has expired."""
        ...

    async def forget(self, keys: Sequence[str]) -> None:
        """Remove the entries of *keys*; missing ones are ignored."""
        ...
