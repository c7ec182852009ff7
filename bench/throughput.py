"""Measure the highest rate of calls of one Redis core, and of one sidecar process with each store.

1. Client processes call one Redis server as fast as they can, each with 64 calls at the same time. The server has a core for
   itself. The clients may need more CPU than the rest of the machine has; so the table also has the rate of a whole
   core, which is 1 s divided by the server's CPU per call.
2. One `sidecar serve` has a core for itself, with the shipped chain and limits that are never reached. Mock, load and Redis
   share another core. The rate of a whole core is 1 s divided by the sidecar's CPU per call.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring import measure
from processes import OTHERS, PROXY, cpu_ns, started
from redis_process import RedisProcess, redis_process
from sharing import SHORT_ANSWER
from store_costs import BENCH_FOLDER, environment, in_turn, number, numbers, print_head, table_line
from targets import V1, Target, sidecar_config
from workloads import WORK

AT_ONCE = 64
TENANTS = 1_000
ANSWERS = {"short": SHORT_ANSWER, "burst": WORK["burst"], "plain": WORK["plain"]}
"""One token, 64 tokens at once, and 64 tokens without `stream`; on 50 connections."""
STORES = ("memory", "sqlite", "redis")
REDIS_COLUMNS = (
    "store", "clients", "budgets", "calls/s", "client µs", "server µs", "server busy", "calls/s of a whole core", "failed",
)  # fmt: skip
SIDECAR_COLUMNS = (
    "store", "answer", "calls/s", "sidecar µs", "sidecar busy", "calls/s of a whole core", "Redis µs", "failed",
)  # fmt: skip


def other_cores() -> set[int]:
    """Return the cores besides that of the measured server."""
    return os.sched_getaffinity(0) - {PROXY} or os.sched_getaffinity(0)


def redis_row(clients: int, budgets: int, seconds: float, folder: Path, code: Path | None) -> dict[str, Any]:
    """Let *clients* processes call one server for *seconds*; return rates and CPU."""
    with tempfile.TemporaryDirectory(dir=folder) as home, redis_process(Path(home), PROXY) as server:
        assert server is not None
        command = [sys.executable, str(BENCH_FOLDER / "store_case.py"), server.url, f"--seconds={seconds}"]
        command += [f"--budgets={budgets}", f"--tenants={TENANTS}", f"--at-once={AT_ONCE}"]
        children = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(code),
                preexec_fn=lambda: os.sched_setaffinity(0, other_cores()),  # noqa: PLW1509  # a script with one thread
            )
            for _ in range(clients)
        ]
        for each in children:
            assert each.stdout is not None
            each.stdout.readline()
        spent, began = cpu_ns(server.pid), time.monotonic_ns()
        for each in children:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        outputs = [each.communicate()[0] for each in children]
        took, spent = time.monotonic_ns() - began, cpu_ns(server.pid) - spent
    if any(each.returncode for each in children):
        sys.exit("a client failed; its error is above")
    results = [json.loads(output.splitlines()[-1]) for output in outputs]
    failed = sum(result["refused"] + result["down"] for result in results)
    calls = max(1, sum(result["calls"] for result in results) - failed)
    server_us = spent / calls / 1000
    return {
        "clients": clients,
        "budgets": budgets,
        "calls_per_second": calls / took * 1e9,
        "client_us": sum(result["cpu_us"] for result in results) / calls,
        "server_us": server_us,
        "server_busy": spent / took,
        "calls_per_second_of_a_core": 1e6 / server_us,
        "failed": failed,
    }


def sidecar_row(store: str, answer: str, seconds: float, place: tuple[str, Path], code: Path | None) -> dict[str, Any]:
    """Load one sidecar for *seconds*; return rates and CPU. *place* is the URL of the upstream, and a folder."""
    work, (upstream, folder) = ANSWERS[answer], place
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        server: RedisProcess | None = None
        url = {"memory": "memory://", "sqlite": "sqlite:///bench.db"}.get(store, "")
        if not url:
            server = stack.enter_context(redis_process(home, OTHERS))
            assert server is not None
            url = server.url
        sidecar = [sys.executable, "-m", "sidecar"]
        shipped = subprocess.check_output([*sidecar, "config"], text=True, env=environment(code))
        (home / "sidecar.toml").write_text(sidecar_config(shipped).replace("sqlite:///bench.db", url))
        command = [*sidecar, "serve", "--config", "sidecar.toml", "--port", "0"]
        command += ["--upstream", upstream, "--model", work.model]
        pid, line = stack.enter_context(started(command, PROXY, home, environ=environment(code)))
        target = Target(store, pid, int(line.rpartition(":")[2]), V1)
        measure(target, answer, work, min(1.0, seconds), home)
        redis_began, began, wall = cpu_ns(server.pid) if server else 0, cpu_ns(pid), time.monotonic_ns()
        row = measure(target, answer, work, seconds, home, warm=False)
        busy = (cpu_ns(pid) - began) / (time.monotonic_ns() - wall)
        redis_spent = cpu_ns(server.pid) - redis_began if server else 0
    spent = float(row["cpu_us_per_request"])
    return {
        "store": store,
        "answer": answer,
        "calls_per_second": row["per_second"],
        "sidecar_us": spent,
        "sidecar_busy": busy,
        "calls_per_second_of_a_core": 1e6 / spent,
        "redis_us": redis_spent / 1000 / max(1, row["ok"]),
        "failed": row["failed"],
    }


def redis_rows(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Measure each number of budgets and clients with each checkout."""
    for budgets, clients in itertools.product(given.budgets, given.clients):
        measured = functools.partial(redis_row, clients, budgets, given.seconds, folder)
        for name, runs in in_turn(given, measured).items():
            yield {"store": f"redis{name}"} | best(runs)


def sidecar_rows(given: argparse.Namespace, stores: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Measure each store and answer with each checkout."""
    mock = [sys.executable, "-m", "sidecar", "mock", "--port", "0"]
    with started(mock, OTHERS, folder) as (_, line):
        for store, answer in itertools.product(stores, given.answers.split(",")):
            upstream = line.rpartition(" ")[2]
            measured = functools.partial(sidecar_row, store, answer, given.seconds, (upstream, folder))
            for name, runs in in_turn(given, measured).items():
                yield best(runs) | {"store": store + name}


def redis_cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of a row of Redis."""
    rates = [number(row["calls_per_second"]), number(row["client_us"]), number(row["server_us"])]
    whole = number(row["calls_per_second_of_a_core"])
    return [
        row["store"],
        str(row["clients"]),
        str(row["budgets"]),
        *rates,
        f"{row['server_busy']:.0%}",
        whole,
        str(row["failed"]),
    ]


def sidecar_cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of a row of a sidecar."""
    rates = [number(row["calls_per_second"]), number(row["sidecar_us"]), f"{row['sidecar_busy']:.0%}"]
    more = [number(row["calls_per_second_of_a_core"]), number(row["redis_us"]), str(row["failed"])]
    return [row["store"], row["answer"], *rates, *more]


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row with the fewest failures; of equal ones that with the highest rate of a whole core.

    Other programs only ever add CPU.
    """
    return max(rows, key=lambda row: (-int(row["failed"]), float(row["calls_per_second_of_a_core"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", default=",".join(STORES), help="stores of the sidecar (%(default)s)")
    parser.add_argument(
        "--clients", type=numbers, default=[1, 2, 4], help="client processes of Redis (1,2,4); empty: none"
    )
    parser.add_argument("--budgets", type=numbers, default=[1, 5], help="budgets of a call at Redis (1,5)")
    parser.add_argument("--answers", default=",".join(ANSWERS), help="answers of the sidecar (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (%(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of each measurement; the best counts (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    parser.add_argument("--before", type=Path, help="also measure the code of this checkout, alternately")
    given = parser.parse_args()
    servers, sidecars = list[dict[str, Any]](), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with redis_process(folder) as probe:
            has_redis = probe is not None
        if has_redis and given.clients:
            print_head(REDIS_COLUMNS)
            for row in redis_rows(given, folder):
                servers.append(row)
                print(table_line(redis_cells(row)), flush=True)
            print()
        print_head(SIDECAR_COLUMNS)
        for row in sidecar_rows(
            given, [store for store in given.stores.split(",") if store != "redis" or has_redis], folder
        ):
            sidecars.append(row)
            print(table_line(sidecar_cells(row)), flush=True)
    if given.json:
        given.json.write_text(json.dumps({"redis": servers, "sidecar": sidecars}, indent=1) + "\n")


if __name__ == "__main__":
    main()
