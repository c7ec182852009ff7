"""Which node of a cluster the link asks and believes: configured and learnt ones, majorities, and hosts that are not named."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import NoPermissionError, ResponseError

from policies.stores.redis.servers.connection import CannotConnect
from policies.stores.redis.servers.sentinel import FailoverRunning, Sentinels, SentinelView
from policies.stores.redis.servers.topology import MAX_ASKED_NODES, MAX_LEARNT_NODES, NoAddress, Servers
from policies.stores.redis.servers.url import Address, RedisUrl

pytestmark = pytest.mark.anyio

A, B, C, D = (Address(name, 7000) for name in "abcd")
SLOT = key_slot(b"{p}")


def slots(*servers: Address | None, other: Address = C) -> list[Any]:
    """Return a reply to CLUSTER SLOTS in which *servers* have the slot, and *other* has all others."""
    named = [[each.host.encode(), each.port, b"id"] for each in servers if each is not None]
    spans = [
        [0, SLOT - 1, [other.host.encode(), other.port, b"id"]],
        [SLOT + 1, 16_383, [other.host.encode(), other.port]],
    ]
    return [*spans, [SLOT, SLOT, *named]] if named else spans


class Cluster:
    """What each node answers: a reply, an error, or nothing for ever (None)."""

    def __init__(self, **replies: Any) -> None:
        self.replies = replies
        self.asked: list[Address] = []

    async def ask(self, address: Address) -> Any:
        self.asked.append(address)
        reply = self.replies.get(address.host, CannotConnect("refused", "no such node"))
        if reply is None:
            await asyncio.Event().wait()
        if isinstance(reply, CannotConnect):
            raise reply
        return reply


def servers(cluster: Cluster, *nodes: Address) -> Servers:
    return Servers(RedisUrl.parse(f"redis://{','.join(map(str, nodes))}/0"), "{p}:c", cluster.ask)


async def test_single_server_is_not_asked() -> None:
    """A single server is used without a question, until one of its answers shows that it belongs to a cluster."""
    cluster = Cluster(a=slots(B), b=slots(B))
    found = servers(cluster, A)
    assert (await found.find(None), found.can_move, cluster.asked) == (A, False, [])
    found.moved(B)
    assert (await found.find(None), found.can_move) == (B, True)


async def test_majority_is_believed() -> None:
    """Of different answers the more frequent one counts, and nodes that are silent are not waited for."""
    cluster = Cluster(a=slots(D), b=slots(A), c=slots(D), d=None, e=None)
    assert await servers(cluster, A, B, C).find(None) == D
    cluster = Cluster(a=slots(B), b=slots(B), c=None)
    assert await servers(cluster, A, B, C).find(None) == B


async def test_failed_owner_is_named_last() -> None:
    """A node that failed just now is used only if no other is named."""
    cluster = Cluster(a=slots(A), b=slots(A), c=slots(D))
    assert await servers(cluster, B, C).find(A) == D
    assert await servers(Cluster(a=slots(A), b=slots(A)), A, B).find(A) == A


async def test_configured_nodes_are_always_asked() -> None:
    """Configured nodes are asked again and again beside the nodes that were learnt, in turn, and a few at a time."""
    learnt = [Address(f"n{at}", 1) for at in range(40)]
    cluster = Cluster(a=slots(D, *learnt), **{node.host: slots(D) for node in learnt})
    found = servers(cluster, A, B)
    await found.find(None)
    for _ in range(12):
        before = len(cluster.asked)
        await found.find(None)
        assert len(cluster.asked) - before <= MAX_ASKED_NODES
    assert cluster.asked.count(A) > 1
    assert cluster.asked.count(B) > 1
    assert set(learnt) <= set(cluster.asked)


async def test_learnt_nodes_are_bounded() -> None:
    """Any number of nodes that a cluster names over time leaves a bounded number of them, and the configured ones."""
    cluster = Cluster()
    found = servers(cluster, A, B)
    for at in range(500):
        found.moved(Address(f"n{at}", 1))
    for _ in range(100):
        with pytest.raises(NoAddress, match="were asked: "):
            await found.find(None)
    assert len(set(cluster.asked)) == MAX_LEARNT_NODES + 2
    assert {A, B} <= set(cluster.asked)


@pytest.mark.parametrize("host", [b"", b"?", None])
async def test_host_that_is_not_named(host: bytes | None) -> None:
    """A node that does not know its own host means the one that was asked."""
    cluster = Cluster(a=[[0, 16_383, [host, 7001, b"id"]]])
    assert await servers(cluster, A, B).find(None) == Address("a", 7001)


async def test_slot_without_an_owner() -> None:
    """Where no node has the slot, the error names it."""
    with pytest.raises(NoAddress, match=f"no node serves the slot {SLOT}"):
        await servers(Cluster(a=slots(None), b=slots(None)), A, B).find(None)


async def test_users_that_may_not_ask() -> None:
    """Where the user may not ask for the slots, any node that answers is used: it redirects scripts."""
    refusal = NoPermissionError("this user has no permissions to run the 'cluster|slots' command")
    assert await servers(Cluster(b=refusal), A, B).find(None) == B


async def test_servers_without_cluster_mode() -> None:
    """Several servers that are no cluster are an error of the configuration."""
    refusal = ResponseError("This instance has cluster support disabled")
    with pytest.raises(NoAddress) as raised:
        await servers(Cluster(a=refusal, b=refusal), A, B).find(None)
    assert raised.value.failure == "not_a_cluster"


class Watching:
    """What each sentinel says; those without a view do not answer."""

    def __init__(self, **views: SentinelView) -> None:
        self.views = views

    async def ask(self, address: Address) -> SentinelView:
        if address.host not in self.views:
            raise CannotConnect("unknown", "no such sentinel")
        return self.views[address.host]


def sentinels(**views: SentinelView) -> Sentinels:
    return Sentinels(RedisUrl.parse("redis+sentinel://a:7000,b:7000,c:7000/name"), Watching(**views).ask)


def view(named: Address, *, watched: Address | None = None, leads: bool = False, epoch: int = 1) -> SentinelView:
    return SentinelView(named, watched or named, leads, epoch)


async def test_majority_of_sentinels() -> None:
    """The primary that most sentinels name is used; one that failed just now only if no other is named."""
    assert await sentinels(a=view(A), b=view(B), c=view(B)).find(None) == B
    assert await sentinels(a=view(A), b=view(B), c=view(B)).find(B) == A
    assert await sentinels(c=view(C)).find(C) == C


async def test_sentinel_that_leads_a_failover() -> None:
    """During a failover there is no primary until the sentinel that leads it names the promoted one."""
    with pytest.raises(FailoverRunning, match="a:7000"):
        await sentinels(a=view(A), b=view(A, leads=True), c=view(A)).find(None)
    assert await sentinels(a=view(A), b=view(D, watched=A, leads=True), c=view(A)).find(None) == D


async def test_newest_configuration_of_sentinels() -> None:
    """After a failover the promoted server is used while only one sentinel knows it, also if it failed just now.

    What the former primary executes is lost, so a WAIT without an acknowledgement there must not count as a success.
    """
    found = sentinels(a=view(A), b=view(A), c=view(B, epoch=2))
    assert await found.find(None) == B
    assert await found.find(B) == B


async def test_sentinel_that_was_not_elected() -> None:
    """A sentinel that wanted to lead the failover, and has not heard yet that another one has ended it, delays nothing."""
    assert await sentinels(a=view(A, leads=True), b=view(B, epoch=2), c=view(A)).find(None) == B
    promoted = view(B, watched=A, leads=True, epoch=2)
    assert await sentinels(a=view(A, leads=True), b=promoted, c=view(A)).find(None) == B


async def test_failover_that_ends_between_two_questions() -> None:
    """The address beside the flags of a sentinel counts: it was asked for the other one before."""
    assert await sentinels(a=view(A, watched=B, epoch=2)).find(None) == B


async def test_no_sentinel_answers() -> None:
    """The error names the primary that was asked for."""
    with pytest.raises(NoAddress, match="3 were asked for 'name': no such sentinel"):
        await sentinels().find(None)
