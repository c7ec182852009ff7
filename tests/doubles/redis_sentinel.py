"""A Redis primary with a replica, and sentinels that watch them, on free ports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis_nodes import RedisNode, is_synchronized, node_folder, node_ports, waited
from redis_server import SERVER

SERVICE = "counters"
"""The name of the primary at the sentinels."""
QUORUM = 2
DOWN_AFTER_MS = 500
FAILOVER_TIMEOUT_MS = 1500
"""Of one failover. A sentinel does not start another one for twice as long."""
DEBUG_PERIODS_MS = {"INFO-PERIOD": 300, "PUBLISH-PERIOD": 200}
"""Intervals of the sentinels: the defaults are 10 s and 2 s."""
OPTIONS = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", "--loglevel", "warning")


class SentinelNode(RedisNode):
    """One sentinel. It rewrites its configuration file, so it knows the primary when it is killed and started again."""

    def __init__(self, port: int, folder: Path, primary: RedisNode) -> None:
        super().__init__(port, folder)
        assert SERVER is not None
        path = folder / f"sentinel-{port}.conf"
        path.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\nloglevel warning\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} {QUORUM}\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_MS}\n"
        )
        self._command = [SERVER, str(path), "--sentinel"]

    def start(self) -> None:
        super().start()
        for name, milliseconds in DEBUG_PERIODS_MS.items():
            self.ask("SENTINEL", "DEBUG", name, milliseconds)

    @property
    def named_port(self) -> int:
        """The port of the primary as it tells clients."""
        _, port = self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(port)

    @property
    def known(self) -> tuple[int, int]:
        """How many replicas and other sentinels it knows."""
        replies = [self.ask("SENTINEL", each, SERVICE) for each in ("REPLICAS", "SENTINELS")]
        return len(replies[0]), len(replies[1])


class RedisSentinels:
    """The running servers. Its methods block: a test that serves calls meanwhile runs them in a thread."""

    def __init__(self, servers: list[RedisNode], sentinels: list[SentinelNode]) -> None:
        self.servers, self.sentinels = servers, sentinels

    @property
    def url(self) -> str:
        """The URL of a store that is configured with all sentinels."""
        return f"redis+sentinel://{','.join(node.address for node in self.sentinels)}/{SERVICE}/0"

    @property
    def primary(self) -> RedisNode:
        """The living server that is the primary for a majority of the sentinels and for itself; wait for it."""
        return waited(self._primary, "the sentinels name no primary")

    def _primary(self) -> RedisNode | None:
        ports = [each.named_port for each in self.sentinels if each.is_alive]
        agreed = [node for node in self.servers if ports.count(node.port) * 2 > len(self.sentinels) and node.is_alive]
        return next((node for node in agreed if node.facts("INFO", "replication")["role"] == "master"), None)

    def promoted(self, instead_of: RedisNode) -> RedisNode:
        """Wait until another server than *instead_of* is the primary; return it."""

        def found() -> RedisNode | None:
            node = self._primary()
            return None if node is instead_of else node

        return waited(found, f"no replica of {instead_of.address} was promoted")

    def demote(self) -> tuple[RedisNode, RedisNode]:
        """Let primary and replica change places; return the former and the new primary.

        The former one is not killed: it becomes a replica, and refuses writes with READONLY.
        """
        former = self.primary
        # A sentinel refuses it while it remembers a failover.
        waited(lambda: bool(self.sentinels[-1].ask("SENTINEL", "FAILOVER", SERVICE)), "the sentinels refuse a failover")
        new = self.promoted(former)
        waited(lambda: is_synchronized(former, self.servers), f"{former.address} did not become a replica")
        return former, new

    def restore(self) -> None:
        """Start the nodes that a test has ended, and wait until all are in order."""
        for node in (*self.servers, *self.sentinels):
            if node.process is None:
                node.start()
        self.settled()

    def settled(self) -> None:
        """Wait until all servers run and know each other, and the replica has the data of the primary."""

        def agree() -> bool:
            primary = self._primary()
            others = (len(self.servers) - 1, len(self.sentinels) - 1)
            return (
                primary is not None
                and all(each.known == others for each in self.sentinels)
                and all(is_synchronized(node, [primary]) for node in self.servers if node is not primary)
            )

        waited(agree, "the sentinels do not agree")


@contextmanager
def redis_sentinels(sentinels: int = 3) -> Iterator[RedisSentinels]:
    """Run a primary, a replica and *sentinels* while the block lasts."""
    with node_folder() as folder:
        ports = node_ports(2 + sentinels)
        primary = RedisNode(ports[0], folder, *OPTIONS)
        replica = RedisNode(ports[1], folder, *OPTIONS, "--replicaof", "127.0.0.1", str(primary.port))
        watching = [SentinelNode(port, folder, primary) for port in ports[2:]]
        try:
            for node in (primary, replica):
                node.start()
            waited(lambda: is_synchronized(replica, [primary]), "the replica does not get the data")
            for sentinel in watching:
                sentinel.start()
            running = RedisSentinels([primary, replica], watching)
            running.settled()
            yield running
        finally:
            for node in (*watching, primary, replica):
                node.stop()
