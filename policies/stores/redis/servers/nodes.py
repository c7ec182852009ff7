"""The connections of one process: to the server that has the keys, and while keys move to the one that gets them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from policies.stores.batching.deadline import finish_within

from .connection import CannotConnect, connected
from .node import Node
from .replication import Replication
from .sentinel import FailoverRunning, Sentinels
from .server_advice import server_warnings
from .topology import NoAddress, Servers, Topology
from .url import Address, RedisUrl

CONNECTING_PART = 0.5
"""Part of the timeout that one connection gets where another server may take over meanwhile."""


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
        self._replication = Replication(url.wait_ms, monotonic, self._is_replaced if url.service else None)
        self._open: dict[Address, Node] = {}
        self._owner: Address | None = None
        """Where the keys are, as far as is known."""
        self._failed: Address | None = None
        """The server that failed since the last success."""

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
        node = self._open.get(address)
        if node is None or node.pipeline.is_lost:
            try:
                node = await self._connect(address)
            except CannotConnect:
                self.note_failure(address)
                raise
            for other in [each for each in self._open.values() if each.address != self._owner]:
                other.pipeline.close()
                del self._open[other.address]
            self._open[address] = node
        return node

    async def _connect(self, address: Address) -> Node:
        seconds = self._timeout * (CONNECTING_PART if self.can_move else 1)
        connection = await connected(self._url, address, seconds)
        node = Node(
            connection,
            address,
            timeout=self._timeout,
            replication=self._replication,
            monotonic=self._monotonic,
            on_idle=self._on_idle,
        )
        try:
            if self._url.service or self._url.wait_ms:
                await finish_within(seconds, node.inspect())
            if node.pipeline.is_lost:
                raise CannotConnect("closed", f"{address} closed the connection")
            if self._url.service and not node.is_primary:
                raise CannotConnect("replica", f"{address} is a replica")
        except TimeoutError as error:
            node.pipeline.close()
            message = f"{address} did not answer for {seconds:g} seconds"
            raise CannotConnect("timeout", message, seconds=seconds) from error
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

    async def _is_replaced(self, address: Address) -> bool:
        """Return whether the sentinels replace the server at *address*. Where none answers, it is not known to be so."""
        try:
            return await self._topology.find(None) != address
        except NoAddress as error:
            return isinstance(error, FailoverRunning)

    async def warnings(self) -> Sequence[str]:
        """Return what is wrong with the server that has the keys. Raises `CannotConnect` or `NoAddress`."""
        return await server_warnings(self._url, await self._topology.find(None), self._timeout)

    async def aclose(self) -> None:
        """Close all connections; what is in flight is lost."""
        await asyncio.gather(*(node.aclose() for node in self._open.values()), return_exceptions=True)
