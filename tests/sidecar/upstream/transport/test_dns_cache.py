"""The DNS cache: bounded, short-lived, shared between concurrent look-ups, without failures."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohappyeyeballs import AddrInfoType
from wire import eventually

from policies.testing import FakeClock
from sidecar.upstream.transport.dns_cache import MAX_NAMES, TTL_SECONDS, DnsCache, resolve

pytestmark = pytest.mark.anyio

V4, V6 = socket.AF_INET, socket.AF_INET6


def info(address: str) -> AddrInfoType:
    family = V6 if ":" in address else V4
    return family, socket.SOCK_STREAM, 6, "", (address, 80)


class Resolver:
    """Answers with `answer` while `may` is set; `asked` holds the names of its queries."""

    def __init__(self, *addresses: str) -> None:
        self.asked: list[str] = []
        self.answer: list[AddrInfoType] | Exception = [info(each) for each in addresses]
        self.may = asyncio.Event()
        self.may.set()

    async def __call__(self, host: str, port: int) -> list[AddrInfoType]:
        self.asked.append(host)
        await self.may.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def made(*addresses: str) -> tuple[DnsCache, Resolver, FakeClock]:
    resolver, clock = Resolver(*addresses), FakeClock()
    return DnsCache(resolver, clock=clock), resolver, clock


def first(found: list[AddrInfoType]) -> str:
    return str(found[0][4][0])


async def test_answer_is_used_for_its_time() -> None:
    """An answer is used for `TTL_SECONDS`, then the name is looked up again."""
    cache, resolver, clock = made("10.0.0.1")
    for passed in (0, TTL_SECONDS / 2, TTL_SECONDS / 2 - 0.1):
        clock.advance(passed)
        assert first(await cache.lookup("a", 80)) == "10.0.0.1"
    assert resolver.asked == ["a"]
    clock.advance(0.1)
    resolver.answer = [info("10.0.0.2")]

    assert first(await cache.lookup("a", 80)) == "10.0.0.2"
    assert resolver.asked == ["a", "a"]


async def test_cache_is_bounded() -> None:
    """At most `MAX_NAMES` answers are kept; the oldest one goes first."""
    cache, resolver, _ = made("10.0.0.1")
    for at in range(MAX_NAMES + 10):
        await cache.lookup(f"host-{at}", 80)
    assert len(cache) == MAX_NAMES
    asked = len(resolver.asked)
    await cache.lookup(f"host-{MAX_NAMES}", 80)
    assert len(resolver.asked) == asked
    await cache.lookup("host-0", 80)
    assert len(resolver.asked) == asked + 1


async def test_concurrent_look_ups_share_a_query() -> None:
    """Concurrent look-ups of a name share one query, which outlives a cancelled one."""
    cache, resolver, _ = made("10.0.0.1")
    resolver.may.clear()
    waiting = [asyncio.create_task(cache.lookup("a", 80)) for _ in range(5)]
    await eventually(lambda: len(resolver.asked) == 1)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    resolver.may.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)

    assert isinstance(found[0], asyncio.CancelledError)
    assert all(isinstance(each, list) and first(each) == "10.0.0.1" for each in found[1:])
    assert resolver.asked == ["a"]


async def test_query_without_callers_ends() -> None:
    """A query whose callers were all cancelled ends, also with an error; the next look-up starts another one."""
    cache, resolver, _ = made()
    resolver.may.clear()
    before = asyncio.all_tasks()
    waiting = asyncio.create_task(cache.lookup("a", 80))
    await eventually(lambda: len(resolver.asked) == 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    resolver.answer = OSError("no such name")
    resolver.may.set()
    await eventually(lambda: asyncio.all_tasks() == before)
    await asyncio.sleep(0)  # the callbacks of the task
    assert len(cache) == 0
    with pytest.raises(OSError, match="no such name"):
        await cache.lookup("a", 80)
    assert resolver.asked == ["a", "a"]


async def test_failures_are_not_kept() -> None:
    """A failed look-up is raised to all who wait for it, and the next one asks again."""
    cache, resolver, _ = made("10.0.0.1")
    good, resolver.answer = resolver.answer, OSError("no such name")
    found = await asyncio.gather(cache.lookup("a", 80), cache.lookup("a", 80), return_exceptions=True)
    assert [str(each) for each in found] == ["no such name"] * 2
    resolver.answer = good

    assert first(await cache.lookup("a", 80)) == "10.0.0.1"
    assert resolver.asked == ["a", "a"]


async def test_addresses_of_a_name_alternate() -> None:
    """Each address of a name is first in its family alternately; the system's first family stays first."""
    cache, _, _ = made("::1", "::2", "10.0.0.1", "10.0.0.2", "10.0.0.3")
    found = [[each[4][0] for each in await cache.lookup("a", 80)] for _ in range(3)]

    assert found[0] == ["::1", "::2", "10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert found[1] == ["::2", "::1", "10.0.0.2", "10.0.0.3", "10.0.0.1"]
    assert found[2] == ["::1", "::2", "10.0.0.3", "10.0.0.1", "10.0.0.2"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fd00::1:2"])
async def test_addresses_are_not_looked_up(host: str) -> None:
    """An IP address needs no look-up."""
    cache, resolver, _ = made()
    assert first(await cache.lookup(host, 80)) == host
    assert (resolver.asked, len(cache)) == ([], 0)


async def test_close_ends_running_queries() -> None:
    """Closing ends running queries: their callers get an error, not a cancellation."""
    cache, resolver, _ = made()
    resolver.may.clear()
    waiting = asyncio.create_task(cache.lookup("a", 80))
    await eventually(lambda: len(resolver.asked) == 1)
    cache.close()
    with pytest.raises(OSError, match="closed"):
        await waiting


async def test_system_resolver_knows_localhost() -> None:
    """The system's resolver finds localhost, and no invalid name."""
    cache = DnsCache(resolve, clock=FakeClock())
    assert first(await cache.lookup("localhost", 80)) in ("127.0.0.1", "::1")
    for name in ("no-such-name.invalid", "x" * 70, "a..b"):
        with pytest.raises((OSError, UnicodeError)):
            await cache.lookup(name, 80)
