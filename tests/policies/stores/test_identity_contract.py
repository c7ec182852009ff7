"""What every store guarantees about identities that clients choose, and about counters that are no longer used."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from claims import DAY_SECONDS, budget, chosen_by_client, rate, reserve, totals
from stored import Opened, counters_in_file, objects_of

from policies.api.claim import Claim
from policies.api.store import Store
from policies.api.window import Calendar, Sliding
from policies.stores.memory import MemoryStore
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("window", [Calendar("day"), Sliding(60.0)])
async def test_identities_beyond_the_bound_share_a_counter(
    store: Store, clock: FakeClock, window: Calendar | Sliding
) -> None:
    """Identities beyond `max_identities` share a counter; an open counter stays in use; each group has its own bound."""
    first = [(await reserve(store, f"a{at}", chosen_by_client(f"{at}", window=window))).refused for at in range(6)]
    assert first == [None, None, None, None, 0, 0], "three counters, and one that all others share"
    assert (await reserve(store, "b", chosen_by_client("1", limit=20, window=window))).refused is None, (
        "an identity keeps its counter"
    )
    assert (await reserve(store, "c", chosen_by_client("9", group="zeta", window=window))).refused is None
    await store.settle("a3", {chosen_by_client("3", window=window).key: 4})
    await store.heartbeat()
    clock.advance(DAY_SECONDS + 61)
    await store.heartbeat()
    assert [(await reserve(store, f"d{at}", chosen_by_client(f"x{at}", window=window))).refused for at in range(5)] == [
        *[None] * 4,
        0,
    ]


async def test_overflow_counter_is_left_when_it_is_empty(store: Store, clock: FakeClock) -> None:
    """An identity in the overflow counter stays there until that is empty: no span admits the limit twice."""
    window = Sliding(60.0)
    for name in "abc":
        await reserve(store, name, chosen_by_client(name, limit=50, window=window))
        clock.advance(10)
    asked = iter(range(1000))

    async def admitted() -> int:
        grants = [
            await reserve(store, f"x{next(asked)}", chosen_by_client("late", limit=50, window=window)) for _ in range(9)
        ]
        return sum(grant.refused is None for grant in grants)

    clock.advance(29)
    first = await admitted()
    clock.advance(5)  # one identity of the group has expired
    then = await admitted()
    clock.advance(61)

    assert (first, then) == (5, 0)
    assert await admitted() == 5


async def test_overflow_counter_is_charged(store: Store) -> None:
    """The charge of an identity in the overflow counter is counted there."""
    for at in range(5):
        await reserve(store, f"{at}", chosen_by_client(f"{at}", limit=100))
        await store.settle(f"{at}", {chosen_by_client(f"{at}").key: at})
    spent = {each.identity.partition("\x1d")[0]: each.spent for each in await store.accounts()}
    assert spent == {"acme\x1e0": 0, "acme\x1e1": 1, "acme\x1e2": 2, "acme": 7}


async def test_cleanup_of_a_full_group_keeps_the_other_claims(store: Store, clock: FakeClock) -> None:
    """A request is counted also if the same operation finds a group full and removes unused counters."""

    def user(name: str) -> Claim:
        window = Sliding(30.0)
        return Claim(
            policy="u",
            identity=name,
            unit="requests",
            limit=9,
            window=window,
            base=1,
            max_identities=1,
            identity_group="t",
        )

    await reserve(store, "1", rate(1, 30.0), user("a"))
    clock.advance(29.5)
    await reserve(store, "2", user("a"))
    clock.advance(2.0)
    admitted = await reserve(store, "3", rate(1, 30.0), user("b"))
    refused = await reserve(store, "4", rate(1, 30.0), user("b"))

    assert (admitted.refused, refused.refused) == (None, 0)


async def test_unused_counters_are_removed(opened: Opened, clock: FakeClock, tmp_path: Path) -> None:
    """Counters of windows that closed 40 days ago, and sliding ones that are over, are removed; the store does not grow."""
    store, kept = opened.store, list[int]()
    for call in range(100):
        clock.advance(DAY_SECONDS)
        await reserve(store, f"{call}", budget(100), msgspec.structs.replace(rate(5), identity=f"t{call}"))
        await store.settle(f"{call}", {})
        kept.append(await opened.kept())
    clock.advance(DAY_SECONDS)
    await reserve(store, "last", budget(100))
    assert await totals(store) == [(0, 10)]
    if opened.kind == "redis":
        return  # its keys expire by the server's clock: see test_redis_store.py
    assert await opened.kept() <= max(kept[41:60])
    if opened.kind == "sqlite":
        await store.heartbeat()
        starts = [row.start for _, row in counters_in_file(tmp_path / "store.db")]
        assert len(starts) == 41
        assert min(starts) >= 0


async def test_memory_does_not_grow_with_the_claims_of_a_call(clock: FakeClock) -> None:
    """Calls that each add several counters to the memory store remove as many: after 4 days the minutes take no more room."""
    store, kept = MemoryStore(clock=clock), list[int]()
    for day in range(12):
        for hour in range(24):
            call = f"{day} {hour}"
            await reserve(store, call, *[budget(100, name=f"b{at}", window="minute") for at in range(5)])
            await store.settle(call, {})
            clock.advance(3_600)
        kept.append(objects_of(store))
    assert kept[-1] <= kept[5] * 1.05
