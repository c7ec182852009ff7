"""Counts in this process's memory: for tests, trials, and one worker whose restart may forget."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from policies.api.claim import MILLION, Claim
from policies.api.store import Account, Grant, ReservationGone, account
from policies.stores.counting.arithmetic import LARGEST
from policies.stores.counting.counters import HOUR, CounterStore
from policies.stores.counting.rows import SLIDING, ClaimedCounter, CounterRow, Taken

TIDY = 60 * MILLION
SOON = MILLION
"""Microseconds between two looks at counters that nobody uses any more; sooner where a crowd is full."""


class _Row(CounterRow, eq=False):
    crowd: str = ""
    takings: OrderedDict[int, tuple[int, int]] = msgspec.field(default_factory=OrderedDict)

    def youngest(self) -> int | None:
        return next(reversed(self.takings), None)


class MemoryStore(CounterStore[_Row]):
    """See `policies.store.Store`.  Nothing in it waits, so each step is atomic; it is never down."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._holds: dict[str, dict[int, tuple[int, Sequence[Taken]]]] = {}
        self._crowds: Counter[str] = Counter()
        self._tidied = self._now()

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        """See `Store.reserve`."""
        now = self._now()
        self._tidy(now, TIDY)
        if part and self._known(call_id, 0) is None:
            raise ReservationGone(call_id)
        return self._reserve(call_id, claims, ceiling, part, now)

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
        """See `Store.settle`."""
        self._settle(call_id, charges, refund=refund)

    async def release(self, call_id: str) -> None:
        """See `Store.release`."""
        self._release(call_id)

    async def accounts(self) -> Sequence[Account]:
        """See `Store.accounts`."""
        now = self._now()
        return [
            account(key, row.spent, row.held, row.ends / MILLION)
            for (key, start), row in self._rows.items()
            if start != SLIDING and start <= now < row.ends
        ]

    async def heartbeat(self) -> None:
        """See `Store.heartbeat`.  A process that is dead has taken its memory along."""

    async def ping(self) -> None:
        """See `Store.ping`."""

    async def aclose(self) -> None:
        """See `Store.aclose`."""

    def _read(self, places: Sequence[ClaimedCounter[_Row]]) -> None:
        pass  # all rows are at hand

    def _row(self, counter: str, start: int) -> _Row | None:
        return self._rows.get((counter, start))

    def _take(self, place: ClaimedCounter[_Row], amount: int) -> None:
        at = place.counter, place.start
        row = self._rows.get(at)  # the place's own may have been tidied away since it was read
        if row is None:
            row = self._rows[at] = _Row(0, 0, 0, place.ends, place.crowd)
            self._crowds[place.crowd] += 1
        if place.start != SLIDING:
            row.held += amount
            return
        _, known = row.takings.get(place.first, (0, 0))
        row.takings[place.first] = (place.moment, known + amount)
        row.oldest = next(iter(row.takings.values()))[0]
        row.spent, row.ends = row.spent + amount, place.ends

    def _forget(self, row: _Row, gone: int) -> None:
        while row.takings and (oldest := next(iter(row.takings.values())))[0] <= gone:
            row.takings.popitem(last=False)
            row.spent -= oldest[1]
        row.oldest = next(iter(row.takings.values()), (0, 0))[0]

    def _takings(self, counter: str) -> Iterable[tuple[int, int]]:
        return self._rows[counter, SLIDING].takings.values()

    def _give_back(self, counter: str, first: int, amount: int) -> None:
        row = self._rows.get((counter, SLIDING))
        if row is None or (taking := row.takings.get(first)) is None:
            return
        row.spent -= amount
        if taking[1] > amount:
            row.takings[first] = (taking[0], taking[1] - amount)
        else:
            del row.takings[first]
            row.oldest = next(iter(row.takings.values()), (0, 0))[0]

    def _charge(self, counter: str, start: int, held: int, spent: int) -> None:
        row = self._rows.get((counter, start))
        if row is not None:  # one that held nothing may have gone with its window
            row.held -= held
            row.spent = min(row.spent + spent, LARGEST)

    def _hold(self, call_id: str, part: int, ceiling: int, took: list[Taken]) -> bool:
        parts = self._holds.setdefault(call_id, {})
        return parts.setdefault(part, (ceiling, took))[1] is took

    def _known(self, call_id: str, part: int) -> int | None:
        known = self._holds.get(call_id, {}).get(part)
        return None if known is None else known[0]

    def _held(self, call_id: str) -> Sequence[Taken]:
        return [each for _, (_, took) in sorted(self._holds.pop(call_id, {}).items()) for each in took]

    def _is_full(self, crowd: str, bound: int, now: int) -> bool:
        if self._crowds[crowd] >= bound:
            self._tidy(now, SOON)
        return self._crowds[crowd] >= bound

    def _tidy(self, now: int, every: int) -> None:
        if 0 <= now - self._tidied < every:
            return
        self._tidied = now
        self._rows = {at: row for at, row in self._rows.items() if row.held or now < row.ends + kept(at[1], row.ends)}
        self._crowds = Counter(row.crowd for row in self._rows.values())


def kept(start: int, ends: int) -> int:
    """Return how long a closed counter is kept, so that a clock which is set back does not find it empty."""
    return 0 if start == SLIDING else min(ends - start, HOUR)
