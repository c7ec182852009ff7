"""Print the results of `store_costs.py --before` as a short table: each figure before and now."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from store_costs import FEWEST_TENANTS_FOR_BYTES, number, print_head, table_line

COLUMNS = (
    "store", "budgets", "tenants", "client µs", "64 at once", "server µs", "64 at once", "network B", "written B", "64 at once",
    "B/tenant",
)  # fmt: skip
BEFORE, NOTHING = " before", "-"
ALONE, GROUPED = 1, 64


def figures(one: dict[str, Any], many: dict[str, Any]) -> list[float]:
    """Return the figures of the table, from a row without and a row with calls at the same time."""
    keeps = one["tenants"] >= FEWEST_TENANTS_FOR_BYTES
    return [
        one["client_us"],
        many["client_us"],
        one["server_us"],
        many["server_us"],
        one["network_bytes_per_call"],
        one["written_bytes_per_call"],
        many["written_bytes_per_call"],
        one["kept_bytes_per_tenant"] if keeps else 0,
    ]


def lines(rows: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """Yield the cells of each line: one for each store, number of budgets and number of tenants."""
    found = {(row["store"], row["budgets"], row["tenants"], row["at_once"]): row for row in rows if row["nodes"] == 1}
    for case in dict.fromkeys(key[:3] for key in found if not key[0].endswith(BEFORE)):
        store, budgets, tenants = case
        now = [number(value) for value in figures(found[*case, ALONE], found[*case, GROUPED])]
        earlier = store + BEFORE, budgets, tenants
        if (*earlier, ALONE) in found:
            before = [number(value) for value in figures(found[*earlier, ALONE], found[*earlier, GROUPED])]
            now = [new if old == new == NOTHING else f"{old} → {new}" for old, new in zip(before, now, strict=True)]
        yield [store, str(budgets), f"{tenants:,}", *now]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("costs", type=Path, nargs="+", help="files that `store_costs.py --json` has written")
    given = parser.parse_args()
    rows = [row for path in given.costs for row in json.loads(path.read_text())["costs"]]
    print_head(COLUMNS)
    for cells in lines(rows):
        print(table_line(cells))


if __name__ == "__main__":
    main()
