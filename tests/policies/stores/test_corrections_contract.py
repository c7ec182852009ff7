"""Corrections of counters and remembered limits: the rules of `CorrectableStore` and `LimitRegistry`, for each store."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from claims import budget, chosen_by_client, rate, reserve
from redis_server import with_own_prefix

from policies.api.store import CorrectableStore, LimitRegistry, Store
from policies.stores.opening import open_store
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio

MIDNIGHT = 1_799_971_200.0
DAY, MONTH = budget(100, 0, name="d"), budget(1_000, 0, name="m", window="month")


class Correctable(Store, CorrectableStore, LimitRegistry):
    """The type of a store that has all protocols."""


def correctable(store: Store) -> Correctable:
    """Return *store* as one that can correct; skip the test for one that cannot, because the protocols are optional."""
    if not isinstance(store, CorrectableStore) or not isinstance(store, LimitRegistry):
        pytest.skip("the store corrects no counters")
    return store  # type: ignore[return-value]  # it has the methods of all three protocols


async def spend(store: Store, name: str, amount: int) -> None:
    claims = [budget(10**9, amount, name="d"), budget(10**9, amount, name="m", window="month")]
    await store.reserve(name, claims)
    await store.settle(name, {claim.key: amount for claim in claims})


async def test_reset_and_grant_change_what_is_spent(store: Store, clock: FakeClock) -> None:
    """A reset sets spent to 0 and a grant subtracts; reserved amounts stay and are charged later; the window ends it."""
    clock.now = MIDNIGHT
    own = correctable(store)
    await spend(own, "1", 60)
    running = budget(10**9, 15, name="d")
    await own.reserve("running", [running])
    (day,) = await own.correct([DAY], None, "reset")
    assert (day.limit, day.spent, day.held, day.left, day.resets_at) == (100, 0, 15, 85, MIDNIGHT + 86_400)
    day, month = await own.correct([DAY, MONTH], 200, "granted")
    assert (day.spent, day.held, day.left) == (-200, 15, 285)
    assert (month.spent, month.held, month.left) == (-140, 0, 1_140)
    await own.settle("running", {running.key: 20})
    assert {each.policy: (each.spent, each.reserved) for each in await own.accounts()} == {
        "d": (-180, 0),
        "m": (-140, 0),
    }
    assert [each.spent for each in await own.standings([DAY, MONTH])] == [-180, -140]
    clock.now += 86_400
    assert [each.spent for each in await own.standings([DAY, MONTH])] == [0, -140]


async def test_granted_room_is_reserved_exactly(store: Store) -> None:
    """Calls are admitted until spent + reserved is the limit, counted from what was granted; a counter is made for a grant."""
    own = correctable(store)
    await own.correct([DAY], 50, "granted")
    assert (await own.reserve("1", [budget(100, 150, name="d")])).refused is None
    grant = await own.reserve("2", [budget(100, 1, name="d")])
    assert (grant.refused, grant.standings[0].used) == (0, 100)
    await own.release("1")
    grant = await own.reserve("3", [budget(100, 0, name="d", per_token=1, floor=5)], 1_000)
    assert (grant.refused, grant.ceiling) == (None, 150)


async def test_refusal_counts_granted_room(store: Store) -> None:
    """A call larger than the limit that would fit into the granted room is held back by running calls; a larger one never fits."""
    own = correctable(store)
    await own.correct([DAY], 100, "granted")
    await own.reserve("1", [budget(100, 150, name="d")])
    cases = []
    for base in (120, 201):
        grant = await own.reserve(f"call {base}", [budget(100, base, name="d")])
        assert grant.refused == 0
        cases.append(grant.standings[0].case)
    assert cases == ["held", "never_fits"]


async def test_counter_of_several_claims_is_corrected_once(store: Store) -> None:
    """Identities that share an overflow counter correct it once, not each of them."""
    own = correctable(store)
    for name in "abcde":
        await reserve(own, name, chosen_by_client(name, limit=100))
    standings = await own.correct([chosen_by_client(name, limit=100) for name in "de"], 10, "granted")
    assert [(each.spent, each.held) for each in standings] == [(-10, 20), (-10, 20)]


async def test_sliding_window_is_not_corrected(store: Store) -> None:
    """A sliding window raises ValueError, and nothing of the correction is executed."""
    own = correctable(store)
    await spend(own, "1", 60)
    with pytest.raises(ValueError, match="window"):
        await own.correct([DAY, rate(5)], None, "reset")
    assert [each.spent for each in await own.standings([DAY])] == [60]


@pytest.fixture(params=["sqlite", "redis"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Correctable]]:
    """Give two stores on the same counters, as of two processes."""
    url = "sqlite:///store.db" if request.param == "sqlite" else with_own_prefix(request.getfixturevalue("redis").url)
    stores = [open_store(url, folder=tmp_path) for _ in range(2)]
    yield [correctable(store) for store in stores]
    for store in stores:
        await store.aclose()


async def test_limits_are_replaced_and_returned(pair: list[Correctable]) -> None:
    """Each registration returns the limits of the one before, of any process, and replaces all of them."""
    one, other = pair
    assert await one.register_limits({"a": "1", "b": "2"}) == {}
    assert await other.register_limits({"b": "3"}) == {"a": "1", "b": "2"}
    assert await one.register_limits({"b": "3"}) == {"b": "3"}


async def test_each_process_logs_a_note_once(pair: list[Correctable], caplog: pytest.LogCaptureFixture) -> None:
    """Each process logs a note at its next heartbeat, once; notes from before its first heartbeat are not logged."""
    one, other = pair
    await one.heartbeat()
    await one.correct([DAY], 5, "granted: 5 → 0")
    await other.heartbeat()
    assert [each.getMessage() for each in caplog.records] == []
    await other.correct([DAY], None, "reset")
    for store in (one, other, one, other):
        await store.heartbeat()
    logged = [(each.name, each.levelno, each.getMessage()) for each in caplog.records]
    assert logged == [("sidecar.store", logging.WARNING, text) for text in ("granted: 5 → 0", "reset", "reset")]
