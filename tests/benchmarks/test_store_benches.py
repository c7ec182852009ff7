"""The measurements of stores: `bench/store_costs.py` and `bench/throughput.py`."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import BENCH, ROOT
from process import environment
from redis_server import MISSING, SERVER

pytestmark = [
    pytest.mark.skipif(not BENCH.exists(), reason="the bench is not part of an installed package"),
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="CPU time is read from Linux's /proc"),
]
needs_redis = pytest.mark.skipif(SERVER is None, reason=MISSING)
SMALL = ("--budgets=2", "--tenants=1,3", "--at-once=1,4", "--limits=60", "--calls=8", "--rounds=2", "--blocks=1")


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that imports one of the bench's files."""
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module


def run(script: str, folder: Path, *arguments: str, path: str | None = None) -> tuple[str, dict[str, Any]]:
    """Run *script*; return its output and its JSON file."""
    command = [sys.executable, str(BENCH / script), *arguments, "--json", "found.json"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment({} if path is None else {"PATH": path}),
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return done.stdout, found


def test_each_case_is_measured(tmp_path: Path) -> None:
    """The table has a row for each store, number of tenants and concurrency; no call of it is refused."""
    output, found = run("store_costs.py", tmp_path, "--stores=memory,sqlite", *SMALL)

    cases = [(row["store"], row["budgets"], row["tenants"], row["at_once"]) for row in found["costs"]]
    assert cases == [(store, 2, tenants, at) for store in ("memory", "sqlite") for tenants in (1, 3) for at in (1, 4)]
    assert all(row["client_us"] > 0 and row["refused"] + row["down"] == 0 for row in found["costs"])
    assert [row["written_bytes_per_call"] > 0 for row in found["costs"]] == [False] * 4 + [True] * 4
    assert [(row["store"], row["limit"]) for row in found["refusals"]] == [("memory", 60), ("sqlite", 60)]
    assert all(row["ratio"] > 0 for row in found["refusals"])
    assert output.count("| sqlite |") == 5


def test_another_checkout_is_measured(tmp_path: Path) -> None:
    """A checkout that `--before` names is measured in the same run, in a row of its own."""
    more = ("--stores=memory", "--budgets=1", "--tenants=1", "--at-once=1", *SMALL[3:], f"--before={ROOT}")
    _, found = run("store_costs.py", tmp_path, *more)

    assert [row["store"] for row in found["costs"]] == ["memory before", "memory"]
    assert [row["store"] for row in found["refusals"]] == ["memory before", "memory"]


def test_missing_redis_is_reported(tmp_path: Path) -> None:
    """A machine without Redis gets a message and the other stores."""
    stores, path = "--stores=memory,redis", str(tmp_path)
    output, found = run(
        "store_costs.py", tmp_path, stores, *SMALL[:1], "--tenants=1", "--at-once=1", *SMALL[3:], path=path
    )

    assert "redis: no server is installed" in output
    assert [row["store"] for row in found["costs"]] == ["memory"]


@needs_redis
def test_redis_is_measured(tmp_path: Path) -> None:
    """Redis has CPU of its server, bytes of its network and of its append-only file."""
    _, found = run(
        "store_costs.py", tmp_path, "--stores=redis", "--tenants=1", "--at-once=4", "--nodes=3", *SMALL[:1], *SMALL[3:]
    )

    assert [(row["at_once"], row["nodes"]) for row in found["costs"]] == [(4, 1), (3, 3)]
    row = found["costs"][1]
    assert row["server_us"] > 0
    assert row["network_bytes_per_call"] > 100
    assert row["written_bytes_per_call"] > 100


@needs_redis
def test_throughput_is_measured(tmp_path: Path) -> None:
    """Two clients of one Redis and one sidecar on each store complete calls."""
    short = ("--clients=2", "--budgets=1", "--seconds=0.2", "--runs=1", "--answers=plain", "--stores=sqlite,redis")
    _, found = run("throughput.py", tmp_path, *short)

    (server,) = found["redis"]
    assert server["calls_per_second"] > 0
    assert server["failed"] == 0
    assert 0 < server["server_busy"] < 1.1
    assert [row["store"] for row in found["sidecar"]] == ["sqlite", "redis"]
    assert found["sidecar"][0]["failed"] == 0
    assert all(row["calls_per_second"] > 0 for row in found["sidecar"])
    assert [row["redis_us"] > 0 for row in found["sidecar"]] == [False, True]


def test_capacity_is_calculated(part: Any) -> None:
    """One core of Redis carries as many calls as fit into its busy time; bytes are those of that many calls."""
    row = {
        "store": "redis",
        "budgets": 1,
        "tenants": 9,
        "nodes": 64,
        "at_once": 64,
        "server_us": 50.0,
        "network_bytes_per_call": 700,
    }
    row |= {"written_bytes_per_call": 400, "kept_bytes_per_tenant": 1_000, "held_bytes_per_call": 300}
    one = row | {"nodes": 1, "at_once": 1, "held_bytes_per_call": 200}
    capacity = part("capacity")

    assert capacity.rows_of([one, row | {"store": "sqlite"}, row]) == [row | {"held_bytes_per_call": 200}]
    found = capacity.capacity(row, 0.5, tenants=2_000, running=10)
    assert found == (1, 50.0, 10_000.0, 7e6, 4e6, 2e6, 3_000)
    assert capacity.cells(found, nodes=100)[:4] == ["1", "50.0 µs", "10,000", "100"]


def test_summary_has_figures_before_and_now(part: Any) -> None:
    """The summary has one line for a store, its budgets and tenants, with each figure before and now."""
    row = {
        "budgets": 5,
        "tenants": 5_000,
        "nodes": 1,
        "client_us": 20.0,
        "server_us": 0.0,
        "network_bytes_per_call": 0.0,
    }
    row |= {"written_bytes_per_call": 900.0, "kept_bytes_per_tenant": 300.0}
    rows = [row | {"store": name, "at_once": at} for name in ("sqlite", "sqlite before") for at in (1, 64)]
    rows[0] |= {"client_us": 10.0}

    (cells,) = part("store_summary").lines(rows)
    assert cells == [
        "sqlite",
        "5",
        "5,000",
        "20.0 → 10.0",
        "20.0 → 20.0",
        "-",
        "-",
        "-",
        *["900 → 900"] * 2,
        "300 → 300",
    ]
    (cells,) = part("store_summary").lines(rows[:2])
    assert cells[3:5] == ["10.0", "20.0"]


def test_lowest_cost_counts(part: Any) -> None:
    """Of the runs with the fewest failures the one with the highest rate of a core counts: other programs only add CPU."""
    found = [(0, 900.0), (0, 1000.0), (3, 5000.0), (0, 700.0)]
    runs = [{"failed": failed, "calls_per_second_of_a_core": rate} for failed, rate in found]
    assert part("throughput").best(runs) == runs[1]


@pytest.mark.parametrize(
    ("value", "text"), [(0.01, "-"), (7.25, "7.2"), (99.94, "99.9"), (1234.5, "1,234"), (-31.0, "-31.0")]
)
def test_numbers_are_short(value: float, text: str, part: Any) -> None:
    """Small numbers have one decimal, large ones none, and nothing is a dash."""
    assert part("store_costs").number(value) == text
