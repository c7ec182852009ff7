"""The memory store: counts in one process. For tests, trials, and a single worker that may forget at a restart."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from policies.api.claim import Claim
from policies.api.store import Account, Grant, ReservationGone, Standing, account
from policies.api.window import MICROSECONDS_PER_SECOND
from policies.stores.counting.claimed import ClaimedCounter
from policies.stores.counting.counters import CounterStore
from policies.stores.counting.groups import GroupClock
from policies.stores.counting.reading import CounterReads, read_standings
from policies.stores.counting.row_access import Removed
from policies.stores.counting.rows import SLIDING_START, CounterRow, Taken
from policies.stores.entries.in_memory import MemoryEntries

MORE_REMOVED_THAN_ADDED = 1
"""A reservation looks at as many counters as it has claims, and at this many more, and removes those that are over."""


class MemoryStore(CounterStore):
    """See `policies.api.store.Store`. Its methods never wait, so each operation is atomic, and it is never down."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._reservations: dict[str, dict[int, tuple[int, Sequence[Taken]]]] = {}
        """By call and part: the ceiling, and what was taken."""
        self._group_sizes: Counter[str] = Counter()
        self._kept_group_clock = GroupClock()
        self._due: list[tuple[int, str, int]] = []
        """A heap: when a counter is to be looked at, its key and start."""
        self.entries = MemoryEntries(clock)

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        """See `Store.reserve`."""
        now = self._now()
        if self._due and self._due[0][0] * MICROSECONDS_PER_SECOND <= now:
            self._remove_unused(now, len(claims) + MORE_REMOVED_THAN_ADDED)
        if part and self._recorded_ceiling(call_id, 0) is None:
            raise ReservationGone(call_id)
        return self._reserve(call_id, claims, ceiling, part, now)

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> bool | None:
        """See `Store.settle`."""
        return self._settle(call_id, charges, refund=refund)

    async def release(self, call_id: str) -> None:
        """See `Store.release`."""
        self._release(call_id)

    async def accounts(self) -> Sequence[Account]:
        """See `Store.accounts`."""
        now = self._clock()
        return [
            account(key, row.spent, row.held, float(row.ends))
            for (key, start), row in self._rows.items()
            if start != SLIDING_START and start <= now < row.ends
        ]

    async def standings(self, claims: Sequence[Claim]) -> Sequence[Standing]:
        """See `Store.standings`."""
        reads = CounterReads(self._find_row, self._group_size, self._group_clock)
        return read_standings(claims, self._now(), self._limits, reads)

    async def correct(self, claims: Sequence[Claim], amount: int | None, note: str) -> Sequence[Standing]:
        """See `CorrectableStore.correct`."""
        return self._correct(claims, amount, self._now())

    @property
    def generation(self) -> str:
        """See `LimitRegistry.generation`. The memory of a process is never lost before its end."""
        return "memory"

    async def register_limits(self, limits: Mapping[str, str]) -> Mapping[str, str]:
        """See `LimitRegistry.register_limits`. No earlier process has left limits or counters."""
        return limits

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

    def _load_rows(self, counters: Sequence[ClaimedCounter]) -> None:
        pass  # all rows are in memory

    def _find_row(self, counter: str, start: int) -> CounterRow | None:
        return self._rows.get((counter, start))

    def _add_row(self, key: str, row: CounterRow) -> None:
        self._rows[key, row.start] = row
        self._group_sizes[row.group] += 1
        heapq.heappush(self._due, (row.removable_at, key, row.start))

    def _row_changed(self, key: str, start: int) -> None:
        pass  # it is changed in place

    def _remove_unused(self, now: int, number: int) -> int:
        seconds, due = now // MICROSECONDS_PER_SECOND, self._due
        for looked_at in range(number):
            if not due or due[0][0] > seconds:
                return looked_at
            _, key, start = heapq.heappop(due)
            row = self._rows[key, start]
            due_at = self._next_due(key, row, now)
            if due_at > seconds:
                heapq.heappush(due, (due_at, key, start))
            else:
                self._remove_row(key, row)
        return number

    def _remove_row(self, key: str, row: CounterRow) -> None:
        del self._rows[key, row.start]
        self._group_sizes[row.group] -= 1
        if not self._group_sizes[row.group]:
            del self._group_sizes[row.group]

    def _group_size(self, group: str) -> int:
        return self._group_sizes[group]

    def _group_clock(self) -> GroupClock:
        return self._kept_group_clock

    def _set_group_clock(self, group_clock: GroupClock) -> None:
        self._kept_group_clock = group_clock

    def _record_part(
        self, call_id: str, part: int, ceiling: int, taken: list[Taken], _: Sequence[ClaimedCounter]
    ) -> bool:
        parts = self._reservations.setdefault(call_id, {})
        return parts.setdefault(part, (ceiling, taken))[1] is taken

    def _first_part(self, call_id: str) -> Sequence[Taken]:
        return self._reservations.get(call_id, {}).get(0, (0, ()))[1]

    def _recorded_ceiling(self, call_id: str, part: int) -> int | None:
        recorded = self._reservations.get(call_id, {}).get(part)
        return None if recorded is None else recorded[0]

    def _remove_reservation(self, call_id: str) -> Removed | None:
        parts = self._reservations.pop(call_id, None)
        if parts is None:
            return None
        if len(parts) == 1:
            return Removed(parts[0][1])
        return Removed([each for _, (_, taken) in sorted(parts.items()) for each in taken])
