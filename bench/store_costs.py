"""Measure what each store costs: CPU and bytes of a call by the number of budgets and tenants, and CPU of refusals.

Each case runs in a process of its own, for Redis with a server of its own. CPU is what the kernel counts for the processes, not
wall time. Figures are medians of the rounds. A case is measured `--runs` times, and the run with the lowest median counts: other
programs only ever add to the CPU of a call, because they displace its caches. `--instructions` counts
instructions of the client and of Redis with valgrind instead, which repeat within three percent on a busy machine.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from processes import OTHERS, PROXY, pin
from redis_process import redis_process

STORES = ("memory", "sqlite", "redis")
SQLITE_URL = "sqlite:///costs.db"
BENCH_FOLDER = Path(__file__).parent
REFUSAL_LIMITS = (60, 1_000, 100_000)
FEWEST_TENANTS_FOR_BYTES = 100
"""With fewer tenants, the bytes that a store keeps per tenant are lost among those that it keeps anyway."""
COST_COLUMNS = (
    "store", "budgets", "tenants", "at once", "nodes", "client µs", "server µs", "network B", "written B", "kept B/call", "B/tenant", "B/running call", "failed",
)  # fmt: skip
REFUSAL_COLUMNS = (
    "store",
    "requests in the window",
    "admitted µs",
    "refused µs",
    "refused / admitted",
    "longest round",
)


class Case(NamedTuple):
    """One row of the table of costs."""

    store: str
    budgets: int
    tenants: int
    at_once: int
    nodes: int = 1

    @property
    def arguments(self) -> list[str]:
        """The arguments of `store_case.py`."""
        shape = [f"--budgets={self.budgets}", f"--tenants={self.tenants}", f"--at-once={self.at_once}"]
        return [*shape, f"--nodes={self.nodes}"]


def child(
    program: str,
    store: str,
    more: Sequence[str],
    *,
    code: Path | None = None,
    prefix: Sequence[str] = (),
    server_prefix: Sequence[str] = (),
) -> tuple[dict[str, Any], str]:
    """Run *program* for *store* in an empty folder; return what it printed as JSON, and its error output.

    *code* is the checkout whose stores it uses, None for this one. *prefix* and *server_prefix* precede the commands of the program and
    of its Redis server.
    """
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        url, server = {"memory": "memory://", "sqlite": SQLITE_URL}.get(store, ""), list[str]()
        if not url:
            running = stack.enter_context(redis_process(folder, OTHERS, server_prefix))
            assert running is not None
            url, server = running.url, ["--server", f"{running.pid},{running.port}"]
        command = [*prefix, sys.executable, str(BENCH_FOLDER / program), url, "--folder", str(folder), *server, *more]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=environment(code),
            preexec_fn=lambda: pin(PROXY),  # a script with one thread
        )
    if done.returncode:
        sys.exit(f"{program} {store} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found, done.stderr


def environment(code: Path | None) -> dict[str, str]:
    """Return the environment of a process that imports the checkout *code*, None for this one."""
    return {**os.environ, "PYTHONHASHSEED": "0"} | ({} if code is None else {"PYTHONPATH": str(code)})


def checkouts(given: argparse.Namespace) -> dict[str, Path | None]:
    """Return the measured checkouts, by what follows the name of a store in the table."""
    return ({" before": given.before.resolve()} if given.before else {}) | {"": None}


def cost_rows(case: Case, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure *case* with each checkout in turn, and yield the figures of each."""
    more = [*case.arguments, f"--calls={given.calls}", f"--rounds={given.rounds}"]
    runs = in_turn(given, lambda code: child("store_case.py", case.store, more, code=code)[0])
    for name, each in runs.items():
        best = min(each, key=lambda run: statistics.median(run["client_us"]))
        times = {name: round(statistics.median(best[name]), 2) for name in ("client_us", "server_us")}
        yield case._asdict() | {"store": case.store + name} | best | times


def in_turn(
    given: argparse.Namespace, measured: Callable[[Path | None], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the results of each checkout; they are measured alternately, so that other programs disturb all of them."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts(given)}
    for _ in range(given.runs):
        for name, code in checkouts(given).items():
            found[name].append(measured(code))
    return found


def cost_cells(row: dict[str, Any]) -> list[str]:
    """Return *row* as the cells of the table of costs."""
    many = row["tenants"] >= FEWEST_TENANTS_FOR_BYTES
    figures = [row["client_us"], row["server_us"], row["network_bytes_per_call"], row["written_bytes_per_call"]]
    cells = [number(each) for each in figures]
    kept = [row["kept_bytes_per_call"], row["kept_bytes_per_tenant"] if many else 0, row["held_bytes_per_call"]]
    named = [str(row[name]) for name in ("store", "budgets", "tenants", "at_once", "nodes")]
    return [*named, *cells, *(number(each) for each in kept), str(row["refused"] + row["down"])]


def refusal_rows(store: str, limit: int, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure refusals in a full window of *limit* requests with each checkout; the server's CPU is included."""
    more = [f"--limit={limit}", f"--rounds={given.rounds}", f"--blocks={given.blocks}"]
    for name, runs in in_turn(given, lambda code: child("store_refusals.py", store, more, code=code)[0]).items():
        best = min(runs, key=lambda run: statistics.median(run["admitted"]))
        both = {
            kind: [client + server for client, server in zip(best[kind], best[f"{kind}_server"], strict=True)]
            for kind in ("admitted", "refused")
        }
        ratios = [refused / admitted for refused, admitted in zip(both["refused"], both["admitted"], strict=True)]
        yield {
            "store": store + name,
            "limit": limit,
            "admitted_us": round(statistics.median(both["admitted"]), 2),
            "refused_us": round(statistics.median(both["refused"]), 2),
            "ratio": round(statistics.median(ratios), 2),
            "highest_ratio": round(max(ratios), 2),
        }


def refusal_cells(row: dict[str, Any]) -> list[str]:
    """Return *row* as the cells of the table of refusals."""
    times = [number(row["admitted_us"]), number(row["refused_us"])]
    return [row["store"], f"{row['limit']:,}", *times, f"{row['ratio']:.2f}", f"{row['highest_ratio']:.2f}"]


def instructions(case: Case, given: argparse.Namespace, code: Path | None, *, of_server: bool = False) -> int:
    """Return the instructions of a call in the client, or in its Redis server, under valgrind.

    It is the difference between a short and a long run.
    """
    counted, few = list[int](), int(given.calls)
    for calls in (few, 3 * few):
        more = [*case.arguments, f"--calls={calls}", "--rounds=1"]
        with tempfile.NamedTemporaryFile() as file:
            prefix = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={file.name}"]
            measured = {"server_prefix": prefix} if of_server else {"prefix": prefix}
            child("store_case.py", case.store, more, code=code, **measured)
            found = re.search(r"^totals: (\d+)", Path(file.name).read_text(), re.MULTILINE)
        assert found is not None
        counted.append(int(found[1]))
    return (counted[1] - counted[0]) // (2 * few)


def number(value: float) -> str:
    """Return *value* for a table: `-` for nothing, no decimals from 100 on."""
    if abs(value) < 0.05:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def table_line(cells: Sequence[str]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def print_head(columns: Sequence[str]) -> None:
    print(table_line(columns))
    print(table_line(["---"] * len(columns)), flush=True)


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Yield the cases of the table in its order."""
    for each in itertools.product(given.stores, given.budgets, given.tenants, given.at_once):
        yield Case(*each)
    if "redis" in given.stores and given.nodes:
        for budgets in given.budgets:
            yield Case("redis", budgets, max(given.tenants), given.nodes, given.nodes)


def numbers(text: str) -> list[int]:
    """Parse numbers that are separated by commas."""
    return [int(part) for part in text.split(",") if part]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", default=",".join(STORES), help="separated by commas (%(default)s)")
    parser.add_argument(
        "--budgets", type=numbers, default=[1, 5, 20], help="budgets of a call, beside its rate (1,5,20)"
    )
    parser.add_argument("--tenants", type=numbers, default=[1, 5_000], help="tenants that have counters (1,5000)")
    parser.add_argument("--at-once", type=numbers, default=[1, 64], help="calls at the same time (1,64)")
    parser.add_argument(
        "--nodes", type=int, default=64, help="processes that share Redis in further cases (%(default)s)"
    )
    parser.add_argument(
        "--limits", type=numbers, default=[*REFUSAL_LIMITS], help="requests in a full window (60,1000,100000)"
    )
    parser.add_argument("--calls", type=int, default=640, help="calls per round (%(default)s)")
    parser.add_argument("--blocks", type=int, default=10, help="blocks of 30 refusals per round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="of each case (%(default)s)")
    parser.add_argument("--runs", type=int, default=1, help="processes that measure each case (%(default)s)")
    parser.add_argument("--instructions", action="store_true", help="count instructions with valgrind instead")
    parser.add_argument("--before", type=Path, help="also measure the stores of this checkout, alternately")
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    given = parser.parse_args()
    given.stores = given.stores.split(",")
    if "redis" in given.stores and not (shutil.which("redis-server") or shutil.which("valkey-server")):
        print("redis: no server is installed, so Redis is not measured")
        given.stores.remove("redis")
    return given


def main() -> None:
    given = parsed()
    if given.instructions:
        print_head((*COST_COLUMNS[:5], "client", "server"))
        for case, (name, code) in itertools.product(cases(given), checkouts(given).items()):
            counted = [f"{instructions(case, given, code):,}"]
            counted.append(f"{instructions(case, given, code, of_server=True):,}" if case.store == "redis" else "-")
            print(table_line([case.store + name, *map(str, case[1:]), *counted]), flush=True)
        return
    costs, refusals = list[dict[str, Any]](), list[dict[str, Any]]()
    print_head(COST_COLUMNS)
    for case in cases(given):
        for row in cost_rows(case, given):
            costs.append(row)
            print(table_line(cost_cells(row)), flush=True)
    print()
    print_head(REFUSAL_COLUMNS)
    for store, limit in itertools.product(given.stores, given.limits):
        for row in refusal_rows(store, limit, given):
            refusals.append(row)
            print(table_line(refusal_cells(row)), flush=True)
    if given.json:
        given.json.write_text(json.dumps({"costs": costs, "refusals": refusals}, indent=1) + "\n")


if __name__ == "__main__":
    main()
