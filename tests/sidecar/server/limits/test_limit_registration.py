"""The registration of limits at start: once, by whichever worker is first, and as soon as the store is there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from api_keys import key
from redis.asyncio import Redis
from redis_server import MISSING, SERVER, redis_server
from redis_server import RedisServer as Server
from serving import settings_of, with_policies
from wire import eventually

from policies import Calendar, Call, Claim, ClaimLease, Lease, Policy
from policies.api.store import MAX_REGISTERED_LIMITS, LimitRegistry, StoreDown
from policies.stores.memory import MemoryStore
from policies.stores.sqlite.store import SQLiteStore
from policies.testing import FakeClock, make_services
from sidecar.config.settings import Settings
from sidecar.server.gateway import Gateway

pytestmark = pytest.mark.anyio

NEEDS_REDIS = pytest.mark.skipif(SERVER is None, reason=MISSING)
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 500\n'


class RememberingStore(MemoryStore):
    """Remembers limits; is down for the first *failures* registrations."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__(clock=FakeClock())
        self.limits: Mapping[str, str] = {}
        self.content = "first"
        self.registered, self.failures = 0, failures

    @property
    def generation(self) -> str:
        return self.content

    async def register_limits(self, limits: Mapping[str, str]) -> Mapping[str, str]:
        if self.failures:
            self.failures -= 1
            raise StoreDown("no answer")
        before, self.limits = self.limits, dict(limits)
        self.registered += 1
        return before


@contextmanager
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[tuple[str, str]]]:
    """Yield a list that has, after the block, the lines that were logged in it, with their levels."""
    caplog.set_level(logging.INFO, "sidecar")
    caplog.clear()
    found: list[tuple[str, str]] = []
    yield found
    found += [(each.levelname, each.getMessage()) for each in caplog.records]


async def start(settings: Settings, store: RememberingStore) -> None:
    """Run a process until it has registered its limits."""
    before = store.registered
    gateway = Gateway(settings, policy_services=make_services(store=store))
    try:
        await eventually(lambda: store.registered > before)
        await asyncio.sleep(0)
    finally:
        await gateway.close()


async def test_changed_limit_is_logged_by_the_first_worker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first start compares with nothing, one with a changed window logs one line, and a second worker logs none."""
    store = RememberingStore()
    for text, count in (
        (BUDGET, 0),
        (BUDGET.replace("500", "700"), 0),
        (BUDGET + 'window = "month"\n', 1),
        (BUDGET + 'window = "month"\n', 0),
    ):
        with lines(caplog) as found:
            await start(settings_of(tmp_path, "http://h/v1", text), store)
        assert [level for level, _ in found] == ["WARNING"] * count
    assert store.limits == {"budget": '[["tokens","month@UTC","tenant"]]'}


async def test_store_that_is_down_gets_the_limits_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store is down at start, the registration is repeated; the change is logged when the store is back."""
    monkeypatch.setattr("sidecar.server.gateway.STORE_HEARTBEAT_SECONDS", 0.001)
    store = RememberingStore(failures=3)
    store.limits = {"budget": '[["tokens","day@Europe/Berlin","tenant"]]'}
    with lines(caplog) as found:
        await start(settings_of(tmp_path, "http://h/v1", BUDGET), store)
    (text,) = (text for _, text in found if "limit" in text)
    assert text.startswith("limit 'budget' has changed its window from day@Europe/Berlin to day@UTC: it counts anew")


async def test_corrections_after_the_start_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A correction after the start and before the first of the regular heartbeats is logged by the next of them."""
    monkeypatch.setattr("sidecar.server.gateway.STORE_HEARTBEAT_SECONDS", 3_600.0)
    gateway = Gateway(settings_of(tmp_path, "http://h/v1", '[store]\nurl = "sqlite:///s.db"\n' + BUDGET))
    other = SQLiteStore(tmp_path / "s.db", clock=time.time)
    await eventually(lambda: bool(registered(tmp_path / "s.db")))
    claim = Claim(policy="budget", identity="a", unit="tokens", limit=9, window=Calendar("day"), base=0)
    await other.correct([claim], None, "was reset")
    await gateway.policy_services.store.heartbeat()
    assert [each.getMessage() for each in caplog.records if each.name == "sidecar.store"] == ["was reset"]
    await other.aclose()
    await gateway.close()


def registered(path: Path) -> list[tuple[str]]:
    """Return the names of the limits that the file remembers."""
    with contextlib.closing(sqlite3.connect(path)) as connection, contextlib.suppress(sqlite3.Error):
        return connection.execute("SELECT name FROM configured").fetchall()
    return []


async def flush(folder: Path, server: Server | None) -> None:
    """Remove the content of the store, as an operator does."""
    if server is None:
        for each in folder.glob("s.db*"):
            each.unlink()
        return
    client = Redis(port=server.port)
    await client.flushall()
    await client.aclose()


def count_registrations(stores: Sequence[LimitRegistry], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how often limits were registered in each of *stores*, as numbers that grow."""
    counts = [0] * len(stores)
    for at, store in enumerate(stores):

        async def register(
            limits: Mapping[str, str], at: int = at, original: Any = store.register_limits
        ) -> Mapping[str, str]:
            before: Mapping[str, str] = await original(limits)
            counts[at] += 1
            return before

        monkeypatch.setattr(store, "register_limits", register)
    return counts


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=NEEDS_REDIS)])
async def test_limits_are_registered_again_in_a_store_that_lost_them(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that loses its content while processes run gets their limits again, so the next start finds a changed one.

    No process logs a change for that: the new content has no limits before, or those of another process.
    """
    monkeypatch.setattr("sidecar.server.gateway.STORE_HEARTBEAT_SECONDS", 0.01)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(redis_server(tmp_path)) if kind == "redis" else None
        store = f'[store]\nurl = "{"sqlite:///s.db" if server is None else server.url}"\n'
        settings = settings_of(tmp_path, "http://h/v1", store + BUDGET)
        with lines(caplog) as found:
            gateways = [Gateway(settings) for _ in range(2)]
            stores = [cast("LimitRegistry", each.policy_services.store) for each in gateways]
            counts = count_registrations(stores, monkeypatch)
            for losses in range(2):
                await eventually(lambda: min(counts) > losses)  # noqa: B023  # used in this iteration
                await flush(tmp_path, server)
            await eventually(lambda: min(counts) > 2)
            for gateway in gateways:
                await gateway.close()
        assert not [text for _, text in found if "limit" in text and "limits start anew" not in text]
        with lines(caplog) as found:
            gateway = Gateway(settings_of(tmp_path, "http://h/v1", store + BUDGET + 'window = "month"\n'))
            await eventually(lambda: any("has changed its window" in each.getMessage() for each in caplog.records))
            await gateway.close()


async def test_limits_of_a_restored_store_are_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content that was replaced by that of other limits, such as a backup, is compared as at a start."""
    monkeypatch.setattr("sidecar.server.gateway.STORE_HEARTBEAT_SECONDS", 0.001)
    store = RememberingStore()
    gateway = Gateway(settings_of(tmp_path, "http://h/v1", BUDGET), policy_services=make_services(store=store))
    await eventually(lambda: store.registered == 1)
    with lines(caplog) as found:
        store.content, store.limits = "restored", {"budget": '[["tokens","week@UTC","tenant"]]'}
        await eventually(lambda: store.registered == 2)
        await asyncio.sleep(0.01)
    await gateway.close()
    assert store.registered == 2
    ((level, text),) = found
    assert level == "WARNING"
    assert text.startswith("limit 'budget' has changed its window from week@UTC to day@UTC")


class OnlyCounting:
    """A store of a deployment that has only what a start without calls needs."""

    is_remote = False

    async def heartbeat(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


async def test_store_that_remembers_no_limits_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A store without `register_limits` starts without a line."""
    with lines(caplog) as found:
        gateway = Gateway(settings_of(tmp_path, "http://h/v1"), policy_services=make_services(store=OnlyCounting()))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await gateway.close()
    assert found == []


class PerTenant(Policy, frozen=True):
    """A policy of a deployment whose window depends on the profile."""

    async def admit(self, call: Call) -> Lease:
        return ClaimLease(*self.limits_for(call))

    def limits_for(self, call: Call) -> Sequence[Claim]:
        if call.profile == "broken":
            raise RuntimeError("a message that may hold values")
        return [self.claim(call, 1, limit=3, window=Calendar("hour" if call.profile else "day"))]


async def test_limits_of_profiles_and_keys_are_included(tmp_path: Path) -> None:
    """The limits of every chain are registered: those of profiles, of keys, and of policies of the deployment."""
    text = (
        BUDGET + "[profile.tight]\nbudget = { tokens = 5 }\n" + key("k", "acme", "limits = { budget = { tokens = 9 } }")
    )
    settings = with_policies(settings_of(tmp_path, "http://h/v1", text), PerTenant(name="own"))
    tight = msgspec.structs.replace(settings.profiles["tight"], policies=settings.base.policies)
    store = RememberingStore()
    await start(msgspec.structs.replace(settings, profiles={"tight": tight}, keys=()), store)
    assert store.limits == {
        "budget": '[["tokens","day@UTC","tenant"]]',
        "own": '[["requests","day@UTC","tenant"],["requests","hour@UTC","tenant"]]',
    }
    await start(settings_of(tmp_path, "http://h/v1", text), store)
    assert store.limits == {"budget": '[["tokens","day@UTC","tenant"]]'}


async def test_policy_that_fails_does_not_end_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A policy that raises in `limits_for` is one line without values; nothing is registered, so no limit seems removed."""
    settings = with_policies(settings_of(tmp_path, "http://h/v1", BUDGET + "[profile.broken]\n"), PerTenant(name="own"))
    broken = msgspec.structs.replace(settings.base, name="broken")
    store = RememberingStore()
    with lines(caplog) as found:
        gateway = Gateway(
            msgspec.structs.replace(settings, profiles={"broken": broken}), policy_services=make_services(store=store)
        )
        await eventually(lambda: any("could not be compared" in each.getMessage() for each in caplog.records))
        await gateway.close()
    ((level, text),) = found
    assert (level, "RuntimeError" in text, "may hold values" in text.partition("\n")[0]) == ("ERROR", True, False)
    assert store.registered == 0


async def test_number_of_registered_limits_is_bounded(tmp_path: Path) -> None:
    """At most as many limits are registered as a store remembers."""
    settings = settings_of(tmp_path, "http://h/v1", BUDGET)
    many = [PerTenant(name=f"p{at:05}") for at in range(MAX_REGISTERED_LIMITS + 5)]
    store = RememberingStore()
    await start(with_policies(settings, *many), store)
    assert len(store.limits) == MAX_REGISTERED_LIMITS
