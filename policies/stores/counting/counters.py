"""One step of a store whose rows are at hand: what memory and a file share.  A subclass says where the rows are.

Times are whole microseconds.  A calendar counter is called by its key and the start of its window; a sliding one has the
start `SLIDING`, and beside its row each taking that is still counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Generic

from policies.api.claim import MILLION, Claim, counter_key
from policies.api.store import Grant, Standing
from policies.api.window import Sliding, WindowCache, grain

from .arithmetic import charge, fit, shares
from .rows import SLIDING, ClaimedCounter, R, Taken

HOUR = 3_600 * MILLION


_COUNTER = attrgetter("counter")


class CounterStore(ABC, Generic[R]):
    """The counting of one store.  Every method is a part of one step, and nothing in it waits."""

    is_remote = False

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._spans = clock, WindowCache()
        self._rows: dict[tuple[str, int], R] = {}
        """The counters at hand, by key and start."""

    def _now(self) -> int:
        return round(self._clock() * MILLION)

    def _reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int, part: int, now: int) -> Grant:
        places = self._places(claims, now)
        apart = len(set(map(_COUNTER, places))) == len(places)
        granted, refused = fit(places, ceiling, apart=apart)
        if refused is not None:
            known = self._known(call_id, part)
            if known is None:
                return Grant(ceiling, self._standings(places, now, refused, ceiling), now / MILLION, refused)
            return Grant(known, self._standings(places, now), now / MILLION)
        took: list[Taken] = []
        for place in places:  # a comprehension is a call of its own
            took.append((place.key, place.counter, place.start, place.first, place.claim.needs(granted)))  # noqa: PERF401
        if not self._hold(call_id, part, granted, took):
            return Grant(self._known(call_id, part) or 0, self._standings(places, now), now / MILLION)
        for place, (_, counter, start, _, amount) in zip(places, took, strict=True):
            if amount or start != SLIDING:
                self._take(place, amount)
            for each in (place,) if apart else [each for each in places if each.counter == counter]:
                if not each.used:
                    each.oldest = place.moment
                each.used += amount
        return Grant(granted, self._standings(places, now), now / MILLION)

    def _places(self, claims: Sequence[Claim], now: int) -> Sequence[ClaimedCounter[R]]:
        places: list[ClaimedCounter[R]] = []
        rows, missing = self._rows, False
        for claim in claims:
            window = claim.window
            key = counter_key(claim.policy, claim.identity, claim.unit, window)
            if isinstance(window, Sliding):
                start, ends = SLIDING, now + round(window.seconds * MILLION)
            else:
                start, ends = self._spans.at(window, now)
            row = rows.get((key, start))
            missing = missing or row is None
            places.append(ClaimedCounter(claim, key, key, start, ends, now, now, row))
        if missing:
            self._read([place for place in places if place.row is None])
        for place in places:
            row = place.row
            if row is None and place.claim.max_identities:
                row = self._crowded(place, now)
            if row is not None:
                place.used = row.spent + row.held
                if place.start == SLIDING:
                    self._slide_on(place, row, place.ends - now)
        return places

    def _crowded(self, place: ClaimedCounter[R], now: int) -> R | None:
        """Find a counter for one that is new to its crowd: a new one, or the one that the late share."""
        claim, start = place.claim, place.start
        crowd = claim.group_key if start == SLIDING else f"{claim.group_key}:{start}"
        shared = self._row(claim.overflow_key, start) if start == SLIDING else None
        # Whoever is counted there stays there until it counts nothing: a counter of its own would let it begin anew.
        counts = shared is not None and shared.spent > 0 and shared.ends > now
        if not counts and not self._is_full(crowd, claim.max_identities, now):
            place.crowd = crowd
            return None
        place.counter = claim.overflow_key
        place.row = self._row(place.counter, start)
        return place.row

    def _slide_on(self, place: ClaimedCounter[R], row: R, length: int) -> None:
        place.moment = place.first = moment = max(place.moment, row.ends - length)
        place.ends, place.oldest = moment + length, row.oldest
        if not place.used:
            return
        if row.oldest <= moment - length:
            self._forget(row, moment - length)
            place.used, place.oldest = row.spent, row.oldest
        window = place.claim.window
        if place.used and isinstance(window, Sliding) and (shared := grain(window, place.claim.limit)):
            youngest = row.youngest()
            if youngest is not None and moment - youngest < shared * MILLION:
                place.first = youngest

    def _standings(
        self, places: Sequence[ClaimedCounter[R]], now: int, refused: int = -1, ceiling: int = 0
    ) -> list[Standing]:
        standings = []
        for at, place in enumerate(places):
            if place.start != SLIDING:
                frees = place.ends
            elif not place.used:
                frees = now
            elif at == refused:
                frees = self._frees(place, ceiling)
            else:
                frees = place.oldest + place.ends - place.moment
            standings.append(Standing(place.claim.limit, place.used, max(now, frees) / MILLION))
        return standings

    def _frees(self, place: ClaimedCounter[R], ceiling: int) -> int:
        """Return when enough is free for a claim that was refused."""
        claim, left, frees, length = place.claim, place.used, 0, place.ends - place.moment
        wanted = claim.needs(min(claim.floor, ceiling))
        for last, amount in self._takings(place.counter):
            left, frees = left - amount, last + length
            if left + wanted <= claim.limit:
                break
        return frees

    def _settle(self, call_id: str, charges: Mapping[str, int], refund: bool = True) -> None:  # noqa: FBT001, FBT002  # as it comes out of a queue
        calendar = []
        for key, counter, start, _, amount in self._held(call_id):
            if start != SLIDING:
                calendar.append((key, (counter, start), amount))
        if len(calendar) == 1:
            ((key, (counter, start), amount),) = calendar
            self._charge(counter, start, amount, charge(key, amount, charges, refund=refund))
            return
        for (counter, start), amount, share in shares(calendar, charges, refund=refund):
            self._charge(counter, start, amount, share)

    def _release(self, call_id: str) -> None:
        for _, counter, start, first, amount in self._held(call_id):
            if start != SLIDING:
                self._charge(counter, start, amount, 0)
            elif amount:
                self._give_back(counter, first, amount)

    @abstractmethod
    def _read(self, places: Sequence[ClaimedCounter[R]]) -> None:
        """Give each of *places*, whose rows are not at hand, its row if there is one."""

    @abstractmethod
    def _row(self, counter: str, start: int) -> R | None:
        """Return a counter as it is written."""

    @abstractmethod
    def _take(self, place: ClaimedCounter[R], amount: int) -> None:
        """Hold *amount* in a counter, which may be new; in a sliding one as a taking of its own or as part of the youngest."""

    @abstractmethod
    def _forget(self, row: R, gone: int) -> None:
        """Drop the takings up to the moment *gone*."""

    @abstractmethod
    def _takings(self, counter: str) -> Iterable[tuple[int, int]]:
        """Return the last moment and the amount of each taking, the oldest first."""

    @abstractmethod
    def _give_back(self, counter: str, first: int, amount: int) -> None:
        """Take *amount* out of the taking that began at *first*, if it is still counted."""

    @abstractmethod
    def _charge(self, counter: str, start: int, held: int, spent: int) -> None:
        """Turn what is *held* in a calendar counter into what is *spent*."""

    @abstractmethod
    def _hold(self, call_id: str, part: int, ceiling: int, took: list[Taken]) -> bool:
        """Write down a part of a hold; False where it is known already."""

    @abstractmethod
    def _known(self, call_id: str, part: int) -> int | None:
        """Return the ceiling of a part of a hold; None for one that is not known."""

    @abstractmethod
    def _held(self, call_id: str) -> Sequence[Taken]:
        """Forget a hold and return what it took, the first part first; empty for one that is not known."""

    @abstractmethod
    def _is_full(self, crowd: str, bound: int, now: int) -> bool:
        """Whether a crowd has as many counters of its own as its bound allows."""
