"""The connections of one process: to the server that has the keys, and while keys move to the one that gets them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from redis.exceptions import RedisError

from policies.stores.batching.deadline import finish_within

from .connection import CannotConnect, asked, closed, connected
from .node import Durability, Node
from .sentinel import FailoverRunning, Sentinels
from .server_advice import server_warnings
from .topology import NoAddress, Servers, Topology
from .url import Address, RedisUrl

CONNECTING_PART = 0.5
"""Part of the timeout that one connection gets where another server may take over meanwhile."""
INSPECTION_SECONDS = 5.0
"""Time after which a server in use is asked again whether it has replicas."""


class Nodes:
    """Finds and connects nodes. *timeout* is in seconds, *on_idle* is that of each pipeline."""

    def __init__(
        self,
        url: RedisUrl,
        key: str,
        *,
        timeout: float,
        monotonic: Callable[[], float],
        on_idle: Callable[[], None],
    ) -> None:
        self._url, self._timeout, self._monotonic, self._on_idle = url, timeout, monotonic, on_idle
        self._topology: Topology = Sentinels(url) if url.service else Servers(url, key)
        self._durability = Durability(url.wait_ms, monotonic, self._is_replaced if url.service else None)
        self._open: dict[Address, Node] = {}
        self._owner: Address | None = None
        """Where the keys are, as far as is known."""
        self._failed: Address | None = None
        """The server that failed since the last success."""
        self._checks: set[asyncio.Task[None]] = set()

    @property
    def can_move(self) -> bool:
        """Whether another server can have the keys after a failure."""
        return self._topology.can_move

    async def owner(self) -> Node:
        """Return the node that has the keys, connected. Raises `CannotConnect` or `NoAddress`."""
        if self._owner is None:
            self._owner = await self._topology.find(self._failed)
        return await self.at(self._owner)

    async def at(self, address: Address) -> Node:
        """Return the node at *address*, connected. Raises `CannotConnect`."""
        if (node := self._open.get(address)) is not None:
            return node
        try:
            node = await self._connect(address)
        except CannotConnect:
            self.note_failure(address)
            raise
        for other in [each for each in self._open.values() if each.address != self._owner]:
            other.pipeline.close()
        self._open[address] = node
        return node

    async def _connect(self, address: Address) -> Node:
        seconds = self._timeout * (CONNECTING_PART if self.can_move else 1)
        connection = await connected(self._url, address, seconds)
        node = Node(
            connection,
            address,
            timeout=self._timeout,
            durability=self._durability,
            on_idle=self._on_idle,
            on_write=self._inspect_if_due,
        )
        try:
            if self._url.service or self._url.wait_ms:
                await finish_within(seconds, node.inspect())
            if node.pipeline.is_lost:
                raise CannotConnect(f"{address} closed the connection")
            if self._url.service and not node.is_primary:
                raise CannotConnect(f"{address} is a replica")
        except TimeoutError as error:
            node.pipeline.close()
            raise CannotConnect(f"{address} did not answer for {seconds:g} seconds", seconds=seconds) from error
        except BaseException:
            node.pipeline.close()
            raise
        return node

    def note_success(self) -> None:
        """Note that the owner of the keys has executed something."""
        self._failed = None

    def note_failure(self, address: Address) -> None:
        """Note that the server at *address* cannot serve the keys: another one is looked for."""
        self._owner, self._failed = None, address

    def note_move(self, address: Address) -> None:
        """Note that the keys are at *address* from now on, by the answer of a node of a cluster."""
        self._topology.moved(address)
        self._owner = address

    def close(self, address: Address) -> None:
        """Close the connection to the node at *address*."""
        if (node := self._open.get(address)) is not None:
            node.pipeline.close()

    def drop_lost(self) -> None:
        """Forget lost connections."""
        for node in [each for each in self._open.values() if each.pipeline.is_lost]:
            del self._open[node.address]

    async def _is_replaced(self, address: Address) -> bool:
        """Return whether the sentinels replace the server at *address*. Where none answers, it is not known to be so."""
        try:
            return await self._topology.find(None) != address
        except NoAddress as error:
            return isinstance(error, FailoverRunning)

    def _inspect_if_due(self, node: Node) -> None:
        """Find out in a task whether *node* has replicas, every 5 seconds while it is used."""
        now = self._monotonic()
        if self._url.wait_ms and now >= node.inspect_at:
            node.inspect_at = now + INSPECTION_SECONDS
            check = asyncio.get_running_loop().create_task(node.inspect())
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    async def warnings(self) -> Sequence[str]:
        """Return what is wrong with the server that has the keys, by a connection of its own.

        Raises `CannotConnect` or `NoAddress`.
        """
        address = await self._topology.find(None)
        connection = await connected(self._url, address, self._timeout)
        try:
            return await finish_within(self._timeout, server_warnings(partial(asked, connection), str(address)))
        except (RedisError, OSError) as error:
            raise CannotConnect(error) from error
        finally:
            await closed(connection)

    async def aclose(self) -> None:
        """Close all connections; what is in flight is lost."""
        nodes, checks = list(self._open.values()), list(self._checks)
        for check in checks:
            check.cancel()
        await asyncio.gather(*checks, *(node.aclose() for node in nodes), return_exceptions=True)
