"""A Redis cluster of the tests: masters and replicas on free ports, with failovers and slot migrations on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from redis.crc import key_slot
from redis.exceptions import RedisError
from redis_nodes import RedisNode, is_synchronized, node_folder, node_ports, waited

SLOT_COUNT = 16_384
MIGRATE_TIMEOUT_MS = 1000
DEMOTION_SECONDS = 6.0
"""A replica gives up a failover that takes 5 seconds: its master was too busy, or the voters have voted for another node a moment ago."""
MAX_DEMOTIONS = 10
Step = Callable[[str], None]
"""Called between the steps of a migration with the name of the step that is done."""


class Row(NamedTuple):
    """What a node knows about one node of the cluster: a line of CLUSTER NODES."""

    id: str
    port: int
    flags: list[str]
    master_id: str
    slots: list[str]

    @classmethod
    def parse(cls, line: str) -> Row:
        name, address, flags, master, _, _, _, _, *slots = line.split()
        return cls(name, int(address.partition("@")[0].rpartition(":")[2]), flags.split(","), master, slots)

    def has_slot(self, slot: int) -> bool:
        """Whether it is the owner of *slot*. A slot that is being migrated is listed a second time, in brackets."""
        spans = (span.partition("-") for span in self.slots if not span.startswith("["))
        return any(int(first) <= slot <= int(last or first) for first, _, last in spans)


class ClusterNode(RedisNode):
    """One node of the cluster."""

    @property
    def id(self) -> str:
        return bytes(self.ask("CLUSTER", "MYID")).decode()

    @property
    def rows(self) -> list[Row]:
        """What it knows about all nodes."""
        return [Row.parse(line) for line in self.lines("CLUSTER", "NODES")]

    @property
    def own_row(self) -> Row:
        """What it knows about itself."""
        return next(row for row in self.rows if "myself" in row.flags)

    @property
    def is_ok(self) -> bool:
        """Whether it serves its slots."""
        return self.facts("CLUSTER", "INFO")["cluster_state"] == "ok"


class RedisCluster:
    """A running cluster. Its methods block: a test that serves calls meanwhile runs them in a thread."""

    def __init__(self, nodes: list[ClusterNode]) -> None:
        self.nodes = nodes

    def url(self, *nodes: ClusterNode) -> str:
        """Return the URL of a store that is configured with *nodes*, by default with all of them."""
        return f"redis://{','.join(node.address for node in nodes or self.nodes)}/0"

    @property
    def living(self) -> list[ClusterNode]:
        """The nodes that are neither killed nor suspended."""
        return [node for node in self.nodes if node.is_alive]

    def owner(self, slot: int) -> ClusterNode:
        """Return the living node that serves *slot*; wait for one."""
        return waited(lambda: self._owner(slot), f"no node serves slot {slot}")

    def _owner(self, slot: int) -> ClusterNode | None:
        for node in self.living:
            with suppress(RedisError, OSError):
                row = node.own_row
                if "master" in row.flags and row.has_slot(slot) and node.is_ok:
                    return node
        return None

    def other_master(self, slot: int) -> ClusterNode:
        """Return a living master that does not serve *slot*."""
        found = (node for node in self.living if "master" in node.own_row.flags and not node.own_row.has_slot(slot))
        return next(found)

    def replica_of(self, master: ClusterNode) -> ClusterNode:
        """Return a living replica of *master* that has its data; wait for one."""
        master_id = next(row.id for node in self.living for row in node.rows if row.port == master.port)

        def found() -> ClusterNode | None:
            replicas = (node for node in self.living if node.own_row.master_id == master_id)
            return next((node for node in replicas if is_synchronized(node, self.nodes)), None)

        return waited(found, f"{master.address} has no replica")

    def promoted(self, slot: int, instead_of: ClusterNode, *, seconds: float = 30.0) -> ClusterNode:
        """Wait at most *seconds* until another node than *instead_of* serves *slot*; return it. Raises `AssertionError`."""

        def found() -> ClusterNode | None:
            node = self._owner(slot)
            return None if node is instead_of else node

        return waited(found, f"no replica of {instead_of.address} was promoted", seconds=seconds)

    def demote(self, slot: int) -> tuple[ClusterNode, ClusterNode]:
        """Let the owner of *slot* and its replica change places; return the former and the new owner.

        The former one is not killed: it tells its clients that the slot has moved.
        """
        former = self.owner(slot)
        for _ in range(MAX_DEMOTIONS):
            with suppress(RedisError):  # an election of its own has promoted the replica meanwhile
                self.replica_of(former).ask("CLUSTER", "FAILOVER")
            with suppress(AssertionError):
                return former, self.promoted(slot, former, seconds=DEMOTION_SECONDS)
        raise AssertionError(f"{former.address} was not demoted")

    def restore(self) -> None:
        """Start the nodes that a test has ended, and wait until all are in order."""
        for node in self.nodes:
            if node.process is None:
                node.start()
        self.settled()

    def settled(self) -> None:
        """Wait until all nodes run, agree, and each replica has the data of its master."""

        def agree() -> bool:
            views = {tuple(sorted((row.id, tuple(row.slots)) for row in _settled(node))) for node in self.nodes}
            masters = [node for node in self.nodes if "master" in node.own_row.flags]
            replicas = [node for node in self.nodes if node not in masters]
            return (
                len(views) == 1
                and all(node.is_ok for node in self.nodes)
                and all(is_synchronized(node, masters) for node in replicas)
            )

        waited(agree, "the nodes of the cluster do not agree")

    def migrate(self, slot: int, target: ClusterNode, hook: Step | None = None) -> None:
        """Move *slot* to *target* key by key, as `redis-cli --cluster reshard` does; call *hook* between the steps.

        An error of *hook* is raised when the slot has moved: the cluster stays in order.
        """
        failures: list[BaseException] = []

        def done(step: str) -> None:
            if hook is not None and not failures:
                try:
                    hook(step)
                except BaseException as error:  # noqa: BLE001  # raised below
                    failures.append(error)

        source = self.owner(slot)
        source_id, target_id = source.id, target.id
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        done("importing")
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        done("migrating")
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, MIGRATE_TIMEOUT_MS, "KEYS", *keys)
            done(f"moved {bytes(keys[0]).decode()}")
        done("all moved")
        target.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        done("target knows")
        for node in [source, *self.living]:
            with suppress(RedisError):  # replicas refuse it; they learn it from their masters
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        done("all know")
        if failures:
            raise failures[0]


def slot_of(prefix: str = "sidecar") -> int:
    """Return the slot of all keys of a deployment with *prefix*."""
    return key_slot(f"{{{prefix}}}".encode())


def _settled(node: ClusterNode) -> list[Row]:
    """Return what *node* knows, or raise `RedisError` while it sees a node that fails."""
    rows = node.rows
    if any(flag in row.flags for row in rows for flag in ("fail", "fail?", "handshake", "noaddr")):
        raise RedisError(f"{node.address} sees a node that fails")
    return rows


@contextmanager
def redis_cluster(
    masters: int = 3, replicas: int = 1, *options: str, node_timeout_ms: int = 500
) -> Iterator[RedisCluster]:
    """Run *masters*, each with so many *replicas*, while the block lasts. *options* are passed to each server.

    The first nodes are the masters. A node whose master does not answer for *node_timeout_ms* starts an election.
    """
    with node_folder() as folder:
        nodes = [
            ClusterNode(
                port,
                folder,
                *("--cluster-enabled", "yes", "--cluster-config-file", f"{port}.conf"),
                *("--cluster-node-timeout", str(node_timeout_ms), "--cluster-replica-validity-factor", "0"),
                *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", "--loglevel", "warning"),
                *options,
            )
            for port in node_ports(masters * (1 + replicas))
        ]
        try:
            for node in nodes:
                node.start()
            cluster = RedisCluster(nodes)
            _join(cluster, masters)
            yield cluster
        finally:
            for node in nodes:
                node.stop()


def _join(cluster: RedisCluster, masters: int) -> None:
    """Make one cluster of the nodes: give slots to the masters, and each of the others a master."""
    for at, node in enumerate(cluster.nodes):
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
        if at < masters:
            first, end = at * SLOT_COUNT // masters, (at + 1) * SLOT_COUNT // masters
            node.ask("CLUSTER", "ADDSLOTS", *range(first, end))
        for other in cluster.nodes[:at]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", other.port)
    ids = [node.id for node in cluster.nodes]
    for at, node in enumerate(cluster.nodes[masters:]):
        master_id = ids[at % masters]

        def attach(node: ClusterNode = node, master_id: str = master_id) -> bool:
            return bool(node.ask("CLUSTER", "REPLICATE", master_id))

        waited(attach, f"{node.address} does not find its master")
    cluster.settled()
