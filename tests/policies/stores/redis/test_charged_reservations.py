"""Reservations of processes without a heartbeat: they are charged, and corrected by a process that was only suspended."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from claims import budget, rate, totals
from redis_script import ScriptRunner
from redis_server import MISSING, SERVER

from policies.api.store import ReservationGone
from policies.stores.redis.store import RedisStore
from policies.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(SERVER is None, reason=MISSING)]

KEY = budget(1).key
OpenStore = Callable[[], RedisStore]


@pytest.fixture
async def pair(opened: OpenStore, clock: FakeClock) -> tuple[RedisStore, RedisStore]:
    """Give a process that was suspended for 33 s with a reservation of 60 in two parts, and the one that charged it."""
    suspended, other = opened(), opened()
    await suspended.reserve("1", [budget(1000, 40), rate(5)])
    await suspended.reserve("1", [budget(1000, 20)], part=1)
    clock.advance(33)
    await other.heartbeat()
    assert await totals(other) == [(60, 0)]
    return suspended, other


async def test_late_settlement_corrects_the_charge(pair: tuple[RedisStore, RedisStore]) -> None:
    """The settlement of a suspended process replaces what was charged for it; repeating it does nothing."""
    suspended, other = pair
    for _ in range(2):
        assert await suspended.settle("1", {KEY: 7}) is True
    assert await totals(other) == [(7, 0)]


async def test_late_settlement_may_cost_more(pair: tuple[RedisStore, RedisStore]) -> None:
    """A late settlement above the charge raises it."""
    suspended, other = pair
    await suspended.settle("1", {KEY: 75})
    assert await totals(other) == [(75, 0)]


async def test_late_settlement_without_refund(pair: tuple[RedisStore, RedisStore]) -> None:
    """Without a refund a late settlement never lowers the charge."""
    suspended, other = pair
    assert await suspended.settle("1", {KEY: 7}, refund=False) is True
    assert await totals(other) == [(60, 0)]


async def test_late_release_gives_the_charge_back(pair: tuple[RedisStore, RedisStore]) -> None:
    """A late release returns all that was charged, and the requests of sliding windows."""
    suspended, other = pair
    await suspended.release("1")
    assert await totals(other) == [(0, 0)]
    assert (await other.standings([rate(5)]))[0].used == 0


async def test_further_part_of_a_charged_reservation_is_held(pair: tuple[RedisStore, RedisStore]) -> None:
    """A part that a resumed process adds is reserved; the settlement charges all parts together."""
    suspended, other = pair
    assert (await suspended.reserve("1", [budget(1000, 30)], part=2)).standings[0].held == 30
    assert await totals(other) == [(60, 30)]
    await suspended.settle("1", {KEY: 70})
    assert await totals(other) == [(70, 0)]


async def test_reservation_is_charged_again_with_its_new_part(
    pair: tuple[RedisStore, RedisStore], clock: FakeClock
) -> None:
    """If the process dies after all, its new part is charged too, and each part once."""
    suspended, other = pair
    await suspended.reserve("1", [budget(1000, 30)], part=2)
    clock.advance(33)
    for _ in range(3):
        await other.heartbeat()
    assert await totals(other) == [(90, 0)]


async def test_repeated_reservation_of_a_charged_call_reserves_nothing(pair: tuple[RedisStore, RedisStore]) -> None:
    """A reservation that is sent again after it was charged reserves nothing twice."""
    suspended, other = pair
    await suspended.reserve("1", [budget(1000, 40), rate(5)])
    assert await totals(other) == [(60, 0)]


async def test_charged_reservation_is_kept_for_a_day(
    pair: tuple[RedisStore, RedisStore], clock: FakeClock, runner: ScriptRunner
) -> None:
    """A charged reservation is forgotten after 24 hours; its charge stays."""
    suspended, other = pair
    clock.advance(23.9 * 3600)
    await other.heartbeat()
    assert await runner.client.hlen(runner.key("h")) == len(["format", "1"])
    clock.advance(600)
    await other.heartbeat()
    assert await runner.client.hkeys(runner.key("h")) == [b"format"]
    assert await suspended.settle("1", {KEY: 7}) is False
    with pytest.raises(ReservationGone):
        await suspended.reserve("1", [budget(1000, 1)], part=1)
    assert (await other.standings([budget(1000, 0)]))[0].used == 0, "it was charged to the day before"


async def test_process_that_reserves_is_alive(opened: OpenStore, clock: FakeClock) -> None:
    """A process that reserves is not charged, also without a heartbeat of its own."""
    busy, other = opened(), opened()
    for call in range(5):
        clock.advance(20)
        await busy.reserve(f"{call}", [budget(1000, 10)])
        await other.heartbeat()
    assert await totals(other) == [(0, 50)]


async def test_wrong_clock_does_not_keep_dead_processes(opened: OpenStore, clock: FakeClock) -> None:
    """A heartbeat from the future is taken for one of now: a clock that was ahead delays the charge by the grace only."""
    dead, other = opened(), opened()
    clock.advance(18_000)
    await dead.reserve("1", [budget(1000, 10)])
    clock.advance(-18_000)
    await other.heartbeat()
    clock.advance(31)
    await other.heartbeat()
    clock.advance(18_000)
    assert await totals(other) == [(10, 0)]
