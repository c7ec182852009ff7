"""One node of a Redis cluster of the tests, and what it knows about the others."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from redis.exceptions import RedisError
from redis_nodes import REPLICATION_OPTIONS, RedisNode

CALM_TIMEOUT_MS = 6_000
"""Time without an answer after which nodes suspect each other while no failover is wanted. A busy machine does not reach it by
accident. An accidental failover may forget writes that no replica had acknowledged, and no client can prevent that."""


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

    def __init__(self, port: int, folder: Path, *options: str) -> None:
        self._config = folder / f"{port}.conf"
        super().__init__(
            port,
            folder,
            *("--cluster-enabled", "yes", "--cluster-config-file", self._config.name),
            *("--cluster-node-timeout", str(CALM_TIMEOUT_MS), "--cluster-replica-validity-factor", "0"),
            *REPLICATION_OPTIONS,
            *options,
        )

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

    @property
    def described(self) -> str:
        """What it knows about all nodes, or why it does not say so."""
        if not self.is_alive:
            return "suspended" if self.is_suspended else "not running"
        try:
            return "\n".join(self.lines("CLUSTER", "NODES"))
        except (RedisError, OSError) as error:
            return repr(error)

    def forget(self) -> None:
        """Remove its file of what it knows about the cluster, while it does not run."""
        self._config.unlink(missing_ok=True)
