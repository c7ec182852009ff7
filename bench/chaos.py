"""Run three sidecars on one SQLite file under load while processes are killed and suspended and the file is locked.

Then audit each tenant: produced <= spent <= limit, nothing is reserved, and no span of the rate's window has more calls than
its limit. Faults are chosen at random from SEED: SIGKILL and a restart, SIGSTOP (at least once
for 33 seconds, so that the process counts as dead) and SIGCONT, and a program that locks the file for 5 seconds. SECONDS is
the duration of the load, CLIENTS the number of concurrent clients. The exit code is 1 if a rule is broken.

`explained` is the most that the calls may have cost: what upstream produced for those that ended, and the reservation of
those whose process was killed. The clients of the tenant `patient` use a process that is suspended and never killed, so
they pay exactly what upstream produced. The fullest span has two counts: calls that were sent and arrived within it,
which is the rule, and in parentheses those that arrived within it, some of them after a delay.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from api_keys import key
from chaos_audit import ANSWER_STEP, BOUND_ANSWER, Counted, Row, print_table, row_of
from chaos_faults import SUSPENDED_SECONDS, Faults, Node
from chaos_load import CountingUpstream, Load, Tenant
from process import ran
from processes import many_files
from wire import Client, upstream

SECONDS = float(os.environ.get("SECONDS", "120"))
SEED = int(os.environ.get("SEED") or time.time())
CLIENTS = int(os.environ.get("CLIENTS", "240"))
NODES = 3
RATE, WINDOW_SECONDS = 80, 10.0
TOKENS_PER_SECOND = {"small": 80, "middle": 200, "large": 500}
"""The monthly limits, as tokens for each second of the load: two are reached, one is not."""
GROWING = Tenant("growing", 100_000_000, grows=True)
PATIENT = Tenant("patient", 100_000_000, is_patient=True)
DEAD_SECONDS = 90.0
"""Time within which the reservations of killed processes must be charged after the load."""
LEAST_SECONDS = 10.0
CONFIG = """
[store]
url = "sqlite:///s.db"
[[upstream]]
base_url = "{url}"
[[policy]]
use = "rate"
requests = {rate}
window = {window}
when_store_fails = "refuse"
[[policy]]
use = "budget"
name = "minute"
only = {{ tenant = ["small", "middle", "large"] }}
tokens = 40_000
window = "minute"
floor = 1
reserve = "bound"
[[policy]]
use = "budget"
name = "growing"
only = {{ tenant = "growing" }}
tokens = {growing}
window = "month"
reserve = "estimate"
answer = {answer}
"""
BUDGET = """
[[policy]]
use = "budget"
name = "{name}"
only = {{ tenant = "{name}" }}
tokens = {tokens}
window = "month"
floor = 1
answer = {answer}
reserve = "bound"
"""


def configuration(url: str, tenants: list[Tenant]) -> str:
    """Return the configuration of all processes, with a monthly budget and a key for each tenant."""
    text = CONFIG.format(url=url, rate=RATE, window=WINDOW_SECONDS, growing=GROWING.tokens, answer=ANSWER_STEP)
    text += "".join(
        BUDGET.format(name=each.name, tokens=each.tokens, answer=BOUND_ANSWER) for each in tenants if not each.grows
    )
    return text + "".join(key(each.name, each.name) for each in tenants)


class Watch:
    """Reads the limits of random tenants by `GET /v1/usage` during the load, and counts those that are exceeded."""

    def __init__(self, tenants: list[Tenant], ports: dict[int, tuple[int, int]], chance: random.Random) -> None:
        self._tenants, self._ports, self._chance = tenants, ports, chance
        self.reads = 0
        self.exceeded: list[str] = []

    async def run(self) -> None:
        """Read until it is cancelled."""
        while True:
            await asyncio.sleep(0.2)
            port, _ = self._chance.choice(list(self._ports.values()))
            tenant = self._chance.choice(self._tenants)
            try:
                async with asyncio.timeout(3):
                    await self._read(port, tenant.name)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                continue

    async def _read(self, port: int, tenant: str) -> None:
        client = await Client.to(port)
        try:
            head = f"GET /v1/usage HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {tenant}\r\n\r\n"
            client.writer.write(head.encode())
            status, _, body = await client.answer()
        finally:
            client.close()
        if status != 200:
            return
        self.reads += 1
        for each in json.loads(body)["limits"]:
            if each["spent"] + each["held"] > each["limit"] and each["policy"] != GROWING.name:
                self.exceeded.append(
                    f"{each['policy']} of {tenant}: {each['spent']} + {each['held']} > {each['limit']}"
                )


def usage(folder: Path) -> dict[str, Counted]:
    """Return the monthly budgets as `sidecar usage --json` prints them, by tenant."""
    code, output, errors = ran("usage", "--config", "s.toml", "--json", folder=folder)
    assert code == 0, errors
    lines = [each for each in json.loads(output) if each["window"] == "month"]
    return {
        each["tenant"]: Counted(int(each["spent"]), int(each["reserved"]), int(each["limit"]))
        for each in lines
        if each["tenant"] == each["policy"]
    }


async def settled(folder: Path) -> tuple[dict[str, Counted], float]:
    """Wait until nothing is reserved, `DEAD_SECONDS` at most; return the budgets, and how long that took."""
    began = time.monotonic()
    while True:
        found = await asyncio.to_thread(usage, folder)
        waited = time.monotonic() - began
        if waited > DEAD_SECONDS or not any(each.reserved for each in found.values()):
            return found, waited
        await asyncio.sleep(1)


async def chaos(folder: Path) -> bool:
    """Run the load and the faults, print the audit, and return whether all rules hold."""
    chance = random.Random(SEED)  # noqa: S311  # not for secrets
    tenants = [Tenant(name, round(each * SECONDS)) for name, each in TOKENS_PER_SECOND.items()]
    tenants += [PATIENT, GROWING]
    ports: dict[int, tuple[int, int]] = {}
    load = Load(tenants, ports, random.Random(SEED + 1))  # noqa: S311  # not for secrets
    watch = Watch(tenants, ports, random.Random(SEED + 2))  # noqa: S311  # not for secrets
    source = CountingUpstream(load.records, random.Random(SEED + 3))  # noqa: S311  # not for secrets
    async with upstream(source) as up:
        source.served = up
        (folder / "s.toml").write_text(configuration(up.url, tenants))
        nodes = [Node(at, ("serve", "--config", "s.toml", "--port", "0"), folder, ports) for at in range(NODES)]
        try:
            for at, node in enumerate(nodes):
                await node.start(at)
            faults = Faults(nodes, folder / "s.db", chance, time.monotonic() + SECONDS)
            running = asyncio.create_task(load.run(CLIENTS))
            watching = asyncio.create_task(watch.run())
            await faults.run()
            load.is_over.set()
            await running
            watching.cancel()
            counted, waited = await settled(folder)
        finally:
            for node in nodes:
                await asyncio.to_thread(node.close)
    rows = [
        row_of(
            [each for each in load.records.values() if each.tenant is tenant],
            counted[tenant.name],
            faults.disturbances,
            rate=RATE,
            window=WINDOW_SECONDS,
        )
        for tenant in tenants
    ]
    print(f"the store had settled everything {waited:.0f} s after the load")
    return report(rows, load, faults, watch, source.strangers)


def report(rows: list[Row], load: Load, faults: Faults, watch: Watch, strangers: int) -> bool:
    """Print the table and the rules of the whole run; return whether all hold."""
    suspensions = ", ".join(f"{each:.0f} s" for each in faults.suspensions)
    print(
        f"seed {SEED}: {len(load.records):,} calls, at most {load.most_open} at once; {len(faults.disturbances.killed)} kills,"
        f" {faults.locks} locks of 5 s, suspensions of {suspensions}"
    )
    print(f"{faults.locked_suspensions} of the suspended processes held the lock; {watch.reads} reads of GET /v1/usage")
    print_table(rows)
    survived = [each for each in load.records.values() if each.instance not in faults.disturbances.killed]
    ends = Counter(each.outcome for each in survived if each.instance in faults.suspended)
    print(f"calls of processes that were suspended and not killed: {dict(ends)}")
    print(f"errors: {dict(Counter(each.error for each in load.records.values() if each.error))}")
    print(
        f"errors after the first token: {dict(Counter(each.error for each in load.records.values() if each.outcome == 'error'))}"
    )
    unexplained = [each for each in survived if each.outcome in ("cut", "hung")]
    rules = {
        "every rule of every tenant": not any(row.broken for row in rows),
        "no limit exceeded in a read of GET /v1/usage": not watch.exceeded,
        "answers are cut only where a process was killed": not unexplained,
        "upstream gets each call once": not strangers,
        f"a suspension of {SUSPENDED_SECONDS:.0f} s": SUSPENDED_SECONDS in faults.suspensions,
        "a kill and a lock": bool(faults.disturbances.killed) and bool(faults.locks),
    }
    for rule, is_kept in rules.items():
        print(f"{rule}: {'kept' if is_kept else 'BROKEN'}")
    for each in watch.exceeded[:5]:
        print(f"  {each}")
    for record in unexplained[:5]:
        print(f"  {record.name}: {record.outcome}")
    return all(rules.values())


def main() -> int:
    if SECONDS < LEAST_SECONDS:
        print(f"SECONDS is {SECONDS:.0f}: expected at least {LEAST_SECONDS:.0f}", file=sys.stderr)
        return 2
    many_files()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        return 0 if asyncio.run(chaos(Path(name))) else 1


if __name__ == "__main__":
    sys.exit(main())
