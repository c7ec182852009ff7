"""A Redis primary with a replica, and sentinels that watch them, on free ports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from redis.exceptions import RedisError
from redis_nodes import REPLICATION_OPTIONS, WAITED_SECONDS, RedisNode, is_synchronized, node_folder, waited
from redis_server import SERVER, free_ports

SERVICE = "counters"
"""The name of the primary at the sentinels."""
QUORUM = 2
CALM_DOWN_AFTER_MS = 6_000
"""Time without an answer after which a server is down while no failover is wanted. A busy machine does not reach it by accident.
An accidental failover may forget writes that no replica had acknowledged, and no client can prevent that."""
DOWN_AFTER_MS = 500
"""The same while a failover is wanted."""
FAILOVER_TIMEOUT_MS = 2_000
"""Of one failover. A sentinel does not start another one for twice as long."""
DEMOTION_TIMEOUT_MS = 60_000
"""The same for one that the test asks for. A sentinel that gives it up may have promoted the replica already: then there are two
primaries, and the next failover forgets what the first one has counted."""
SETTLING_SECONDS = 30.0
"""After this time without agreement the servers are started anew before the next test."""
DEBUG_PERIODS_MS = {"INFO-PERIOD": 300, "TILT-PERIOD": 1_000}
"""Intervals of the sentinels: the default of the first one is 10 s. A sentinel that stood still for 2 s does nothing for the second
one, by default for 30 s."""
CALM_PUBLISH_MS, FAILOVER_PUBLISH_MS = 200, 2_000
"""Intervals of their messages to each other. After four of them without news a sentinel makes a replica of any other primary: soon
of a former one that starts again, but not of a promoted one before its promotion is announced."""


class SentinelNode(RedisNode):
    """One sentinel. It rewrites its configuration file, so it knows the primary when it is killed and started again."""

    def __init__(self, port: int, folder: Path, primary: RedisNode) -> None:
        super().__init__(port, folder)
        assert SERVER is not None
        self._config, self._first_primary = folder / f"sentinel-{port}.conf", primary
        self._command = [SERVER, str(self._config), "--sentinel"]
        self.forget()

    def forget(self) -> None:
        """Let it know nothing but the first primary, while it does not run."""
        self._config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self._config.parent}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._first_primary.port} {QUORUM}\n"
            f"sentinel down-after-milliseconds {SERVICE} {CALM_DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_MS}\n"
        )

    def start(self) -> None:
        super().start()
        for name, milliseconds in (DEBUG_PERIODS_MS | {"PUBLISH-PERIOD": CALM_PUBLISH_MS}).items():
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
        return waited(self._primary, "the sentinels name no primary", seen=lambda: self.described)

    def _primary(self) -> RedisNode | None:
        ports = [each.named_port for each in self._living]
        agreed = [node for node in self.servers if ports.count(node.port) * 2 > len(self.sentinels) and node.is_alive]
        return next((node for node in agreed if node.facts("INFO", "replication")["role"] == "master"), None)

    def promoted(self, instead_of: RedisNode) -> RedisNode:
        """Wait until another server than *instead_of* is the primary for all living sentinels; return it.

        The sentinels take servers for down early meanwhile, and only then: call it when the failure has happened.
        """
        with self._failing_over("down-after-milliseconds", DOWN_AFTER_MS, CALM_DOWN_AFTER_MS):
            text = f"no replica of {instead_of.address} was promoted"
            return waited(lambda: self._successor(instead_of), text, seen=lambda: self.described)

    def _successor(self, former: RedisNode) -> RedisNode | None:
        """Return the primary for all living sentinels, if it is not *former*."""
        node = self._primary()
        if node is None or node is former or {each.named_port for each in self._living} != {node.port}:
            return None
        return node

    @contextmanager
    def _failing_over(self, name: str, meanwhile: int, afterwards: int) -> Iterator[None]:
        """Change the setting *name* of the sentinels while a failover is wanted."""
        self._ask_all("SENTINEL", "DEBUG", "PUBLISH-PERIOD", FAILOVER_PUBLISH_MS)
        self._ask_all("SENTINEL", "SET", SERVICE, name, meanwhile)
        try:
            yield
        finally:
            self._ask_all("SENTINEL", "SET", SERVICE, name, afterwards)
            self._ask_all("SENTINEL", "DEBUG", "PUBLISH-PERIOD", CALM_PUBLISH_MS)

    @property
    def _living(self) -> list[SentinelNode]:
        return [each for each in self.sentinels if each.is_alive]

    def _ask_all(self, *command: str | int) -> None:
        for sentinel in self._living:
            waited(lambda sentinel=sentinel: sentinel.ask(*command), f"{sentinel.address} does not answer")  # type: ignore[misc]  # the type of a lambda

    def demote(self) -> tuple[RedisNode, RedisNode]:
        """Let primary and replica change places; return the former and the new primary.

        The former one is not killed: it becomes a replica, and refuses writes with READONLY.
        """
        former, leader = self.primary, self.sentinels[-1]

        def found() -> RedisNode | None:
            if (
                leader.named_port == former.port
            ):  # a sentinel refuses it during another failover, and may find no good replica
                with suppress(RedisError):
                    leader.ask("SENTINEL", "FAILOVER", SERVICE)
            return self._successor(former)

        with self._failing_over("failover-timeout", DEMOTION_TIMEOUT_MS, FAILOVER_TIMEOUT_MS):
            new = waited(found, f"{former.address} was not demoted", seen=lambda: self.described)
        waited(
            lambda: is_synchronized(former, self.servers),
            f"{former.address} did not become a replica",
            seen=lambda: self.described,
        )
        return former, new

    def restore(self) -> None:
        """Let all servers run that a test has ended or suspended, and wait until all are in order.

        Servers that a failed test has left in disorder are started anew, so that the next test can pass.
        """
        try:
            for node in (*self.servers, *self.sentinels):
                node.revive()
            self.settled(seconds=SETTLING_SECONDS)
        except AssertionError:
            self.build()

    def build(self) -> None:
        """Start all servers without what they knew, and wait until all are in order."""
        self.stop()
        for server in self.servers:
            server.start()
        primary, *replicas = self.servers
        for replica in replicas:
            waited(partial(is_synchronized, replica, [primary]), f"{replica.address} does not get the data")
        for sentinel in self.sentinels:
            sentinel.forget()
            sentinel.start()
        self.settled()

    def stop(self) -> None:
        """End all servers."""
        for node in (*self.sentinels, *self.servers):
            node.stop()

    def settled(self, *, seconds: float = WAITED_SECONDS) -> None:
        """Wait until all servers run and know each other, and the replica has the data of the primary."""

        def agree() -> bool:
            primary = self._primary()
            others = (len(self.servers) - 1, len(self.sentinels) - 1)
            return (
                primary is not None
                and all(each.known == others for each in self.sentinels)
                and all(is_synchronized(node, [primary]) for node in self.servers if node is not primary)
            )

        waited(agree, "the sentinels do not agree", seconds=seconds, seen=lambda: self.described)

    @property
    def described(self) -> str:
        """The end of the log of each server, for the message of a failure."""
        nodes = (*self.servers, *self.sentinels)
        return "\n".join(f"{node.address}, running: {node.is_alive}\n{node.logged}" for node in nodes)


@contextmanager
def redis_sentinels(sentinels: int = 3) -> Iterator[RedisSentinels]:
    """Run a primary, a replica and *sentinels* while the block lasts."""
    with node_folder() as folder:
        ports = free_ports(2 + sentinels)
        primary = RedisNode(ports[0], folder, *REPLICATION_OPTIONS)
        replica = RedisNode(ports[1], folder, *REPLICATION_OPTIONS, "--replicaof", "127.0.0.1", str(primary.port))
        running = RedisSentinels([primary, replica], [SentinelNode(port, folder, primary) for port in ports[2:]])
        try:
            running.build()
            yield running
        finally:
            running.stop()
