"""Writes wait for a replica where there is one, so that a failover forgets nothing; and cost nothing where there is none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from redis_nodes import REPLICATION_OPTIONS, RedisNode, is_synchronized, node_folder, waited
from redis_server import MISSING, SERVER, RedisServer, free_ports
from script_links import command, script_link
from tcp_proxy import tcp_proxy

from policies.api.store import StoreDown
from policies.stores.redis.servers.connection import ConnectionLost, Reply
from policies.stores.redis.servers.node import Node
from policies.stores.redis.servers.replication import HeldResults, Replication
from policies.stores.redis.servers.url import Address

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(SERVER is None, reason=MISSING)]

MAX_ATTEMPTS = 20
"""Attempts of a replica that wakes, on a busy machine, to acknowledge in time."""


@pytest.fixture
def pair() -> Iterator[tuple[RedisNode, RedisNode]]:
    """Yield a primary and a replica that has its data."""
    with node_folder() as folder:
        ports = free_ports(2)
        primary = RedisNode(ports[0], folder, *REPLICATION_OPTIONS)
        replica = RedisNode(ports[1], folder, "--replicaof", "127.0.0.1", str(ports[0]))
        try:
            primary.start()
            replica.start()
            waited(lambda: is_synchronized(replica, [primary]), "the replica does not get the data")
            primary.ask("SET", "written", 1)  # the first write reaches it up to a second later
            waited(lambda: replica.ask("GET", "written"), "the replica does not get the data")
            yield primary, replica
        finally:
            replica.stop()
            primary.stop()


async def test_results_are_on_the_replica(pair: tuple[RedisNode, RedisNode]) -> None:
    """What a caller was answered is on the replica, also when all of many callers are answered at once."""
    primary, replica = pair
    async with script_link(f"{primary.url}?wait=1000") as link:
        for wave in range(20):
            payloads = [b"%d-%d" % (wave, at) for at in range(50)]
            assert await link.submit_all(payloads) == payloads
            assert set(payloads) <= set(await link.appended(replica.port))


async def test_one_wait_for_each_write(pair: tuple[RedisNode, RedisNode]) -> None:
    """Payloads that leave in one write share one WAIT. On a slow machine there is none after one without an answer."""
    async with tcp_proxy(pair[0].port) as proxy, script_link(f"{proxy.url}?wait=1000") as link:
        await link.submit(b"1")
        waits = []
        for _ in range(5):
            before = proxy.requests.count(b"WAIT")
            await link.submit_all([b"%d" % at for at in range(100)])
            waits.append(proxy.requests.count(b"WAIT") - before)
        assert max(waits) == 1


async def test_option_switches_it_off(pair: tuple[RedisNode, RedisNode]) -> None:
    """With `wait=0` no WAIT is sent."""
    async with tcp_proxy(pair[0].port) as proxy, script_link(f"{proxy.url}?wait=0") as link:
        await link.submit_all([b"%d" % at for at in range(100)])
        assert b"WAIT" not in proxy.requests


async def test_no_wait_without_replicas(redis: RedisServer) -> None:
    """Where the server has no replicas, no WAIT is sent."""
    async with tcp_proxy(redis.port) as proxy, script_link(proxy.url) as link:
        await link.submit_all([b"%d" % at for at in range(100)])
        assert b"WAIT" not in proxy.requests


async def test_replica_that_connects_later_is_noticed(pair: tuple[RedisNode, RedisNode]) -> None:
    """A replica that connects while the link is in use is waited for after some seconds of the clock."""
    primary, replica = pair
    now = [0.0]
    replica.ask("REPLICAOF", "NO", "ONE")
    waited(lambda: primary.facts("INFO", "replication")["connected_slaves"] == "0", "the replica stays")
    async with tcp_proxy(primary.port) as proxy, script_link(proxy.url, monotonic=lambda: now[0]) as link:
        await link.submit(b"1")
        replica.ask("REPLICAOF", "127.0.0.1", primary.port)
        await asyncio.to_thread(
            waited, lambda: is_synchronized(replica, [primary]), "the replica does not get the data"
        )
        await link.submit(b"2")
        assert b"WAIT" not in proxy.requests
        for at in range(100):
            now[0] += 1
            await link.submit(b"more %d" % at)
            if b"WAIT" in proxy.requests:
                break
            await asyncio.sleep(0.01)
        assert b"WAIT" in proxy.requests


async def test_missing_acknowledgement_is_logged_once(
    pair: tuple[RedisNode, RedisNode], caplog: pytest.LogCaptureFixture
) -> None:
    """A replica that does not answer delays a few calls and fails none; the log has one line; when it answers it is used again."""
    primary, replica = pair
    now = [0.0]
    async with (
        tcp_proxy(primary.port) as proxy,
        script_link(f"{proxy.url}?wait=200", monotonic=lambda: now[0]) as link,
    ):
        await link.submit(b"0")
        replica.suspend()
        with caplog.at_level(logging.WARNING, "sidecar.store"):
            for at in range(1, 60):
                now[0] += 0.1
                assert await link.submit(b"%d" % at) == b"%d" % at
        lines = [each.getMessage() for each in caplog.records if "no replica confirmed a write" in each.getMessage()]
        assert len(lines) == 1
        assert proxy.requests.count(b"WAIT") < 10
        replica.resume()
        for at in range(MAX_ATTEMPTS):
            now[0] += 60  # the end of any pause
            payload = b"last %d" % at
            await link.submit(payload)
            if payload in await link.appended(replica.port):
                break
        assert payload in await link.appended(replica.port)


async def test_user_that_may_not_wait(pair: tuple[RedisNode, RedisNode], caplog: pytest.LogCaptureFixture) -> None:
    """Where the user may not use WAIT, calls go on, and the log has one line."""
    primary, _ = pair
    rights = ("reset", "on", ">p", "~*", "nocommands", "+eval", "+evalsha", "+hset", "+hsetnx", "+rpush", "+info")
    await command(primary.port, "ACL", "SETUSER", "me", *rights)
    async with script_link(primary.url.replace("://", "://me:p@")) as link:
        for at in range(20):
            assert await link.submit(b"%d" % at) == b"%d" % at
    assert sum("no replica confirmed a write" in each.getMessage() for each in caplog.records) == 1


async def test_connection_lost_before_the_acknowledgement(pair: tuple[RedisNode, RedisNode]) -> None:
    """Results that no replica has acknowledged when the primary is lost are not given out: the payloads are sent again."""
    primary, replica = pair
    async with tcp_proxy(primary.port) as proxy, script_link(f"{proxy.url}?wait=1000", timeout=5.0) as link:
        await link.submit(b"1")
        replica.suspend()
        waiting = link.submit(b"2")
        while b"2" not in await link.appended(primary.port):
            await asyncio.sleep(0)
        assert not waiting.done()
        sent = proxy.requests.count(b"$1\r\n2\r\n")
        proxy.cut()
        replica.resume()
        assert await waiting == b"2"
        assert proxy.requests.count(b"$1\r\n2\r\n") > sent
        assert await link.appended(replica.port) == [b"1", b"2"]


async def test_primary_that_becomes_a_replica_meanwhile(pair: tuple[RedisNode, RedisNode]) -> None:
    """A primary that becomes a replica before the acknowledgement may forget the write: its result is not given out."""
    primary, replica = pair
    async with script_link(f"{primary.url}?wait=1000", timeout=0.5) as link:
        await link.submit(b"1")
        replica.suspend()
        waiting = link.submit(b"2")
        while b"2" not in await link.appended(primary.port):
            await asyncio.sleep(0)
        primary.ask("REPLICAOF", "127.0.0.1", replica.port)
        with pytest.raises(StoreDown) as down:
            await waiting
        assert down.value.taken
        replica.resume()


class SilentConnection:
    """Takes all commands and answers none."""

    async def send_packed_command(self, *_: object, **__: object) -> None:
        pass

    async def read_response(self, **_: object) -> None:
        await asyncio.Event().wait()

    async def disconnect(self, **_: object) -> None:
        pass


async def test_held_results_are_lost_with_the_node() -> None:
    """A result without an acknowledgement is given out as lost, also if the node is closed before the sentinels are asked."""

    async def is_replaced(address: Address) -> bool:
        return False

    replication = Replication(10, lambda: 0.0, is_replaced)
    connection: Any = SilentConnection()
    node = Node(
        connection, Address("h", 1), timeout=1.0, replication=replication, monotonic=lambda: 0.0, on_idle=lambda: None
    )
    received: list[Reply] = []
    held = HeldResults()
    held.is_waiting = True
    held.receive(received.append, b"result")
    node._acknowledge(held, 0)
    await node.aclose()
    assert [type(each) for each in received] == [ConnectionLost]
