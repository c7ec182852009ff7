"""Measure the ledger: CPU of reserve and settle in each store, and the CPU that a store adds to a request.

Steps run one after the other in one process, each with a sliding and a calendar limit. For Redis the CPU of its server
is in a column of its own. A request is one token on one connection, with the shipped chain on each store, and with the
chain without its limits.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from redis_process import redis_process
from run import LIMITLESS, WORK, Target, cpu_ns, measure, sidecar_config, started

from policies.api.claim import Claim
from policies.api.window import Calendar, Sliding
from policies.stores.opening import open_store


class Cost(NamedTuple):
    """Microseconds of CPU per step; `server` is the CPU of the store's own server."""

    reserve: float
    settle: float
    server: float


async def cost(url: str, folder: Path, steps: int, server: int) -> Cost:
    """Return the cost of one reservation and one settlement.

    *server* is the process id of the store's server, 0 for none.
    """
    store = open_store(url, folder=folder)
    claims = [
        Claim(policy="rate", identity="t", unit="requests", limit=LIMITLESS, window=Sliding(60.0), base=1),
        Claim(policy="b", identity="t", unit="tokens", limit=LIMITLESS, window=Calendar("day"), base=9, per_token=1, floor=64),
    ]  # fmt: skip
    charges = {claims[1].key: 50}
    reserve = settle = 0
    before = 0
    for at in range(-200, steps):
        if at == 0:
            reserve = settle = 0
            before = cpu_ns(server) if server else 0
        begun = time.process_time_ns()
        await store.reserve(f"call-{at}", claims, 400)
        between = time.process_time_ns()
        await store.settle(f"call-{at}", charges)
        reserve, settle = reserve + between - begun, settle + time.process_time_ns() - between
    spent = cpu_ns(server) - before if server else 0
    await store.aclose()
    return Cost(reserve / steps / 1000, settle / steps / 1000, spent / steps / 1000)


def without_limits(config: str) -> str:
    """Return *config* without the policies that use the store."""
    blocks = re.split(r"(?m)^(?=\[)", config)
    kept = [block for block in blocks if not re.search(r'use = "(rate|budget)"', block)]
    return re.sub(r"(?m)^(rate|budget) = .*\n", "", "".join(kept))


def added(urls: dict[str, str], folder: Path, seconds: float) -> None:
    """Print the CPU of a request with each store, and without limits."""
    plan = WORK["one"]
    mock = [sys.executable, "-m", "sidecar", "mock", "--port", "0", "--tokens", "1"]
    with started(mock, 0, folder) as (_, line):
        for name in ("no limits", *urls):
            config = sidecar_config().replace("sqlite:///bench.db", urls.get(name, "memory://"))
            (folder / "sidecar.toml").write_text(without_limits(config) if name == "no limits" else config)
            upstream = line.rpartition(" ")[2]
            command = [sys.executable, "-m", "sidecar", "serve", "--config", "sidecar.toml", "--port", "0"]
            with started([*command, "--upstream", upstream, "--model", "mock"], 1, folder) as (pid, first_line):
                target = Target(name, pid, int(first_line.rpartition(":")[2]), "/v1/chat/completions")
                row = measure(target, "one", plan, seconds, folder)
            if name == "no limits":
                base = float(str(row["cpu_us_per_request"]))
            more = float(str(row["cpu_us_per_request"])) - base
            print(f"{name:10} {row['cpu_us_per_request']:>8} us per request  {more:+8.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load per store (%(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, redis_process(Path(name)) as server:
        folder, pid = Path(name), server.pid if server else 0
        urls = {"memory": "memory://", "sqlite": "sqlite:///ledger.db"} | ({"redis": server.url} if server else {})
        print(f"{'store':10} {'reserve':>8} {'settle':>8} {'both':>8} {'server':>8}   us of CPU")
        for kind, url in urls.items():
            found = asyncio.run(cost(url, folder, given.steps, pid if kind == "redis" else 0))
            both = found.reserve + found.settle
            print(f"{kind:10} {found.reserve:>8.1f} {found.settle:>8.1f} {both:>8.1f} {found.server:>8.1f}", flush=True)
        added(urls, folder, given.seconds)


if __name__ == "__main__":
    main()
