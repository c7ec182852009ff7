"""One step of a store whose rows are at hand: what memory and a file share.  A subclass says where the rows are.

Times are whole microseconds.  A calendar counter is called by its key and the start of its window; a sliding one has the
start `SLIDING`, and beside its row each taking that is still counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from policies.store import MILLION, Claim, Grant, Standing
from policies.window import Sliding, Spans

from .fit import fit, shares

SLIDING = -1
HOUR = 3_600 * MILLION

Took: TypeAlias = tuple[str, str, int, int, int]
"""One claim of a hold: its key, the counter's key, the start of the window, the first moment of the taking, the amount."""


class Row(msgspec.Struct, eq=False):
    """A counter: what is spent and held, when its window ends, and the oldest taking of a sliding one."""

    spent: int
    held: int
    oldest: int
    ends: int


class Place(msgspec.Struct, eq=False):
    """Where one claim is counted, as it stands before the step.

    `moment` is now, but never before the counter's newest taking; `first` says which taking a new one joins.
    """

    claim: Claim
    key: str
    counter: str
    start: int
    ends: int
    moment: int
    first: int
    used: int = 0
    oldest: int = 0
    crowd: str = ""


class Books(ABC):
    """The counting of one store.  Every method is a part of one step, and nothing in it waits."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._spans = clock, Spans()

    def _now(self) -> int:
        return round(self._clock() * MILLION)

    def _reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int, part: int, now: int) -> Grant:
        places = [self._place(claim, now) for claim in claims]
        counters = [place.counter for place in places]
        fits = fit(claims, counters, [place.used for place in places], ceiling)
        if fits.refused is not None:
            known = self._known(call_id, part)
            if known is None:
                return Grant(ceiling, self._standings(places, now, fits.refused, ceiling), now / MILLION, fits.refused)
            return Grant(known, self._standings(places, now), now / MILLION)
        took = [
            (place.key, place.counter, place.start, place.first, claim.needs(fits.ceiling))
            for place, claim in zip(places, claims, strict=True)
        ]
        if not self._hold(call_id, part, fits.ceiling, took):
            return Grant(self._known(call_id, part) or 0, self._standings(places, now), now / MILLION)
        for place, (_, counter, _, _, amount) in zip(places, took, strict=True):
            if place.start != SLIDING:
                self._take(place, amount)
            elif amount:
                self._slide(place, amount)
            for each in places:
                if each.counter == counter:
                    each.oldest = each.oldest if each.used else place.moment
                    each.used += amount
        return Grant(fits.ceiling, self._standings(places, now), now / MILLION)

    def _place(self, claim: Claim, now: int) -> Place:
        key, window = claim.key, claim.window
        if isinstance(window, Sliding):
            start, ends = SLIDING, now + round(window.seconds * MILLION)
        else:
            first, last = self._spans.at(window, now / MILLION)
            start, ends = round(first) * MILLION, round(last) * MILLION
        place = Place(claim, key, key, start, ends, now, now)
        row = self._row(key, start)
        if row is None and claim.bound:
            crowd = claim.crowd_key if start == SLIDING else f"{claim.crowd_key}:{start}"
            if self._is_full(crowd, claim.bound, now):
                place.counter = claim.shared_key
                row = self._row(place.counter, start)
            else:
                place.crowd = crowd
        if row is not None:
            place.used = row.spent + row.held
            if start == SLIDING:
                self._slide_on(place, row, ends - now)
        return place

    def _slide_on(self, place: Place, row: Row, length: int) -> None:
        place.moment = place.first = max(place.moment, row.ends - length)
        place.ends = place.moment + length
        place.oldest = row.oldest
        if place.used and row.oldest <= place.moment - length:
            place.used, place.oldest = self._forget(place.counter, place.moment - length, place.used)
        if place.used and (grain := place.claim.window.grain(place.claim.limit)):  # type: ignore[union-attr]
            youngest = self._youngest(place.counter)
            if youngest is not None and place.moment - youngest < grain * MILLION:
                place.first = youngest

    def _standings(self, places: Sequence[Place], now: int, refused: int = -1, ceiling: int = 0) -> list[Standing]:
        return [
            Standing(place.claim.limit, place.used, max(now, self._frees(place, at == refused, ceiling)) / MILLION)
            for at, place in enumerate(places)
        ]

    def _frees(self, place: Place, refused: bool, ceiling: int) -> int:  # noqa: FBT001  # the one caller says it plainly
        """Return when something is free again; for a refused claim, enough for it."""
        if place.start != SLIDING:
            return place.ends
        if not place.used:
            return 0
        length = place.ends - place.moment
        if not refused:
            return place.oldest + length
        claim, left, frees = place.claim, place.used, 0
        wanted = claim.needs(min(claim.floor, ceiling))
        for last, amount in self._takings(place.counter):
            left, frees = left - amount, last + length
            if left + wanted <= claim.limit:
                break
        return frees

    def _settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool) -> None:
        calendar = [
            (key, (counter, start), amount)
            for key, counter, start, _, amount in self._held(call_id)
            if start != SLIDING
        ]
        for (counter, start), amount, share in shares(calendar, charges, refund=refund):
            self._charge(counter, start, amount, share)

    def _release(self, call_id: str) -> None:
        for _, counter, start, first, amount in self._held(call_id):
            if start != SLIDING:
                self._charge(counter, start, amount, 0)
            elif amount:
                self._give_back(counter, first, amount)

    @abstractmethod
    def _row(self, counter: str, start: int) -> Row | None:
        """Return a counter as it is written."""

    @abstractmethod
    def _take(self, place: Place, amount: int) -> None:
        """Hold *amount* in a calendar counter, which may be new."""

    @abstractmethod
    def _slide(self, place: Place, amount: int) -> None:
        """Count *amount* in a sliding counter, which may be new, as a taking of its own or as part of the youngest."""

    @abstractmethod
    def _forget(self, counter: str, gone: int, total: int) -> tuple[int, int]:
        """Drop the takings up to the moment *gone*; return what is left of *total*, and the oldest of it."""

    @abstractmethod
    def _youngest(self, counter: str) -> int | None:
        """Return the first moment of the youngest taking."""

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
    def _hold(self, call_id: str, part: int, ceiling: int, took: Sequence[Took]) -> bool:
        """Write down a part of a hold; False where it is known already."""

    @abstractmethod
    def _known(self, call_id: str, part: int) -> int | None:
        """Return the ceiling of a part of a hold; None for one that is not known."""

    @abstractmethod
    def _held(self, call_id: str) -> Sequence[Took]:
        """Forget a hold and return what it took, the first part first; empty for one that is not known."""

    @abstractmethod
    def _is_full(self, crowd: str, bound: int, now: int) -> bool:
        """Whether a crowd has as many counters of its own as its bound allows."""
