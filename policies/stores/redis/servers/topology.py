"""Which server has the keys: the one server of the URL, or a node of a cluster.

All keys of a deployment have one hash tag, so they are in one slot, and one node at a time has all of them. While a cluster works, its
nodes say so themselves: a wrong one answers MOVED. When the node is lost, several other nodes are asked at the same time, and the
majority of their answers counts. Configured nodes are asked always, besides those that were learnt from the cluster.

The library's own `RedisCluster` is not used: each refresh takes it 23 ms of CPU (it asks for COMMAND, and lists 16,384 slots), which would
delay every stream while the cluster is polled. `CLUSTER SLOTS` takes 1.5 ms.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError

from .classification import NamedFailure
from .connection import Reply, replies_of
from .failures import causes_of
from .url import Address, RedisUrl

QUERY_SECONDS = 0.5
"""Time that a node or a sentinel gets to say where the keys are, connecting included."""
MAX_ASKED_NODES = 8
"""Most nodes that are asked at the same time; the next time others are asked."""
MAX_LEARNT_NODES = 128
"""Most nodes that are remembered beside the configured ones."""
UNKNOWN_HOSTS = ("", "?")
"""Hosts in answers of a cluster that mean the host which answered."""

View: TypeAlias = Address | RedisError | None
"""What a node says: who has the keys, that it refuses to say, or that no server has them."""
Answered = TypeVar("Answered")


class NoAddress(NamedFailure):
    """Where the keys are cannot be found out for the moment."""


class Topology(Protocol):
    """Finds the server that has the keys."""

    @property
    def can_move(self) -> bool:
        """Whether another server can have the keys after a failure."""
        ...

    async def find(self, avoid: Address | None) -> Address:
        """Return the server that has the keys. Raises `NoAddress`.

        *avoid* failed just now: it is returned only if no other is named.
        """
        ...

    def moved(self, address: Address) -> None:
        """Note that a node of a cluster named *address* as the one that has the keys."""
        ...


class Servers:
    """One server, or a cluster. *key* is any of the keys. A single server is recognised as a cluster by its first MOVED.

    *ask* returns the reply of a node to CLUSTER SLOTS, or raises `CannotConnect`; it is replaced in tests.
    """

    def __init__(self, url: RedisUrl, key: str, ask: Callable[[Address], Awaitable[Reply]] | None = None) -> None:
        self._slot = key_slot(key.encode())
        self._configured = url.nodes
        self._learnt: dict[Address, None] = {}
        self._next: deque[Address] = deque(url.nodes)
        """The nodes in the order in which they are asked."""
        self._ask = ask or partial(_slots_of, url)
        self.can_move = len(url.nodes) > 1

    def moved(self, address: Address) -> None:
        """See `Topology`."""
        self.can_move = True
        self._learn([address])

    async def find(self, avoid: Address | None) -> Address:
        """See `Topology`."""
        if not self.can_move:
            return self._configured[0]
        nodes = [self._next[at] for at in range(min(len(self._next), MAX_ASKED_NODES))]
        self._next.rotate(-len(nodes))
        views = await views_of({node: self._view_of(node) for node in nodes})
        owners = Counter(view for view in views.values() if isinstance(view, Address))
        if owners:
            return best_of(owners, avoid)
        refusals = {node: view for node, view in views.items() if isinstance(view, ResponseError)}
        if any("cluster support disabled" in str(view) for view in refusals.values()):
            raise NoAddress("not_a_cluster", "each of several servers would count for itself")
        if refusals:
            return next(
                iter(refusals)
            )  # its user may not use CLUSTER; a script that is sent there is answered by MOVED
        if None in views.values():
            raise NoAddress("cluster_down", f"no node serves the slot {self._slot} of the keys")
        causes = causes_of(view for view in views.values() if isinstance(view, Exception))
        raise NoAddress("cluster_unreachable", f"{len(nodes)} were asked: {causes}")

    async def _view_of(self, node: Address) -> View:
        """Return the owner of the slot as *node* knows it, and learn all nodes that it names."""
        reply = await self._ask(node)
        if isinstance(reply, RedisError):
            return reply
        found: list[Address] = []
        owner = None
        for first, last, *servers in reply:
            addresses = [_address(server, node) for server in servers]
            found += addresses
            if first <= self._slot <= last and addresses:
                owner = addresses[0]
        self._learn(found)
        return owner

    def _learn(self, nodes: Sequence[Address]) -> None:
        """Remember *nodes*; the oldest of too many are forgotten, but none that is configured."""
        for node in nodes:
            if node not in self._configured:
                self._learnt.pop(node, None)
                self._learnt[node] = None
        while len(self._learnt) > MAX_LEARNT_NODES:
            del self._learnt[next(iter(self._learnt))]
        known = (*self._configured, *self._learnt)
        if set(known) != set(self._next):
            self._next = deque(known)


def best_of(votes: Counter[Address], avoid: Address | None) -> Address:
    """Return the address with the most *votes*; *avoid* only if it is the only one."""
    return max(votes, key=lambda address: (address != avoid, votes[address]))


async def views_of(asking: Mapping[Address, Coroutine[Any, Any, Answered]]) -> dict[Address, Answered | Exception]:
    """Return what each node says, or why it does not answer. More than half of the same addresses are enough."""
    tasks = {asyncio.ensure_future(coroutine): node for node, coroutine in asking.items()}
    views: dict[Address, Answered | Exception] = {}
    waiting = set(tasks)
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                try:
                    views[tasks[task]] = task.result()
                except Exception as error:  # noqa: BLE001  # a server of another kind may answer anything
                    views[tasks[task]] = error
            owners = Counter(view for view in views.values() if isinstance(view, Address))
            if owners and max(owners.values()) * 2 > len(tasks):
                break
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return views


async def _slots_of(url: RedisUrl, address: Address) -> Reply:
    """Return the reply of a node to CLUSTER SLOTS. Raises `CannotConnect`."""
    (reply,) = await replies_of(url, address, QUERY_SECONDS, ("CLUSTER", "SLOTS"))
    return reply


def _address(server: Sequence[Reply], node: Address) -> Address:
    """Return the address of one server in the reply of *node* to CLUSTER SLOTS."""
    host = "" if server[0] is None else bytes(server[0]).decode()
    return Address(node.host if host in UNKNOWN_HOSTS else host, int(server[1]))
