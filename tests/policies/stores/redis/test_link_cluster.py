"""The link to a cluster: redirections, moving slots, failovers, and which nodes it asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from redis_cluster import RedisCluster, redis_cluster, slot_of
from redis_cluster_node import ClusterNode
from redis_nodes import WAITED_SECONDS, node_folder
from redis_server import MISSING, SERVER, free_port, redis_server
from script_links import Pauses, TestedLink, command, script_link
from store_callers import ATTEMPT_PAUSE_SECONDS, MAX_ATTEMPTS

from policies.api.store import StoreDown

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(SERVER is None, reason=MISSING)]

MAX_RECOVERY_SECONDS = 20.0
"""From the promotion of a replica to the first executed payloads: about a second, or more on a busy machine."""
MAX_PAUSES_SECONDS = 2.0
"""Most time for which the link pauses between attempts meanwhile."""


@pytest.fixture(scope="module")
def running() -> Iterator[RedisCluster]:
    with redis_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(running: RedisCluster) -> RedisCluster:
    """Return the cluster of all tests, with all nodes in order."""
    running.restore()
    return running


class Traffic:
    """Payloads in groups, one after the other. A group that the store does not take is submitted again."""

    def __init__(self, link: TestedLink) -> None:
        self._link, self.taken, self.failures = link, list[bytes](), 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        for number in range(10**6):
            payloads = [b"%d-%d" % (number, at) for at in range(5)]
            for _ in range(MAX_ATTEMPTS):
                results = await self._link.submit_all(payloads)
                if all(isinstance(each, bytes) for each in results):
                    break
                assert all(isinstance(each, bytes | StoreDown) for each in results), results
                self.failures += 1
                await asyncio.sleep(ATTEMPT_PAUSE_SECONDS)
            assert results == payloads
            self.taken += payloads

    async def more(self, count: int = 100) -> None:
        """Wait until *count* more payloads are executed."""
        until = len(self.taken) + count
        for _ in range(MAX_ATTEMPTS):
            if len(self.taken) >= until:
                return
            assert not self._task.done(), self._task.exception()
            await asyncio.sleep(ATTEMPT_PAUSE_SECONDS)
        raise AssertionError(f"{len(self.taken)} of {until} payloads are executed; {self.failures} groups failed")

    async def stop(self) -> None:
        """Submit no more payloads; those that are not executed are not in `taken`."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def traffic_through(link: TestedLink) -> AsyncIterator[Traffic]:
    """Yield traffic that has begun; stop it at the end."""
    traffic = Traffic(link)
    try:
        await traffic.more()
        yield traffic
    finally:
        await traffic.stop()


async def appended(cluster: RedisCluster, link: TestedLink) -> list[bytes]:
    owner = await asyncio.to_thread(cluster.owner, slot_of(link.prefix))
    return await link.appended(owner.port)


async def test_any_node_leads_to_the_owner(cluster: RedisCluster) -> None:
    """A single node of the URL, whichever it is, is recognised as one of a cluster, and leads to the node with the keys."""
    for node in cluster.nodes:
        async with script_link(cluster.url(node)) as link:
            assert await link.submit_all([b"1", b"2"]) == [b"1", b"2"]
            assert await appended(cluster, link) == [b"1", b"2"]


async def test_configured_nodes_that_are_gone(cluster: RedisCluster) -> None:
    """Nodes of the list that do not exist are skipped."""
    owner = cluster.owner(slot_of("p"))
    other = next(node for node in cluster.nodes if node is not owner)
    url = f"redis://127.0.0.1:{free_port()},127.0.0.1:{free_port()},{other.address}/0"
    async with script_link(url) as link:
        assert await link.submit(b"1") == b"1"


async def test_user_without_cluster_commands(cluster: RedisCluster) -> None:
    """A user that may not ask the cluster for its nodes is led by redirections."""
    rights = ("reset", "on", ">p", "~*", "nocommands", "+eval", "+evalsha", "+hset", "+hsetnx", "+rpush", "+asking")
    for node in cluster.nodes:
        await command(node.port, "ACL", "SETUSER", "me", *rights)
    url = f"redis://me:p@{','.join(node.address for node in cluster.nodes)}/0"
    async with script_link(url) as link:
        assert await link.submit_all([b"1", b"2"]) == [b"1", b"2"]
        assert await appended(cluster, link) == [b"1", b"2"]


@pytest.mark.parametrize("attack", [ClusterNode.kill, ClusterNode.suspend])
async def test_promoted_node_is_found(cluster: RedisCluster, attack: object) -> None:
    """When the owner of the keys is killed or suspended, traffic goes on at its replica, and every reply is one of its data.

    The wait for the replica is the longest one: on a slow machine a shorter one ends before the replica has the data.
    """
    assert callable(attack)
    pauses = Pauses()
    async with script_link(f"{cluster.url(*cluster.nodes[:3])}?wait=1000", sleep=pauses.sleep) as link:
        async with traffic_through(link) as traffic:
            slot = slot_of(link.prefix)
            owner = await asyncio.to_thread(cluster.owner, slot)
            await asyncio.to_thread(owner.until_waits)
            attack(owner)
            await asyncio.to_thread(cluster.promoted, slot, owner)
            pauses.seconds = 0.0
            await asyncio.wait_for(traffic.more(), MAX_RECOVERY_SECONDS)
            assert pauses.seconds <= MAX_PAUSES_SECONDS
            owner.revive()
            await asyncio.to_thread(cluster.settled)
            await traffic.more()
        executed = await appended(cluster, link)
        assert set(traffic.taken) <= set(executed)
        assert len(executed) == len(set(executed))


async def test_only_the_first_node_is_configured(cluster: RedisCluster) -> None:
    """The nodes that were learnt from one configured node lead to the promoted one when that node is gone."""
    prefix = uuid4().hex
    owner = cluster.owner(slot_of(prefix))
    async with script_link(cluster.url(owner), prefix=prefix) as link:
        await link.submit(b"1")
        other = cluster.other_master(slot_of(prefix))
        await asyncio.to_thread(cluster.migrate, slot_of(prefix), other)
        await asyncio.to_thread(cluster.settled)
        assert await link.submit(b"2") == b"2"
        await asyncio.to_thread(cluster.migrate, slot_of(prefix), owner)
        await asyncio.to_thread(cluster.settled)
        assert await link.submit(b"3") == b"3"
        owner.kill()
        await asyncio.to_thread(cluster.promoted, slot_of(prefix), owner)
        async with asyncio.timeout(MAX_RECOVERY_SECONDS), traffic_through(link):
            pass


async def test_slot_that_moves_under_traffic(cluster: RedisCluster) -> None:
    """While the slot of the keys moves to another node and back, all payloads are executed once, and none is refused."""
    async with script_link(cluster.url(*cluster.nodes[:3])) as link:
        async with traffic_through(link) as traffic:
            slot = slot_of(link.prefix)
            home = await asyncio.to_thread(cluster.owner, slot)
            other = await asyncio.to_thread(cluster.other_master, slot)
            loop = asyncio.get_running_loop()

            def wait_at(step: str) -> None:
                if step in ("importing", "migrating", "all moved", "target knows"):
                    asyncio.run_coroutine_threadsafe(traffic.more(20), loop).result()

            for target in (other, home, other):
                await asyncio.to_thread(cluster.migrate, slot, target, wait_at)
                await asyncio.to_thread(cluster.settled)
            await traffic.more()
        executed = await appended(cluster, link)
        assert executed[: len(traffic.taken)] == traffic.taken
        assert traffic.failures == 0


async def test_many_payloads_while_the_slot_moves(cluster: RedisCluster) -> None:
    """Payloads in flight that are all answered by ASK are executed on the other node, in order, also where it lacks the script."""
    async with script_link(cluster.url(*cluster.nodes[:3])) as link:
        await link.submit(b"first")
        slot = slot_of(link.prefix)
        target = await asyncio.to_thread(cluster.other_master, slot)
        target.ask("SCRIPT", "FLUSH")
        loop = asyncio.get_running_loop()
        sent: list[bytes] = []

        async def submit(step: str) -> None:
            payloads = [b"%b-%d" % (step.encode(), at) for at in range(200)]
            sent.extend(payloads)
            assert await link.submit_all(payloads) == payloads

        def at_step(step: str) -> None:
            if step == "all moved":
                asyncio.run_coroutine_threadsafe(submit(step), loop).result(WAITED_SECONDS)

        await asyncio.to_thread(cluster.migrate, slot, target, at_step)
        await asyncio.to_thread(cluster.settled)
        assert await appended(cluster, link) == [b"first", *sent]


async def test_cluster_that_is_down_is_store_down(cluster: RedisCluster) -> None:
    """A slot without a living owner fails calls within the timeout; when the owner is back it is found."""
    async with script_link(cluster.url(*cluster.nodes[:3]), timeout=0.3) as link:
        await link.submit(b"1")
        slot = slot_of(link.prefix)
        owner = await asyncio.to_thread(cluster.owner, slot)
        replica = await asyncio.to_thread(cluster.replica_of, owner)
        replica.suspend()
        owner.suspend()
        with pytest.raises(StoreDown):
            await link.submit(b"2")
        owner.resume()
        replica.resume()
        async with traffic_through(link):
            pass


async def test_servers_that_are_no_cluster_are_refused() -> None:
    """A list of servers that do not know each other is refused with a remedy: each would count for itself."""
    with node_folder() as folder, redis_server(folder) as one, redis_server(folder) as other:
        async with script_link(f"redis://127.0.0.1:{one.port},127.0.0.1:{other.port}/0", timeout=0.3) as link:
            with pytest.raises(StoreDown, match="the servers of the URL are not a cluster; name one of them"):
                await link.submit(b"1")
