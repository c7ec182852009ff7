"""Entries in the memory of one process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from policies.api.store import EntryStore, Store

from .bounds import EXPIRED_PER_OPERATION, MAX_ENTRIES_IN_MEMORY, check_entries, check_keys


class MemoryEntries:
    """See `policies.api.store.EntryStore`. *clock* is in seconds; no operation waits."""

    max_entries = MAX_ENTRIES_IN_MEMORY

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        """By key, the oldest first: when it expires, and its value."""

    async def remember(self, entries: Mapping[str, bytes], seconds: float) -> None:
        """See `EntryStore.remember`."""
        check_entries(entries)
        now, kept = self._clock(), self._entries
        for key, value in entries.items():
            kept.pop(key, None)
            kept[key] = now + seconds, value
        for _ in range(len(entries) + EXPIRED_PER_OPERATION):
            oldest = next(iter(kept.values()), None)
            if oldest is None or oldest[0] > now:
                break
            kept.popitem(last=False)
        while len(kept) > self.max_entries:
            kept.popitem(last=False)

    async def recall(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """See `EntryStore.recall`."""
        check_keys(keys)
        now = self._clock()
        found = map(self._entries.get, keys)
        return [each[1] if each is not None and now < each[0] else None for each in found]

    async def forget(self, keys: Sequence[str]) -> None:
        """See `EntryStore.forget`."""
        check_keys(keys)
        for key in keys:
            self._entries.pop(key, None)


def entries_of(store: Store, clock: Callable[[], float]) -> EntryStore:
    """Return the entries of *store*; those of this process alone where it has none. *clock* is in seconds."""
    return store if isinstance(store, EntryStore) else MemoryEntries(clock)
