"""What every store keeps to: one suite for all of them."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from claims import budget
from redis_server import own

from policies.api.claim import Claim, counter_key
from policies.api.store import Grant, ReservationGone, Store, StoreDown
from policies.api.window import FINE_LIMIT, Calendar, Sliding, Window
from policies.stores.memory import MemoryStore
from policies.stores.opening import open_store
from policies.stores.redis.store import RedisStore
from policies.stores.sqlite.sliding_log import SIZE
from policies.stores.sqlite.store import SQLiteStore
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio

DAY = 86_400.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Store]:
    url = {"memory": "memory://", "sqlite": "sqlite:///store.db"}.get(request.param)
    opened = open_store(url or own(request.getfixturevalue("redis").url), folder=tmp_path, clock=clock)
    yield opened
    await opened.aclose()


def rate(limit: int, seconds: float = 60.0, *, base: int = 1, name: str = "r") -> Claim:
    return Claim(policy=name, identity="t", unit="requests", limit=limit, window=Sliding(seconds), base=base)


async def reserved(store: Store, call: str, *claims: Claim, ceiling: int = 0, part: int = 0) -> Grant:
    return await store.reserve(call, claims, ceiling, part)


async def totals(store: Store) -> list[tuple[int, int]]:
    return [(account.spent, account.reserved) for account in await store.accounts()]


async def takings(store: Store) -> int:
    """Return how many entries the sliding counters have."""
    if isinstance(store, SQLiteStore):
        packed = "SELECT sum(length(packed)) FROM taking UNION ALL SELECT sum(length(head) + length(tail)) FROM counter"
        return sum(size or 0 for (size,) in store._file.sql(packed).fetchall()) // SIZE
    if isinstance(store, MemoryStore):
        return sum(len(row.takings) for row in store._rows.values())
    assert isinstance(store, RedisStore)
    lists = [key async for key in store._redis.scan_iter(f"{store._tag}:e:*")]
    return sum([await store._redis.llen(key) for key in lists])


async def counters(store: Store) -> int:
    """Return how many counters a store keeps."""
    if isinstance(store, SQLiteStore):
        return int(store._file.sql("SELECT count(*) FROM counter").fetchone()[0])
    assert isinstance(store, MemoryStore)
    return len(store._rows)


async def test_reserve_and_settle(store: Store) -> None:
    """A hold counts against its limit until it is settled; then its charge does."""
    grant = await reserved(store, "1", budget(100, 60))
    assert (grant.refused, grant.standings[0].used, grant.standings[0].left) == (None, 60, 40)
    assert (await reserved(store, "2", budget(100, 41))).refused == 0
    await store.settle("1", {budget(100).key: 25})
    assert await totals(store) == [(25, 0)]
    assert (await reserved(store, "3", budget(100, 75))).refused is None
    assert (await reserved(store, "4", budget(100, 1))).refused == 0


async def test_all_or_nothing(store: Store) -> None:
    """Where one claim does not fit, nothing is taken from any, and the first that does not is named."""
    for _ in range(5):
        grant = await reserved(store, "x", rate(3), budget(100, 50), budget(10, 50, name="small"))
        assert (grant.refused, [standing.used for standing in grant.standings]) == (2, [0, 0, 0])
    assert await totals(store) in ([], [(0, 0)])
    assert (await reserved(store, "y", rate(3, base=3), budget(100, 100))).refused is None


async def test_ceiling(store: Store) -> None:
    """The ceiling is lowered to what fits into every claim, down to the floor, or to what was wanted if that is less."""
    assert (await reserved(store, "1", budget(100, 5, each=1, floor=64), ceiling=400)).ceiling == 95
    await store.settle("1", {budget(1).key: 35})
    assert (await reserved(store, "2", budget(100, 5, each=1, floor=64), ceiling=400)).refused == 0
    assert (await reserved(store, "3", budget(100, 5, each=2, floor=20), ceiling=400)).ceiling == 30
    await store.settle("3", {budget(1).key: 0})
    two = [budget(100, 5, each=1), budget(50, 5, each=2, name="other")]
    assert (await reserved(store, "4", *two, ceiling=400)).ceiling == 22
    assert [each.reserved for each in await store.accounts()] == [27, 49]


async def test_small_wish(store: Store) -> None:
    """A call that wants less than the floor is admitted with what it wants, and not with less."""
    assert (await reserved(store, "1", budget(25, 5, each=1, floor=64), ceiling=20)).ceiling == 20
    await store.release("1")
    assert (await reserved(store, "2", budget(24, 5, each=1, floor=64), ceiling=20)).refused == 0


async def test_same_counter_twice(store: Store) -> None:
    """Two claims of one call on one counter add up."""
    assert (await reserved(store, "1", budget(100, 60), budget(100, 60))).refused == 0
    assert (await reserved(store, "2", budget(100, 60), budget(100, 40))).refused is None
    assert await totals(store) == [(0, 100)]


async def test_idempotent(store: Store) -> None:
    """A reservation that is sent again takes nothing more; settling and releasing again does nothing."""
    first = await reserved(store, "1", budget(100, 10, each=1), rate(5), ceiling=50)
    again = await reserved(store, "1", budget(100, 10, each=1), rate(5), ceiling=50)
    assert (first.ceiling, again.ceiling, again.standings[1].used) == (50, 50, 1)
    assert await totals(store) == [(0, 60)]
    for _ in range(2):
        await store.settle("1", {budget(1).key: 7})
    await store.release("1")
    await store.settle("unknown", {budget(1).key: 7})
    assert await totals(store) == [(7, 0)]


async def test_parts(store: Store) -> None:
    """Further parts add to a hold, and one settlement ends them all."""
    await reserved(store, "1", budget(100, 40))
    await reserved(store, "1", budget(100, 40), part=1)
    assert (await reserved(store, "1", budget(100, 40), part=2)).refused == 0
    assert await totals(store) == [(0, 80)]
    await store.settle("1", {budget(1).key: 55})
    assert await totals(store) == [(55, 0)]


async def test_lower_bound(store: Store) -> None:
    """Without a refund a hold is charged at least in full; what a settlement does not name is charged as it was held."""
    await reserved(store, "1", budget(100, 40))
    await store.settle("1", {budget(1).key: 5}, refund=False)
    assert await totals(store) == [(40, 0)]
    await reserved(store, "2", budget(100, 10))
    await store.settle("2", {budget(1).key: 30}, refund=False)
    await reserved(store, "3", budget(100, 10))
    await store.settle("3", {})
    assert await totals(store) == [(80, 0)]


async def test_debt(store: Store) -> None:
    """A charge beyond the limit stays on the books, and nothing more is admitted."""
    await reserved(store, "1", budget(100, 90))
    await store.settle("1", {budget(1).key: 130})
    assert await totals(store) == [(130, 0)]
    assert (await reserved(store, "2", budget(100, 0, each=1), ceiling=1)).refused == 0


async def test_absurd_reports(store: Store) -> None:
    """Whatever an upstream reports, a counter stays a number that every store can keep."""
    for call in range(3):
        await reserved(store, f"{call}", budget(2**53 - 1, 1))
        await store.settle(f"{call}", {budget(1).key: 10**30})
    assert await totals(store) == [(2**53 - 1, 0)]
    await reserved(store, "x", budget(2**53 - 1, 0, name="other"))
    await store.settle("x", {budget(1, name="other").key: -5})
    assert (0, 0) in await totals(store)


async def test_windows(store: Store, clock: FakeClock) -> None:
    """A call settles in the window that it was reserved in, also when the next one has begun."""
    clock.advance(DAY - clock.now % DAY - 600)
    await reserved(store, "1", budget(100, 90))
    clock.advance(1200)
    assert (await reserved(store, "2", budget(100, 90))).refused is None
    await store.settle("1", {budget(1).key: 50})
    assert await totals(store) == [(0, 90)]
    clock.advance(-1200)
    assert await totals(store) == [(50, 0)]


async def test_release(store: Store) -> None:
    """A release gives everything back, the place in the rate too."""
    await reserved(store, "1", rate(1), budget(100, 100))
    assert (await reserved(store, "2", rate(1))).refused == 0
    await store.release("1")
    await store.release("1")
    assert (await reserved(store, "3", rate(1), budget(100, 100))).refused is None


async def test_any_span(store: Store, clock: FakeClock) -> None:
    """Never more than the limit in any span; all may come at once; each place is free exactly one window later."""
    for call in range(3):
        assert (await reserved(store, f"a{call}", rate(3))).refused is None
    clock.advance(59.999)
    grant = await reserved(store, "b", rate(3))
    assert grant.refused == 0
    assert grant.standings[0].resets_at == pytest.approx(clock.now + 0.001)
    clock.advance(0.001)
    assert [(await reserved(store, f"c{call}", rate(3))).refused for call in range(4)] == [None, None, None, 0]


async def test_refused_do_not_count(store: Store, clock: FakeClock) -> None:
    """A refused call does not push back the moment at which the next one fits."""
    await reserved(store, "a", rate(1))
    for call in range(50):
        clock.advance(1)
        assert (await reserved(store, f"b{call}", rate(1))).refused == 0
    clock.advance(10)
    assert (await reserved(store, "c", rate(1))).refused is None


async def test_clock_backwards(store: Store, clock: FakeClock) -> None:
    """A clock that steps back lets nothing more through."""
    await reserved(store, "a", rate(1))
    clock.advance(-3600)
    assert (await reserved(store, "b", rate(1))).refused == 0
    clock.advance(3600 + 59)
    assert (await reserved(store, "c", rate(1))).refused == 0


async def test_large_rates(store: Store, clock: FakeClock) -> None:
    """A large limit is kept in bounded memory, and still never passed in any span."""
    limit = 5 * FINE_LIMIT
    moments: list[float] = []
    for call in range(3000):
        clock.advance(0.05)
        if (await reserved(store, f"{call}", rate(limit, 60, base=10))).refused is None:
            moments.append(clock.now)
    worst = max(sum(10 for x in moments if start <= x < start + 60) for start in moments[::20])
    assert limit * 0.99 < worst <= limit
    assert await takings(store) <= FINE_LIMIT + 1


async def test_joined(store: Store, clock: FakeClock) -> None:
    """Takings that share an entry are free when the youngest of them is, and each may be given back."""
    coarse, look = rate(2 * FINE_LIMIT), rate(2 * FINE_LIMIT, base=0)
    for call in range(3):
        await reserved(store, f"{call}", coarse)
        clock.advance(0.01)
    for used in (3, 2):
        standing = (await reserved(store, f"look {used}", look)).standings[0]
        assert standing.used == used
        assert standing.resets_at == pytest.approx(clock.now + 60 - 0.01, abs=1e-5)
        await store.release("0")


async def test_long_queue(store: Store, clock: FakeClock) -> None:
    """A sliding counter of any length counts each taking for its span, also when some are given back."""
    moments = {}
    for call in range(300):
        clock.advance(0.5)
        assert (await reserved(store, f"{call}", rate(200))).refused is None
        moments[call] = clock.now
        if call % 7 == 3:
            await store.release(f"{call - 3}")
            del moments[call - 3]
        moments = {call: at for call, at in moments.items() if at > clock.now - 60}
        standing = (await reserved(store, "full", rate(200, base=201))).standings[0]
        assert standing.used == len(moments)
    assert standing.resets_at == pytest.approx(clock.now + 60)


async def test_forgotten(store: Store, clock: FakeClock) -> None:
    """Counters that nobody uses any more take no room."""
    for call in range(100):
        clock.advance(DAY)
        await reserved(store, f"{call}", budget(100), rate(5, name=f"r{call}"))
        await store.settle(f"{call}", {})
    clock.advance(DAY)
    await reserved(store, "last", budget(100))
    assert await totals(store) == [(0, 10)]
    if not isinstance(store, RedisStore):  # whose keys expire by its own clock: see test_redis.py
        assert await takings(store) == 0
        assert await counters(store) == 1


async def test_survives(tmp_path: Path, clock: FakeClock) -> None:
    """A file that is opened again remembers everything, rates too."""
    for call in range(3):
        store = SQLiteStore(tmp_path / "s.db", clock=clock)
        assert (await reserved(store, f"{call}", rate(3), budget(100, 20))).refused is None
        await store.settle(f"{call}", {budget(1).key: 20})
        await store.aclose()
    store = SQLiteStore(tmp_path / "s.db", clock=clock)
    assert await totals(store) == [(60, 0)]
    assert (await reserved(store, "x", rate(3))).refused == 0
    await store.aclose()


async def test_death(tmp_path: Path, clock: FakeClock) -> None:
    """The holds of a process that died become charges in full, once its grace is over; those of the living stay."""
    dead = SQLiteStore(tmp_path / "s.db", clock=clock)
    await reserved(dead, "1", budget(100, 40))
    await reserved(dead, "1", budget(100, 5), part=1)
    await dead.aclose()
    living = SQLiteStore(tmp_path / "s.db", clock=clock)
    await reserved(living, "2", budget(100, 10))
    clock.advance(29)
    await living.heartbeat()
    assert await totals(living) == [(0, 55)]
    clock.advance(2)
    assert await totals(living) == [(45, 10)]
    await living.settle("1", {budget(1).key: 1})
    await living.settle("2", {budget(1).key: 1})
    assert await totals(living) == [(46, 0)]
    await living.aclose()


async def test_not_a_database(tmp_path: Path, clock: FakeClock) -> None:
    """A file that is no store, or one of another version, or no folder at all, is an error with the cure."""
    (tmp_path / "text.db").write_text("hello " * 1000)
    with pytest.raises(StoreDown, match="not a database; name another file"):
        await SQLiteStore(tmp_path / "text.db", clock=clock).ping()
    with pytest.raises(StoreDown, match="make the folder .*nowhere first"):
        await SQLiteStore(tmp_path / "nowhere" / "x.db", clock=clock).ping()
    file = sqlite3.connect(tmp_path / "other.db")
    file.execute("CREATE TABLE theirs (x)")
    file.close()
    with pytest.raises(StoreDown, match="holds the tables of another program; name another file"):
        await SQLiteStore(tmp_path / "other.db", clock=clock).ping()
    file = sqlite3.connect(tmp_path / "old.db")
    file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(StoreDown, match=r"another version \(99, this one reads 3\)"):
        await SQLiteStore(tmp_path / "old.db", clock=clock).ping()


async def test_recovers(tmp_path: Path, clock: FakeClock) -> None:
    """After an error the file is opened anew; nothing has to be restarted."""
    store = SQLiteStore(tmp_path / "sub" / "s.db", clock=clock)
    with pytest.raises(StoreDown):
        await reserved(store, "1", budget(100))
    (tmp_path / "sub").mkdir()
    assert (await reserved(store, "1", budget(100))).refused is None
    await store.aclose()


async def test_deleted_file(tmp_path: Path, clock: FakeClock) -> None:
    """Where the file was deleted or moved away, all processes go on in the one that is at its path now."""
    first, second = SQLiteStore(tmp_path / "s.db", clock=clock), SQLiteStore(tmp_path / "s.db", clock=clock)
    await reserved(first, "1", budget(100, 90))
    for each in tmp_path.glob("s.db*"):
        each.unlink()
    assert (await reserved(second, "2", budget(100, 90))).refused is None
    await first.heartbeat()
    assert (await reserved(first, "3", budget(100, 90))).refused == 0
    await first.aclose()
    await second.aclose()


HAMMER = """
import asyncio, sys
from pathlib import Path
from policies.stores.memory import MemoryStore
from policies.stores.redis.store import RedisStore
from policies.stores.sqlite.store import SQLiteStore
from policies.api.claim import Claim
from policies.api.window import Calendar
import time

async def main():
    store = SQLiteStore(Path(sys.argv[1]), clock=time.time)
    claim = Claim(policy="b", identity="t", unit="tokens", limit=500, window=Calendar("month"), base=2)
    passed = 0
    for at in range(300):
        call = f"{sys.argv[2]}-{at}"
        if (await store.reserve(call, [claim])).refused is None:
            passed += 1
            await store.settle(call, {claim.key: 1})
    print(passed)
    await store.aclose()

asyncio.run(main())
"""


async def test_two_processes(tmp_path: Path, clock: FakeClock) -> None:
    """Processes that share a file share its limits: together they spend the budget, and not one token more."""
    command = [sys.executable, "-c", HAMMER, str(tmp_path / "s.db")]
    running = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "abc"]
    passed = [int(services.communicate(timeout=60)[0]) for services in running]
    store = SQLiteStore(tmp_path / "s.db", clock=__import__("time").time)

    assert sum(passed) == 499
    assert await totals(store) == [(499, 0)]
    await store.aclose()


def made_up(name: str, *, limit: int = 10, window: Calendar | Sliding = Calendar("day"), crowd: str = "acme") -> Claim:  # noqa: B008  # it never changes
    return Claim(
        policy="u",
        identity=f"{crowd}\x1e{name}",
        unit="tokens",
        limit=limit,
        window=window,
        base=10,
        max_identities=3,
        identity_group=crowd,
    )


@pytest.mark.parametrize("window", [Calendar("day"), Sliding(60.0)])
async def test_made_up_identities(store: Store, clock: FakeClock, window: Calendar | Sliding) -> None:
    """Beyond the bound identities share one counter; one that is open stays, and another crowd has a bound of its own."""
    first = [(await reserved(store, f"a{at}", made_up(f"{at}", window=window))).refused for at in range(6)]
    assert first == [None, None, None, None, 0, 0], "three of their own, and one that all others share"
    assert (await reserved(store, "b", made_up("1", limit=20, window=window))).refused is None, "a known one is its own"
    assert (await reserved(store, "c", made_up("9", crowd="zeta", window=window))).refused is None
    await store.settle("a3", {made_up("3", window=window).key: 4})
    await store.heartbeat()
    clock.advance(DAY + 61)
    await store.heartbeat()
    assert [(await reserved(store, f"d{at}", made_up(f"x{at}", window=window))).refused for at in range(5)] == [
        *[None] * 4,
        0,
    ]


async def test_shared_counter_is_left_when_it_is_empty(store: Store, clock: FakeClock) -> None:
    """Who is counted with others begins no counter of its own while the shared one counts: no span sees the limit twice."""
    window = Sliding(60.0)
    for name in "abc":
        await reserved(store, name, made_up(name, limit=50, window=window))
        clock.advance(10)
    asked = iter(range(1000))

    async def admitted() -> int:
        grants = [await reserved(store, f"x{next(asked)}", made_up("late", limit=50, window=window)) for _ in range(9)]
        return sum(grant.refused is None for grant in grants)

    clock.advance(29)
    first = await admitted()
    clock.advance(5)  # one of the crowd has gone
    then = await admitted()
    clock.advance(61)

    assert (first, then) == (5, 0)
    assert await admitted() == 5


async def test_shared_counter_is_charged(store: Store) -> None:
    """What one of the many is charged lands in the counter that it shares."""
    for at in range(5):
        await reserved(store, f"{at}", made_up(f"{at}", limit=100))
        await store.settle(f"{at}", {made_up(f"{at}").key: at})
    books = {each.identity.partition("\x1d")[0]: each.spent for each in await store.accounts()}
    assert books == {"acme\x1e0": 0, "acme\x1e1": 1, "acme\x1e2": 2, "acme": 7}


async def test_a_part_needs_its_hold(store: Store) -> None:
    """A further part of a call that holds nothing any more takes nothing: nobody would ever settle it."""
    await reserved(store, "1", budget(100, 10))
    await store.settle("1", {})
    with pytest.raises(ReservationGone):
        await reserved(store, "1", budget(100, 10), part=1)
    assert await totals(store) == [(10, 0)]


async def test_dollars(store: Store) -> None:
    """A claim in dollars fits with the highest ceiling that the money pays for, to the last token."""
    claim = Claim(
        policy="m", identity="t", unit="usd", limit=1000, window=Calendar("day"), base=1, per_token=600_000, floor=64
    )
    grant = await reserved(store, "1", claim, ceiling=100_000)
    assert (grant.ceiling, grant.standings[0].used) == (1665, 1000)


async def test_a_full_crowd_beside_a_limit(store: Store, clock: FakeClock) -> None:
    """A taking is counted, also where the same step finds a crowd full and drops what nobody counts any more."""

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

    await reserved(store, "1", rate(1, 30.0), user("a"))
    clock.advance(29.5)
    await reserved(store, "2", user("a"))
    clock.advance(2.0)
    admitted = await reserved(store, "3", rate(1, 30.0), user("b"))
    refused = await reserved(store, "4", rate(1, 30.0), user("b"))

    assert (admitted.refused, refused.refused) == (None, 0)


def test_counter_names() -> None:
    """A counter's name tells policy, identity, unit and window apart, and no more names are remembered than a bound."""
    windows: list[Window] = [
        Sliding(60.0),
        Sliding(0.5),
        Calendar("day"),
        Calendar("day", "Europe/Berlin"),
        Calendar("month"),
    ]
    claims = [
        Claim(policy=policy, identity=name, unit=unit, limit=9, window=window, base=1)
        for policy in ("a", "b")
        for name in ("", "t", "b")
        for unit in ("tokens", "usd")
        for window in windows
    ]
    names = [claim.key for claim in claims]
    assert len(set(names)) == len(claims)
    assert names == [claim.key for claim in claims]
    assert names[:3] == [
        "a\x1f\x1ftokens\x1fsliding@60",
        "a\x1f\x1ftokens\x1fsliding@0.5",
        "a\x1f\x1ftokens\x1fday@UTC",
    ]
    assert (
        msgspec.structs.replace(claims[0], limit=1, base=5, per_token=2, max_identities=3, identity_group="c").key
        == names[0]
    )
    for at in range(5000):
        assert counter_key("a", f"{at}", "tokens", windows[0]) == f"a\x1f{at}\x1ftokens\x1fsliding@60"
    assert counter_key.cache_info().currsize <= 1024
