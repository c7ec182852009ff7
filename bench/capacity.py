"""Calculate what a number of nodes needs of one Redis, from the file that `store_costs.py` has written.

Prints the table of `docs/stores.md`. A call is one reservation and one settlement, of a rate and some budgets. The
costs are those of many tenants and many nodes, each of which sends its operations one by one: group commit saves more.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from store_costs import number, print_head, table_line

COLUMNS = (
    "budgets of a call", "Redis CPU", "calls/s of a core", "per node", "network", "append-only file", "memory for the tenants", "memory for running calls",
)  # fmt: skip


class Capacity(NamedTuple):
    """What one Redis carries, in calls, and bytes per second."""

    budgets: int
    server_us: float
    calls_per_second: float
    network: float
    journal: float
    memory: float
    running: float


def capacity(row: dict[str, Any], busy: float, tenants: int, running: int) -> Capacity:
    """Return what one core of Redis carries while it is *busy* (0 to 1), by a *row* of the costs."""
    calls = busy * 1e6 / row["server_us"]
    return Capacity(
        row["budgets"],
        row["server_us"],
        calls,
        calls * row["network_bytes_per_call"],
        calls * row["written_bytes_per_call"],
        tenants * row["kept_bytes_per_tenant"],
        running * row["held_bytes_per_call"],
    )


def cells(found: Capacity, nodes: int) -> list[str]:
    """Return *found* as the cells of the table, shared by *nodes*."""
    rates = [
        f"{number(found.server_us)} µs",
        f"{found.calls_per_second:,.0f}",
        f"{found.calls_per_second / nodes:,.0f}",
    ]
    sizes = [f"{found.network / 1e6:,.1f} MB/s", f"{found.journal / 1e6:,.1f} MB/s", f"{found.memory / 1e6:,.0f} MB"]
    sizes.append(f"{found.running / 1e6:,.0f} MB")
    return [str(found.budgets), *rates, *sizes]


def rows_of(costs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of Redis in which many nodes share it: each step has one operation.

    Bytes per running call are those of one node: many nodes take so long that entries of ended calls expire meanwhile.
    """
    redis = [row for row in costs if row["store"] == "redis"]
    held = {row["budgets"]: row["held_bytes_per_call"] for row in redis if row["nodes"] == row["at_once"] == 1}
    return [
        row | {"held_bytes_per_call": held.get(row["budgets"], row["held_bytes_per_call"])}
        for row in redis
        if row["nodes"] > 1
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("costs", type=Path, help="file that `store_costs.py --json` has written")
    parser.add_argument("--nodes", type=int, default=100, help="that share one Redis (%(default)s)")
    parser.add_argument("--busy", type=float, default=0.6, help="share of the core of Redis that is used (%(default)s)")
    parser.add_argument("--tenants", type=int, default=100_000, help="that have counters (%(default)s)")
    parser.add_argument("--running", type=int, default=30_000, help="calls that are running (%(default)s)")
    given = parser.parse_args()
    print_head(COLUMNS)
    for row in rows_of(json.loads(given.costs.read_text())["costs"]):
        print(table_line(cells(capacity(row, given.busy, given.tenants, given.running), given.nodes)))


if __name__ == "__main__":
    main()
