"""A Redis cluster of the tests: masters and replicas on free ports, with failovers and slot migrations on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from redis.crc import key_slot
from redis.exceptions import RedisError
from redis_cluster_node import CALM_TIMEOUT_MS, ClusterNode, Row
from redis_nodes import WAITED_SECONDS, is_synchronized, node_folder, waited
from redis_server import free_ports

SLOT_COUNT = 16_384
MIGRATE_TIMEOUT_MS = 1_000
DETECTION_TIMEOUT_MS = 500
"""Time without an answer after which nodes suspect each other while a failover is wanted; see `CALM_TIMEOUT_MS` for other times."""
DEMOTION_SECONDS = 5.5
"""A replica gives up a failover that takes 5 seconds, for example if its master is too busy."""
MAX_DEMOTIONS = 20
SETTLING_SECONDS = 30.0
"""After this time without agreement a cluster is built anew before the next test."""
Step = Callable[[str], None]
"""Called between the steps of a migration with the name of the step that is done."""


class RedisCluster:
    """A running cluster. Its methods block: a test that serves calls meanwhile runs them in a thread.

    The first *masters* of the *nodes* are the masters at first.
    """

    def __init__(self, nodes: list[ClusterNode], masters: int) -> None:
        self.nodes, self._masters = nodes, masters

    def url(self, *nodes: ClusterNode) -> str:
        """Return the URL of a store that is configured with *nodes*, by default with all of them."""
        return f"redis://{','.join(node.address for node in nodes or self.nodes)}/0"

    @property
    def living(self) -> list[ClusterNode]:
        """The nodes that are neither killed nor suspended."""
        return [node for node in self.nodes if node.is_alive]

    def owner(self, slot: int) -> ClusterNode:
        """Return the living node that serves *slot*; wait for one."""
        return waited(lambda: self._owner(slot), f"no node serves slot {slot}", seen=lambda: self.described)

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

        return waited(found, f"{master.address} has no replica", seen=lambda: self.described)

    def promoted(self, slot: int, instead_of: ClusterNode) -> ClusterNode:
        """Wait until another node than *instead_of* serves *slot*; return it.

        The nodes suspect each other early meanwhile, and only then: call it when the failure has happened.
        """
        with self._early_detection():
            return self._promoted(slot, instead_of, WAITED_SECONDS)

    def _promoted(self, slot: int, instead_of: ClusterNode, seconds: float) -> ClusterNode:
        def found() -> ClusterNode | None:
            node = self._owner(slot)
            return None if node is instead_of else node

        text = f"no replica of {instead_of.address} was promoted"
        return waited(found, text, seconds=seconds, seen=lambda: self.described)

    @contextmanager
    def _early_detection(self) -> Iterator[None]:
        self._set_node_timeout(DETECTION_TIMEOUT_MS)
        try:
            yield
        finally:
            self._set_node_timeout(CALM_TIMEOUT_MS)

    def _set_node_timeout(self, milliseconds: int) -> None:
        for node in self.living:
            with suppress(RedisError, OSError):
                node.ask("CONFIG", "SET", "cluster-node-timeout", milliseconds)

    def demote(self, slot: int) -> tuple[ClusterNode, ClusterNode]:
        """Let the owner of *slot* and its replica change places; return the former and the new owner.

        The former one is not killed: it tells its clients that the slot has moved.
        """
        former = self.owner(slot)
        replica = self.replica_of(former)
        with self._early_detection():  # nodes also send pings more often, and voters vote again sooner
            waited(
                lambda: self._is_known(replica, former.id),
                f"{replica.address} is not known as a replica of {former.address}",
                seen=lambda: self.described,
            )
            for _ in range(MAX_DEMOTIONS):
                with suppress(RedisError, OSError):  # it may have been promoted a moment ago
                    replica.ask("CLUSTER", "FAILOVER")
                with suppress(AssertionError):
                    return former, self._promoted(slot, former, DEMOTION_SECONDS)
        raise AssertionError(f"{former.address} was not demoted; seen: {self.described}")

    def _is_known(self, replica: ClusterNode, master_id: str) -> bool:
        """Return whether all living nodes know that *replica* has this master.

        Before, a master ignores the request of its replica for a failover, and voters refuse to vote for it.
        """
        return all(
            (replica.port, master_id) in [(row.port, row.master_id) for row in node.rows] for node in self.living
        )

    def restore(self) -> None:
        """Let all nodes run that a test has ended or suspended, and wait until all are in order.

        A cluster that a failed test has left in disorder is built anew, so that the next test can pass.
        """
        try:
            for node in self.nodes:
                node.revive()
            self.settled(seconds=SETTLING_SECONDS)
        except AssertionError:
            self.build()

    def build(self) -> None:
        """Start all nodes without what they knew, and join them."""
        for node in self.nodes:
            node.stop()
            node.forget()
            node.start()
        self._join()

    def _join(self) -> None:
        """Make one cluster of the nodes: give slots to the masters, and each of the others a master."""
        masters = self._masters
        for at, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            if at < masters:
                first, end = at * SLOT_COUNT // masters, (at + 1) * SLOT_COUNT // masters
                node.ask("CLUSTER", "ADDSLOTS", *range(first, end))
            for other in self.nodes[:at]:
                node.ask("CLUSTER", "MEET", "127.0.0.1", other.port)
        ids = [node.id for node in self.nodes]
        for at, node in enumerate(self.nodes[masters:]):
            master_id = ids[at % masters]

            def attach(node: ClusterNode = node, master_id: str = master_id) -> bool:
                return bool(node.ask("CLUSTER", "REPLICATE", master_id))

            waited(attach, f"{node.address} does not find its master", seen=lambda: self.described)
        self.settled()

    def settled(self, *, seconds: float = WAITED_SECONDS) -> None:
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

        waited(agree, "the nodes of the cluster do not agree", seconds=seconds, seen=lambda: self.described)

    @property
    def described(self) -> str:
        """What each node knows, and the end of its log, for the message of a failure."""
        return "\n".join(f"{node.address}: {node.described}\n{node.logged}" for node in self.nodes)

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
            # A busy target may not answer in time. Then the key is still served by the source, and a copy of it is replaced.
            move = ("MIGRATE", "127.0.0.1", target.port, "", 0, MIGRATE_TIMEOUT_MS, "REPLACE", "KEYS", *keys)
            waited(partial(source.ask, *move), f"{keys} cannot be moved to {target.address}")
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
def redis_cluster(masters: int = 3, replicas: int = 1, *options: str) -> Iterator[RedisCluster]:
    """Run *masters*, each with so many *replicas*, while the block lasts. *options* are passed to each server."""
    with node_folder() as folder:
        nodes = [ClusterNode(port, folder, *options) for port in free_ports(masters * (1 + replicas))]
        cluster = RedisCluster(nodes, masters)
        try:
            cluster.build()
            yield cluster
        finally:
            for node in nodes:
                node.stop()
