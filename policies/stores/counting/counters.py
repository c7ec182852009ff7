"""Counting logic shared by the memory and the SQLite store. Subclasses provide access to the rows.

Times are whole microseconds. A calendar counter is identified by its key and the start of its window. A sliding counter has
the start `SLIDING_START`, and beside its row a log of entries: what was counted at which time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Generic

from policies.api.claim import Claim, counter_key
from policies.api.store import Grant, Standing
from policies.api.window import MICROSECONDS_PER_SECOND, Calendar, Sliding, bucket_seconds, span_of

from .arithmetic import RefusedClaim, charge_for, fitting_ceiling, longest_refusal, split_charge
from .rows import SLIDING_START, ClaimedCounter, RowT, Taken

CLEANUP_INTERVAL_MICROSECONDS = 60 * MICROSECONDS_PER_SECOND
GROUP_CLEANUP_INTERVAL_MICROSECONDS = MICROSECONDS_PER_SECOND
"""Shortest time between two removals of unused counters where a group of identities is full."""

_COUNTER_KEY = attrgetter("counter")


class WindowCache:
    """Remembers the current span of each calendar window: every call needs it, and it changes once a minute at most."""

    MAX_WINDOWS = 256

    def __init__(self) -> None:
        self._known: dict[Calendar, tuple[int, int]] = {}

    def at(self, window: Calendar, now: int) -> tuple[int, int]:
        """Return `span_of` *window* around *now*; all three times are in microseconds since 1970."""
        known = self._known.get(window)
        if known is None or not known[0] <= now < known[1]:
            if len(self._known) >= self.MAX_WINDOWS:
                self._known.clear()
            start, end = span_of(window, now / MICROSECONDS_PER_SECOND)
            known = self._known[window] = (round(start) * MICROSECONDS_PER_SECOND, round(end) * MICROSECONDS_PER_SECOND)
        return known


class CounterStore(ABC, Generic[RowT]):
    """The counting of one store. Its methods are parts of one operation; none of them waits."""

    is_remote = False

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._windows = clock, WindowCache()
        self._rows: dict[tuple[str, int], RowT] = {}
        """The counters in memory, by key and start."""

    def _now(self) -> int:
        return round(self._clock() * MICROSECONDS_PER_SECOND)

    def _reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int, part: int, now: int) -> Grant:
        counters = self._claimed_counters(claims, now, self._first_part(call_id) if part else ())
        distinct = len(set(map(_COUNTER_KEY, counters))) == len(counters)
        granted, refused = fitting_ceiling(counters, ceiling, distinct=distinct)
        seconds = now / MICROSECONDS_PER_SECOND
        if refused is not None:
            recorded = self._recorded_ceiling(call_id, part)
            if recorded is None:
                longest = longest_refusal(counters, ceiling, self._fits_at)
                return Grant(ceiling, self._standings(counters, now, longest), seconds, longest.at)
            return Grant(recorded, self._standings(counters, now), seconds)
        taken: list[Taken] = []
        for each in counters:  # a comprehension is a function call of its own
            taken.append((each.claim_key, each.counter, each.start, each.entry_start, each.claim.needs(granted)))  # noqa: PERF401
        if not self._record_part(call_id, part, granted, taken):
            return Grant(self._recorded_ceiling(call_id, part) or 0, self._standings(counters, now), seconds)
        for claimed, (_, counter, start, _, amount) in zip(counters, taken, strict=True):
            if amount or start != SLIDING_START:
                self._add_reserved(claimed, amount)
            for each in (claimed,) if distinct else [each for each in counters if each.counter == counter]:
                if not each.used:
                    each.oldest = claimed.time
                each.used += amount
                if start != SLIDING_START:
                    each.held += amount
        return Grant(granted, self._standings(counters, now), seconds)

    def _claimed_counters(
        self, claims: Sequence[Claim], now: int, first: Sequence[Taken] = ()
    ) -> Sequence[ClaimedCounter[RowT]]:
        """Return the counter of each of *claims*. Those that the *first* part took from are counted where it was."""
        counters: list[ClaimedCounter[RowT]] = []
        rows, missing = self._rows, False
        for claim in claims:
            window = claim.window
            key = counter_key(claim.policy, claim.identity, claim.unit, window)
            if isinstance(window, Sliding):
                start, ends = SLIDING_START, now + round(window.seconds * MICROSECONDS_PER_SECOND)
            else:
                start, ends = self._windows.at(window, now)
            row = rows.get((key, start))
            missing = missing or row is None
            counters.append(ClaimedCounter(claim, key, key, start, ends, now, now, row))
        if first:
            self._move_to_first(counters, first)
        if missing:
            self._load_rows([each for each in counters if each.row is None])
        for counter in counters:
            row = counter.row
            if row is None and counter.claim.max_identities:
                row = self._assign_counter(counter, now)
            if row is not None:
                counter.held = row.held
                counter.used = row.spent + row.held
                if counter.start == SLIDING_START:
                    self._advance(counter, row, counter.ends - now)
        return counters

    def _move_to_first(self, counters: Sequence[ClaimedCounter[RowT]], first: Sequence[Taken]) -> None:
        """Point calendar *counters* at the counter and the window that the *first* part of the reservation took from."""
        taken = {key: (counter, start) for key, counter, start, _, _ in first if start != SLIDING_START}
        for each in counters:
            at = taken.get(each.claim_key)
            if at is None or (row := self._find_row(*at)) is None:
                continue
            (each.counter, each.start), each.row, each.ends = at, row, row.ends

    def _assign_counter(self, counter: ClaimedCounter[RowT], now: int) -> RowT | None:
        """Give an identity without a counter one of its own, or the overflow counter of its group; return its row."""
        claim, start = counter.claim, counter.start
        group = claim.group_key if start == SLIDING_START else f"{claim.group_key}:{start}"
        overflow = self._find_row(claim.overflow_key, start) if start == SLIDING_START else None
        # An identity in the overflow counter stays there until that is empty; otherwise it would get a fresh limit.
        in_use = overflow is not None and overflow.spent > 0 and overflow.ends > now
        if not in_use and not self._is_group_full(group, claim.max_identities, now):
            counter.joins_group = group
            return None
        counter.counter = claim.overflow_key
        counter.row = self._find_row(counter.counter, start)
        return counter.row

    def _advance(self, counter: ClaimedCounter[RowT], row: RowT, length: int) -> None:
        """Move a sliding counter to now: expire its old entries, and find the entry that a new amount is added to."""
        counter.time = counter.entry_start = time = max(counter.time, row.ends - length)
        counter.ends, counter.oldest = time + length, row.oldest
        if not counter.used:
            return
        if row.oldest <= time - length:
            self._expire_entries(row, time - length)
            counter.used, counter.oldest = row.spent, row.oldest
        window = counter.claim.window
        if counter.used and isinstance(window, Sliding) and (shared := bucket_seconds(window, counter.claim.limit)):
            newest = row.newest_start()
            if newest is not None and time - newest < shared * MICROSECONDS_PER_SECOND:
                counter.entry_start = newest

    def _standings(
        self, counters: Sequence[ClaimedCounter[RowT]], now: int, refused: RefusedClaim | None = None
    ) -> list[Standing]:
        standings = []
        for at, counter in enumerate(counters):
            needed = 0
            if refused is not None and at == refused.at:
                needed, resets_at = refused.needed, refused.resets_at
            elif counter.start != SLIDING_START:
                resets_at = counter.ends
            elif not counter.used:
                resets_at = now
            else:
                resets_at = counter.oldest + counter.ends - counter.time
            seconds = max(now, resets_at) / MICROSECONDS_PER_SECOND
            standings.append(Standing(counter.claim.limit, counter.used, seconds, counter.held, needed))
        return standings

    def _fits_at(self, counter: ClaimedCounter[RowT], needed: int) -> int:
        """Return when a counter will have room for *needed*; where it never has, when it is empty.

        A calendar counter has room at the end of its window, a sliding one when enough entries have expired.
        """
        if counter.start != SLIDING_START:
            return counter.ends
        left, fits_at, length = counter.used, 0, counter.ends - counter.time
        for last, amount in self._entries(counter.counter) if left else ():
            left, fits_at = left - amount, last + length
            if left + needed <= counter.claim.limit:
                break
        return fits_at

    def _settle(self, call_id: str, charges: Mapping[str, int], refund: bool = True) -> None:  # noqa: FBT001, FBT002  # positional in the queue of operations
        calendar = []
        for key, counter, start, _, amount in self._remove_reservation(call_id):
            if start != SLIDING_START:
                calendar.append((key, (counter, start), amount))
        if len(calendar) == 1:
            ((key, (counter, start), amount),) = calendar
            self._charge_reserved(counter, start, amount, charge_for(key, amount, charges, refund=refund))
            return
        for (counter, start), amount, share in split_charge(calendar, charges, refund=refund):
            self._charge_reserved(counter, start, amount, share)

    def _release(self, call_id: str) -> None:
        for _, counter, start, entry_start, amount in self._remove_reservation(call_id):
            if start != SLIDING_START:
                self._charge_reserved(counter, start, amount, 0)
            elif amount:
                self._subtract_from_entry(counter, entry_start, amount)

    @abstractmethod
    def _load_rows(self, counters: Sequence[ClaimedCounter[RowT]]) -> None:
        """Set the row of each of *counters*, which are not in memory; leave None where there is none."""

    @abstractmethod
    def _find_row(self, counter: str, start: int) -> RowT | None:
        """Return the row of a counter; None where there is none."""

    @abstractmethod
    def _add_reserved(self, counter: ClaimedCounter[RowT], amount: int) -> None:
        """Reserve *amount* in a counter, which may be new: in a sliding one as an entry, or as part of the newest one."""

    @abstractmethod
    def _expire_entries(self, row: RowT, until: int) -> None:
        """Remove the entries whose last request came at *until* or before."""

    @abstractmethod
    def _entries(self, counter: str) -> Iterable[tuple[int, int]]:
        """Return the time of the last request and the amount of each entry, oldest first."""

    @abstractmethod
    def _subtract_from_entry(self, counter: str, entry_start: int, amount: int) -> None:
        """Subtract *amount* from the entry that began at *entry_start*, unless it has expired."""

    @abstractmethod
    def _charge_reserved(self, counter: str, start: int, held: int, spent: int) -> None:
        """Turn *held*, reserved in a calendar counter, into *spent*."""

    @abstractmethod
    def _record_part(self, call_id: str, part: int, ceiling: int, taken: list[Taken]) -> bool:
        """Record a part of a reservation; return False if it is recorded already."""

    @abstractmethod
    def _first_part(self, call_id: str) -> Sequence[Taken]:
        """Return what the first part of a reservation took; nothing where there is no reservation."""

    @abstractmethod
    def _recorded_ceiling(self, call_id: str, part: int) -> int | None:
        """Return the ceiling of a part of a reservation; None where there is no such part."""

    @abstractmethod
    def _remove_reservation(self, call_id: str) -> Sequence[Taken]:
        """Remove a reservation and return what it took, in the order of its parts; nothing where there is none."""

    @abstractmethod
    def _is_group_full(self, group: str, max_identities: int, now: int) -> bool:
        """Return whether a group of identities has *max_identities* counters in use."""
