"""Stop and move the nodes of a Redis cluster under load, and audit the counters. Print a table; exit with 1 if a rule is broken.

Three sidecars count in three masters with a replica each. In each round the master that owns the counters is killed,
suspended and demoted, and its slot is moved to another master and back, while hundreds of calls run.

Rules: each sidecar admits calls within 2 s of the promotion, or of the end of the migration. For each tenant, produced <=
spent <= limit, and nothing stays reserved once the sidecars are idle. No call stays without a complete answer.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from cluster_load import BROKEN, PROBE, UNLIMITED, Counts, Load, Tenant
from process import Program, program
from processes import many_files
from redis_cluster import RedisCluster, redis_cluster, slot_of
from redis_cluster_node import ClusterNode
from redis_server import MISSING, SERVER
from wire import upstream

from policies.api.store import Account
from policies.stores.opening import open_store

ROUNDS = int(os.environ.get("ROUNDS", "3"))
CLIENTS, SIDECARS = 240, 3
MAX_RECOVERY_SECONDS = 2.0
ABANDONED_SECONDS = 20.0
"""Seconds after which a sidecar that admits no call is taken for lost."""
CALM_SECONDS = 1.5
"""Seconds of normal load after each event."""
STEP_SECONDS, SLOW_STEPS = 0.02, 50
"""Seconds between the first steps of a slot migration, and how many they are."""
IDLE_SECONDS = 20
"""Seconds in which the sidecars must settle all calls after the load."""
LOGGED, MAX_PRINTED_WARNINGS = r" (WARNING|ERROR) (log|state) ", 12
TENANTS = [
    Tenant("large", UNLIMITED, 3),
    Tenant("small", 6_000 * ROUNDS, 2),
    Tenant("tiny", 1_500 * ROUNDS, 1),
    Tenant("rated", UNLIMITED, 2, requests=150 * ROUNDS),
    Tenant("growing", UNLIMITED, 2, ceiling=False),
    Tenant(PROBE, UNLIMITED, 0),
]


class Event(NamedTuple):
    """What one event did, in seconds: without a serving master, until each sidecar admitted calls, and of the slowest probe."""

    name: str
    outage: float
    recovery: float
    slowest: float
    statuses: Counter[int]


class Drill:
    """Breaks the cluster, and measures how soon each sidecar admits calls."""

    def __init__(self, cluster: RedisCluster, counts: Counts) -> None:
        self._cluster, self._counts, self._slot = cluster, counts, slot_of()
        self.events: list[Event] = []

    async def round(self) -> None:
        """Run each kind of event once."""
        await self._failover("kill", ClusterNode.kill, ClusterNode.start)
        await self._failover("suspend", ClusterNode.suspend, ClusterNode.resume)
        await self._failover("demote", self._demote, ClusterNode.resume)
        home = await asyncio.to_thread(self._cluster.owner, self._slot)
        other = await asyncio.to_thread(self._cluster.other_master, self._slot)
        await self._migration("migrate", other)
        await self._migration("and back", home)

    async def _failover(
        self, name: str, attack: Callable[[ClusterNode], None], repair: Callable[[ClusterNode], None]
    ) -> None:
        owner = await asyncio.to_thread(self._cluster.owner, self._slot)
        await asyncio.to_thread(self._cluster.replica_of, owner)
        await asyncio.to_thread(owner.until_waits, SIDECARS)
        before, began = self._counts.statuses.copy(), time.monotonic()
        await asyncio.to_thread(attack, owner)
        await asyncio.to_thread(self._cluster.promoted, self._slot, owner)
        promoted = time.monotonic()
        recovery = await self._recovery(promoted)
        await asyncio.to_thread(repair, owner)
        await self._end(name, promoted - began, recovery, before)

    def _demote(self, owner: ClusterNode) -> None:
        self._cluster.demote(self._slot)

    async def _migration(self, name: str, target: ClusterNode) -> None:
        steps: list[str] = []

        def pause(step: str) -> None:
            steps.append(step)
            if len(steps) < SLOW_STEPS:
                time.sleep(STEP_SECONDS)

        before, began = self._counts.statuses.copy(), time.monotonic()
        await asyncio.to_thread(self._cluster.migrate, self._slot, target, pause)
        ended = time.monotonic()
        recovery = await self._recovery(ended)
        await self._end(name, ended - began, recovery, before)

    async def _recovery(self, since: float) -> float:
        """Wait until each sidecar has sent a call to the upstream after *since*; return the longest wait in seconds."""

        def first(sidecar: int) -> float | None:
            arrivals = self._counts.arrivals[sidecar]
            return None if not arrivals or arrivals[-1] <= since else next(at for at in arrivals if at > since)

        firsts: list[float | None] = []
        while time.monotonic() < since + ABANDONED_SECONDS:
            firsts = [first(sidecar) for sidecar in range(SIDECARS)]
            if None not in firsts:
                break
            await asyncio.sleep(0.01)
        return max(float("inf") if at is None else at - since for at in firsts)

    async def _end(self, name: str, outage: float, recovery: float, before: Counter[int]) -> None:
        """Wait until the cluster is in order, and print what happened since the answers *before*."""
        await asyncio.to_thread(self._cluster.settled)
        await asyncio.sleep(CALM_SECONDS)
        event = Event(name, outage, recovery, self._counts.slowest, self._counts.statuses - before)
        self.events.append(event)
        self._counts.slowest = 0.0
        answers = ", ".join(f"{count} x {status or 'broken'}" for status, count in sorted(event.statuses.items()))
        print(f"{name:10} {outage:9.2f} {recovery:9.2f} {event.slowest:9.2f}   {answers}", flush=True)


async def accounts(url: str) -> dict[str, Account]:
    """Return the counters of the budgets, by tenant."""
    store = open_store(url, folder=Path())
    try:
        return {each.identity: each for each in await store.accounts()}
    finally:
        await store.aclose()


async def idle_accounts(url: str, seconds: float) -> dict[str, Account]:
    """Return the counters once nothing is reserved, or after *seconds*."""
    until = time.monotonic() + seconds
    found = await accounts(url)
    while any(each.reserved for each in found.values()) and time.monotonic() < until:
        await asyncio.sleep(0.5)
        found = await accounts(url)
    return found


def audited(counts: Counts, found: dict[str, Account]) -> list[str]:
    """Print one line for each tenant; return the rules that are broken."""
    print(f"\n{'tenant':10} {'calls':>7} {'at most':>13} {'produced':>10} {'spent':>10} {'limit':>13} {'reserved':>9}")
    broken = []
    for tenant in TENANTS:
        name, produced = tenant.name, counts.produced[tenant.name]
        if (account := found.get(name)) is None:
            broken.append(f"{name}: its counter is gone")
            continue
        print(
            f"{name:10} {counts.calls[name]:7} {tenant.requests:13,} {produced:10,} {account.spent:10,} {tenant.tokens:13,}"
            f" {account.reserved:9,}"
        )
        rules = {
            "more produced than spent": produced > account.spent,
            "more spent than the limit": account.spent > tenant.tokens,
            "more calls than the limit": counts.calls[name] > tenant.requests,
            "still reserved": account.reserved != 0,
            "nothing produced": produced == 0,
        }
        broken += [f"{name}: {rule}" for rule, is_broken in rules.items() if is_broken]
    return broken


def print_warnings(logs: list[Path]) -> None:
    """Print how often the sidecars logged each warning and error, without numbers and addresses."""
    lines = [line for log in logs for line in log.read_text().splitlines()]
    texts = Counter(
        re.sub(r"[0-9.:]*[0-9]", "#", line.partition(" ")[2][:200]) for line in lines if re.search(LOGGED, line)
    )
    for text, count in texts.most_common(MAX_PRINTED_WARNINGS):
        print(f"{count:6} x {text}")


async def drilled(url: str, cluster: RedisCluster, folder: Path) -> list[str]:
    """Run the load and all rounds; return the rules that are broken."""
    counts = Counts()
    logs = [folder / f"{at}.log" for at in range(SIDECARS)]
    text = f'[store]\nurl = "{url}"\n' + "".join(tenant.policies() for tenant in TENANTS)
    (folder / "s.toml").write_text(text)
    async with upstream(counts.answer) as up:
        with ExitStack() as stack:
            serve = ("serve", "--config", "s.toml", "--upstream", up.url, "--model", "m", "--port", "0")
            running: list[Program] = [stack.enter_context(program(*serve, folder=folder, log=log)) for log in logs]
            if failed := [log.read_text() for log, each in zip(logs, running, strict=True) if not each.line]:
                return [f"a sidecar did not start: {failed[0]}"]
            load = Load(counts, [each.port for each in running], TENANTS, CLIENTS)
            drill = Drill(cluster, counts)
            await asyncio.sleep(CALM_SECONDS)
            for _ in range(ROUNDS):
                await drill.round()
                up.requests.clear()
            await load.end()
            broken = audited(counts, await idle_accounts(url, IDLE_SECONDS))
            codes = [await asyncio.to_thread(each.stop) for each in running]
    broken += [
        f"{each.name}: {each.recovery:.2f} s until calls were admitted"
        for each in drill.events
        if each.recovery > MAX_RECOVERY_SECONDS
    ]
    if any(codes):
        broken.append(f"exit codes {codes}")
    if counts.statuses[BROKEN]:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in counts.failures.most_common(5))
        broken.append(f"{counts.statuses[BROKEN]} calls without a complete answer: {reasons}")
    if tracebacks := sum(log.read_text().count("Traceback") for log in logs):
        broken.append(f"{tracebacks} tracebacks in the logs")
    print(f"\n{counts.cuts} answers were cut because a reservation could not grow")
    print_warnings(logs)
    return broken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one-node", action="store_true", help="configure only the first owner of the counters")
    given = parser.parse_args()
    if SERVER is None:
        print(MISSING)
        sys.exit(0)
    many_files()
    with tempfile.TemporaryDirectory() as name, redis_cluster() as cluster:
        masters = cluster.nodes[:3]
        url = cluster.url(cluster.owner(slot_of())) if given.one_node else cluster.url(*masters)
        print(
            f"{ROUNDS} rounds, {CLIENTS} clients, {SIDECARS} sidecars; seconds without a master (of a migration: that it took),"
        )
        print(
            "seconds from the promotion (or the end of the migration) to the first admitted call of the last sidecar,"
        )
        print("seconds of the slowest call of a probe, answers to all calls")
        print(f"{'event':10} {'outage':>9} {'recovery':>9} {'slowest':>9}   answers")
        broken = asyncio.run(drilled(url, cluster, Path(name)))
    print("\n" + ("\n".join(f"BROKEN: {each}" for each in broken) or "all rules held"))
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
