"""What every store guarantees about entries, the small values that expire: one suite for all of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from stored import Opened, objects_of

from policies.api.store import MAX_ENTRIES_AT_ONCE, MAX_ENTRY_BYTES, MAX_ENTRY_KEY_CHARACTERS, EntryStore
from policies.stores.entries.bounds import EXPIRED_PER_OPERATION
from policies.stores.memory import MemoryStore
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio

DAY = 86_400.0


@pytest.fixture
def entries(opened: Opened) -> Any:
    """Give a store of each kind as a store of entries."""
    assert isinstance(opened.store, EntryStore)
    return opened.store


async def test_entry_is_returned_until_it_expires(entries: EntryStore, clock: FakeClock) -> None:
    """An entry has its value until its time is over, and none from then on; values are any bytes."""
    await entries.remember({"a": b"1", "b": bytes(range(256)), "c": b""}, 60)
    assert await entries.recall(["b", "missing", "a", "c"]) == [bytes(range(256)), None, b"1", b""]
    clock.advance(59)
    assert await entries.recall(["a"]) == [b"1"]
    clock.advance(2)
    assert await entries.recall(["a", "b"]) == [None, None]


async def test_entry_is_replaced_with_its_time(entries: EntryStore, clock: FakeClock) -> None:
    """A second value under the same key replaces the first one and its expiry; repeating it changes nothing."""
    await entries.remember({"a": b"1"}, 60)
    clock.advance(50)
    for _ in range(2):
        await entries.remember({"a": b"2"}, 60)
    clock.advance(50)
    assert await entries.recall(["a"]) == [b"2"]


async def test_entry_is_forgotten(entries: EntryStore) -> None:
    """A forgotten entry is missing; forgetting it again, or an unknown one, does nothing."""
    await entries.remember({"a": b"1", "b": b"2"}, DAY)
    for _ in range(2):
        await entries.forget(["a", "unknown"])
    assert await entries.recall(["a", "b"]) == [None, b"2"]


async def test_oldest_entries_are_dropped_beyond_the_bound(entries: Any) -> None:
    """The number of entries is bounded: each new one beyond the bound removes the one that was written longest ago."""
    entries = getattr(entries, "entries", entries)  # those of the memory store have their own bound
    entries.max_entries = 3
    for name in "abc":
        await entries.remember({name: b"1"}, DAY)
    await entries.remember({"d": b"1", "e": b"1"}, DAY + 1)
    assert await entries.recall(list("abcde")) == [None, None, b"1", b"1", b"1"]


async def test_replacing_an_entry_drops_no_other(entries: Any, clock: FakeClock) -> None:
    """An entry that is replaced many times takes one place: a busy conversation does not push out those of others."""
    entries = getattr(entries, "entries", entries)
    entries.max_entries = 8
    for name in "abc":
        await entries.remember({name: b"1"}, DAY)
    for number in range(40):
        clock.advance(1)
        await entries.remember({"d": b"%d" % number}, DAY)
    assert await entries.recall(list("abcd")) == [b"1", b"1", b"1", b"39"]


async def test_replaced_entry_is_dropped_after_older_ones(entries: Any, clock: FakeClock) -> None:
    """An entry that was replaced counts as new: those written before are dropped first."""
    entries = getattr(entries, "entries", entries)
    entries.max_entries = 3
    for name in "abcade":
        clock.advance(1)
        await entries.remember({name: b"1"}, DAY)
    assert await entries.recall(list("abcde")) == [b"1", None, None, b"1", b"1"]


async def test_expired_entries_take_no_memory(clock: FakeClock) -> None:
    """In memory, new entries remove expired ones, so that what is kept does not grow."""
    store = MemoryStore(clock=clock)
    for number in range(40):
        await store.remember({f"old {number}": b"1"}, 1)
    full = objects_of(store)
    clock.advance(2)
    for number in range(40 // EXPIRED_PER_OPERATION):
        await store.remember({f"new {number}": b"1"}, DAY)
    assert objects_of(store) < full - 35


async def test_entries_beyond_the_bounds_are_an_error(entries: EntryStore) -> None:
    """A key or value that is too long, a key that is not plain, and too many keys are errors; nothing is kept."""
    many = [str(number) for number in range(MAX_ENTRIES_AT_ONCE + 1)]
    for wrong in (
        {"a" * (MAX_ENTRY_KEY_CHARACTERS + 1): b""},
        {"a": b"x" * (MAX_ENTRY_BYTES + 1)},
        {"é": b""},
        {"": b""},
    ):
        with pytest.raises(ValueError, match="entry"):
            await entries.remember(wrong, 60)
    for operation in (entries.recall(many), entries.forget(many), entries.remember(dict.fromkeys(many, b""), 60)):
        with pytest.raises(ValueError, match="257 entries"):
            await operation
    assert await entries.recall(["a"]) == [None]


async def test_concurrent_operations_keep_their_own_answers(entries: EntryStore) -> None:
    """Operations that run at the same time do not mix their values."""
    await asyncio.gather(*[entries.remember({f"k{at}": b"%d" % at}, DAY) for at in range(100)])
    found = await asyncio.gather(*[entries.recall([f"k{at}", "none"]) for at in range(100)])
    assert found == [[b"%d" % at, None] for at in range(100)]


async def test_entries_do_not_show_in_the_accounts(opened: Opened) -> None:
    """Entries are no counters: no report lists them."""
    entries: Any = opened.store
    await entries.remember({"a": b"1"}, 60)
    assert list(await opened.store.accounts()) == []
