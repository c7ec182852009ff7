"""The memory store: counts in one process. For tests, trials, and a single worker that may forget at a restart."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from policies.api.claim import Claim
from policies.api.store import Account, Grant, ReservationGone, Standing, account
from policies.api.window import MICROSECONDS_PER_SECOND
from policies.stores.counting.arithmetic import MAX_COUNTER_VALUE
from policies.stores.counting.counters import (
    CLEANUP_INTERVAL_MICROSECONDS,
    GROUP_CLEANUP_INTERVAL_MICROSECONDS,
    CounterStore,
)
from policies.stores.counting.reading import CounterReads, read_standings
from policies.stores.counting.rows import MAX_RETENTION_MICROSECONDS, SLIDING_START, ClaimedCounter, CounterRow, Taken
from policies.stores.entries.in_memory import MemoryEntries


class _Row(CounterRow, eq=False):
    """A counter. `entries` has, by an entry's start, the time of its last request and its amount; oldest first."""

    group: str = ""
    entries: OrderedDict[int, tuple[int, int]] = msgspec.field(default_factory=OrderedDict)

    def newest_start(self) -> int | None:
        return next(reversed(self.entries), None)

    def set_oldest(self) -> None:
        self.oldest = next(iter(self.entries.values()), (0, 0))[0]


class MemoryStore(CounterStore[_Row]):
    """See `policies.api.store.Store`. Its methods never wait, so each operation is atomic, and it is never down."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._reservations: dict[str, dict[int, tuple[int, Sequence[Taken]]]] = {}
        """By call and part: the ceiling, and what was taken."""
        self._group_sizes: Counter[str] = Counter()
        self._cleaned_at = self._now()
        self.entries = MemoryEntries(clock)

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        """See `Store.reserve`."""
        now = self._now()
        self._clean_up(now, CLEANUP_INTERVAL_MICROSECONDS)
        if part and self._recorded_ceiling(call_id, 0) is None:
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
            account(key, row.spent, row.held, row.ends / MICROSECONDS_PER_SECOND)
            for (key, start), row in self._rows.items()
            if start != SLIDING_START and start <= now < row.ends
        ]

    async def standings(self, claims: Sequence[Claim]) -> Sequence[Standing]:
        """See `Store.standings`."""
        reads = CounterReads(self._find_row, lambda row: row.entries.values(), self._group_sizes.__getitem__)
        return read_standings(claims, self._now(), self._windows.at, reads)

    async def remember(self, entries: Mapping[str, bytes], seconds: float) -> None:
        """See `EntryStore.remember`."""
        await self.entries.remember(entries, seconds)

    async def recall(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """See `EntryStore.recall`."""
        return await self.entries.recall(keys)

    async def forget(self, keys: Sequence[str]) -> None:
        """See `EntryStore.forget`."""
        await self.entries.forget(keys)

    async def heartbeat(self) -> None:
        """Do nothing: the reservations of a process that dies go with its memory."""

    async def ping(self) -> None:
        """See `Store.ping`."""

    async def aclose(self) -> None:
        """See `Store.aclose`."""

    def _load_rows(self, counters: Sequence[ClaimedCounter[_Row]]) -> None:
        pass  # all rows are in memory

    def _find_row(self, counter: str, start: int) -> _Row | None:
        return self._rows.get((counter, start))

    def _add_reserved(self, counter: ClaimedCounter[_Row], amount: int) -> None:
        at = counter.counter, counter.start
        row = self._rows.get(at)  # not `counter.row`: a cleanup may have removed that since
        if row is None:
            row = self._rows[at] = _Row(0, 0, 0, counter.ends, counter.joins_group)
            self._group_sizes[counter.joins_group] += 1
        if counter.start != SLIDING_START:
            row.held += amount
            return
        _, counted = row.entries.get(counter.entry_start, (0, 0))
        row.entries[counter.entry_start] = (counter.time, counted + amount)
        row.oldest = next(iter(row.entries.values()))[0]
        row.spent, row.ends = row.spent + amount, counter.ends

    def _expire_entries(self, row: _Row, until: int) -> None:
        while row.entries and (oldest := next(iter(row.entries.values())))[0] <= until:
            row.entries.popitem(last=False)
            row.spent -= oldest[1]
        row.set_oldest()

    def _entries(self, counter: str) -> Iterable[tuple[int, int]]:
        return self._rows[counter, SLIDING_START].entries.values()

    def _subtract_from_entry(self, counter: str, entry_start: int, amount: int) -> None:
        row = self._rows.get((counter, SLIDING_START))
        if row is None or (entry := row.entries.get(entry_start)) is None:
            return
        row.spent -= amount
        if entry[1] > amount:
            row.entries[entry_start] = (entry[0], entry[1] - amount)
        else:
            del row.entries[entry_start]
            row.set_oldest()

    def _charge_reserved(self, counter: str, start: int, held: int, spent: int) -> None:
        row = self._rows.get((counter, start))
        if row is not None:  # a counter without reservations may have been removed with its window
            row.held -= held
            row.spent = min(row.spent + spent, MAX_COUNTER_VALUE)

    def _record_part(self, call_id: str, part: int, ceiling: int, taken: list[Taken]) -> bool:
        parts = self._reservations.setdefault(call_id, {})
        return parts.setdefault(part, (ceiling, taken))[1] is taken

    def _first_part(self, call_id: str) -> Sequence[Taken]:
        return self._reservations.get(call_id, {}).get(0, (0, ()))[1]

    def _recorded_ceiling(self, call_id: str, part: int) -> int | None:
        recorded = self._reservations.get(call_id, {}).get(part)
        return None if recorded is None else recorded[0]

    def _remove_reservation(self, call_id: str) -> Sequence[Taken]:
        parts = self._reservations.pop(call_id, {})
        return [each for _, (_, taken) in sorted(parts.items()) for each in taken]

    def _is_group_full(self, group: str, max_identities: int, now: int) -> bool:
        if self._group_sizes[group] >= max_identities:
            self._clean_up(now, GROUP_CLEANUP_INTERVAL_MICROSECONDS)
        return self._group_sizes[group] >= max_identities

    def _clean_up(self, now: int, interval: int) -> None:
        """Remove unused counters, unless that was done less than *interval* ago."""
        if 0 <= now - self._cleaned_at < interval:
            return
        self._cleaned_at = now
        self._rows = {
            at: row for at, row in self._rows.items() if row.held or now < row.ends + _retention(at[1], row.ends)
        }
        self._group_sizes = Counter(row.group for row in self._rows.values())


def _retention(start: int, ends: int) -> int:
    """Return how long a counter is kept after its end, in microseconds."""
    return 0 if start == SLIDING_START else min(ends - start, MAX_RETENTION_MICROSECONDS)
