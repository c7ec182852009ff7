"""Measure the sidecar against a direct call, nginx and other proxies in one run: a table, promised figures, JSON.

The proxy under test has one core to itself; the mock upstream and the load share another one. CPU is that of the whole
process, read from the operating system, so other programs hardly affect it. Compare ratios, not absolute values.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from figures import Figure, from_rows
from idle_policy import idle_policy
from measuring import Row, measure
from processes import PROXY, Calm, cpu_ns, free_port, many_files, pin_all, reachable, started
from sharing import sharing
from startup import startup
from table import head, line, merged
from targets import CHAT, LIMITLESS, V1, Target, installed, mock, nginx_program, peer, sidecar, sidecar_config
from workloads import WORK, Work

__all__ = ("LIMITLESS", "WORK", "Target", "cpu_ns", "free_port", "measure", "reachable", "sidecar_config", "started")

MAX_OTHERS_PERCENT = 15
"""Percent of the core that other programs may use; part of it is the kernel's own work for the proxy."""
BENCHMARKS = ("startup", "idle-policy", "sharing")
REPORTED_PACKAGES = ("uvicorn", "uvloop", "httptools", "litestar", "msgspec")


def machine() -> dict[str, object]:
    """Return the machine and the versions that the figures belong to."""
    found: dict[str, object] = {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    if (program := nginx_program()) is not None:
        found["nginx"] = (
            subprocess.run([program, "-v"], capture_output=True, text=True, check=True)
            .stderr.strip()
            .rpartition("/")[2]
        )
    return found | {part: version(part) for part in REPORTED_PACKAGES}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((each.partition(": ")[2] for each in lines if each.startswith("model name")), platform.machine())


def rows_of(name: str, others: list[Target], upstream: int, folder: Path, given: argparse.Namespace) -> list[Row]:
    """Measure one workload on all targets, in rounds."""
    work, calm = WORK[name], given.calm
    with contextlib.ExitStack() as stack:
        targets = [Target("direct", 0, upstream, V1), *others] if work.kind == "closed" else [*others]
        targets += [
            stack.enter_context(sidecar(folder, upstream, work.model, path=path))
            for path in (V1, CHAT)
            if work.stream or path == V1
        ]
        rounds: list[list[Row]] = []
        for at in range(_rounds(work, given.rounds)):
            rounds.append([])
            for target in targets:
                calm.wait()
                row = measure(target, name, work, _seconds(work, given.seconds), folder, warm=at == 0)
                rounds[-1].append(row)
        return merged(rounds)


def _rounds(work: Work, given: int) -> int:
    """Return the number of rounds: half of *given* for workloads that take seconds, one for open streams."""
    if work.kind != "closed":
        return 1
    return max(1, given // 2) if work.interval else given


def _seconds(work: Work, given: float) -> float:
    """Return the seconds of load: at least one and a half answers."""
    return max(given, 1.5 * work.tokens * work.interval / 1000)


def figures_of(rows: list[Row], upstream: int, folder: Path, given: argparse.Namespace) -> Iterator[Figure]:
    """Yield the figures of *rows*, and those of the separate benchmarks."""
    yield from from_rows(rows)
    wanted, times = given.figures.split(","), given.times
    if "startup" in wanted:
        yield Figure("seconds from the start to the first served request", startup(folder, upstream, times), "s", 1.5)
    if "idle-policy" in wanted:
        yield Figure("CPU of an idle policy, per event", idle_policy(3 * times), "ns", 30)
    if "sharing" in wanted:
        found = sharing(folder, upstream, times, given.seconds)
        yield Figure("CPU per request, 1 token, 50 connections, unpinned, 1 worker", found.one, "us")
        yield Figure("the same with 4 workers that share one SQLite store", found.many, "us")
        yield Figure("4 workers compared with one", found.ratio, "x", 1.25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", default=",".join(WORK), help="workloads, separated by commas (%(default)s)")
    parser.add_argument(
        "--figures", default=",".join(BENCHMARKS), help="separate benchmarks, separated by commas (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="of each workload; the table shows medians (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.8, help="of each measurement (%(default)s)")
    parser.add_argument("--times", type=int, default=5, help="runs of each separate benchmark (%(default)s)")
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        help="seconds to wait in all for other programs to leave the core (%(default)s)",
    )
    parser.add_argument("--alone", action="store_true", help="without the other proxies that are installed")
    parser.add_argument("--quick", action="store_true", help="one round of everything")
    parser.add_argument("--peer", type=peer, action="append", default=[], metavar="NAME=PID,PORT,PATH[,HEADER...]",
                        help="a running proxy that forwards to --mock-port; repeatable")  # fmt: skip
    parser.add_argument("--mock-port", type=int, default=0, help="port of the mock upstream; 0 picks one (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.seconds, given.times = 1, min(1.0, given.seconds), 1
    if not hasattr(os, "sched_setaffinity") or not Path("/proc/self/task").exists():
        sys.exit("bench: CPU is read from /proc, which needs Linux")
    given.calm = Calm(PROXY, given.patience)
    many_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that started programs are ended too
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        _, upstream = stack.enter_context(mock(folder, given.mock_port))
        others = [*(() if given.alone else installed(stack, folder, upstream)), *given.peer]
        for each in given.peer:
            pin_all(each.pid, PROXY)
        print(head(), flush=True)
        for work in given.work.split(",") if given.work else ():
            for row in rows_of(work, others, upstream, folder, given):
                rows.append(row)
                print(line(row), flush=True)
        if any(row["others_percent"] > MAX_OTHERS_PERCENT for row in rows):
            print(
                f"Other programs used more than {MAX_OTHERS_PERCENT} % of the proxy's core in some rows: measure those again."
            )
        figures = []
        for figure in figures_of(rows, upstream, folder, given):
            figures.append(figure)
            print(figure.line, flush=True)
    if given.json:
        found = {"machine": machine(), "rows": rows, "figures": [figure._asdict() for figure in figures]}
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
