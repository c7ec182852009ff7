"""The link where sentinels decide which server is the primary."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from redis_sentinel import SERVICE, RedisSentinels, redis_sentinels
from redis_server import MISSING, SERVER, free_port
from script_links import script_link

from policies.api.store import StoreDown

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(SERVER is None, reason=MISSING)]

MAX_RECOVERY_SECONDS = 20.0
"""From the promotion of a replica to the first executed payload: about a second, or more on a busy machine."""


@pytest.fixture(scope="module")
def running() -> Iterator[RedisSentinels]:
    with redis_sentinels() as sentinels:
        yield sentinels


@pytest.fixture
def sentinels(running: RedisSentinels) -> RedisSentinels:
    """Return the servers of all tests, in order."""
    running.restore()
    return running


async def test_primary_that_is_killed(sentinels: RedisSentinels) -> None:
    """When the primary is killed, payloads are executed by the promoted replica, which has all that was answered."""
    async with script_link(f"{sentinels.url}?wait=1000") as link:
        await link.submit_until_taken(b"first")
        payloads = [b"%d" % at for at in range(100)]
        assert await link.submit_all(payloads) == payloads
        primary = await asyncio.to_thread(lambda: sentinels.primary)
        primary.kill()
        promoted = await asyncio.to_thread(sentinels.promoted, primary)
        assert await asyncio.wait_for(link.submit_until_taken(b"last"), MAX_RECOVERY_SECONDS) == b"last"
        assert await link.appended(promoted.port) == [b"first", *payloads, b"last"]


async def test_demoted_primary_is_left(sentinels: RedisSentinels) -> None:
    """A primary that has become a replica is left for the new one."""
    async with script_link(f"{sentinels.url}?wait=1000") as link:
        await link.submit_until_taken(b"1")
        _, new = await asyncio.to_thread(sentinels.demote)
        assert await link.submit_until_taken(b"2") == b"2"
        assert await link.appended(new.port) == [b"1", b"2"]


async def test_sentinels_that_do_not_answer_are_skipped(sentinels: RedisSentinels) -> None:
    """One living sentinel is enough, also where others are suspended."""
    sentinels.sentinels[0].suspend()
    try:
        url = f"redis+sentinel://127.0.0.1:{free_port()},{sentinels.sentinels[0].address},{sentinels.sentinels[1].address}"
        async with script_link(f"{url}/{SERVICE}") as link:
            assert await link.submit_until_taken(b"1") == b"1"
    finally:
        sentinels.sentinels[0].resume()


async def test_unknown_name_of_the_primary(sentinels: RedisSentinels) -> None:
    """A name that the sentinels do not know is an error that has it."""
    url = sentinels.url.replace(SERVICE, "other")
    async with script_link(url, timeout=0.1) as link:
        with pytest.raises(StoreDown, match=r"no sentinel names the primary \(3 were asked for 'other': ") as down:
            await link.submit(b"1")
        assert not down.value.taken


async def test_password_of_the_servers_alone(sentinels: RedisSentinels) -> None:
    """The credentials of the URL are those of the servers; sentinels without a password are asked without it."""
    for server in sentinels.servers:
        server.ask("ACL", "SETUSER", "me", "reset", "on", ">secret", "~*", "+@all")
    async with script_link(sentinels.url.replace("://", "://me:secret@")) as link:
        assert await link.submit_until_taken(b"1") == b"1"
