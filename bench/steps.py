"""Measure the steps of a store with cold caches: CPU of one reservation and one settlement.

In a running sidecar other code runs between two steps, so each step starts with cold caches and costs three times as
much as in a tight loop. This benchmark runs other code too. `alone` has one call at a time, `crowd` fifty calls of
which eight continue in the same event-loop iteration, `shared` four processes with one call at a time and one file.
Figures are medians; compare ratios, not absolute values.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from policies.api.claim import Claim
from policies.api.store import Store
from policies.api.window import Calendar, Sliding
from policies.stores.opening import open_store

UNREACHED_LIMIT = 10**15
OTHER_WORK = bytearray(2 << 20)
PAUSE_SECONDS = 0.0003
PROCESS_COUNT, CROWD_SIZE, CALLS_PER_ITERATION = 4, 50, 8

Spent: TypeAlias = tuple[float, float]
"""Microseconds for a reservation, and for a settlement."""


def other_work() -> None:
    sum(OTHER_WORK[::64])
    time.sleep(PAUSE_SECONDS)


def claims() -> list[Claim]:
    """Return new claims as those of the shipped chain."""
    return [
        Claim(policy="rate", identity="t", unit="requests", limit=UNREACHED_LIMIT, window=Sliding(60.0), base=1),
        Claim(
            policy="b",
            identity="t",
            unit="tokens",
            limit=UNREACHED_LIMIT,
            window=Calendar("day"),
            base=9,
            per_token=1,
            floor=64,
        ),
    ]


async def timed(step: Awaitable[object]) -> float:
    begun = time.process_time_ns()
    await step
    return (time.process_time_ns() - begun) / 1000


async def alone(store: Store, calls: int, name: str = "") -> Spent:
    """Return the medians of *calls* that run one after the other."""
    reserved, settled = [], []
    for at in range(calls):
        call, wanted = f"{name}-{at}", claims()
        key = wanted[1].key
        other_work()
        reserved.append(await timed(store.reserve(call, wanted, 400)))
        other_work()
        settled.append(await timed(store.settle(call, {key: 50})))
    return statistics.median(reserved), statistics.median(settled)


async def crowd(store: Store, calls: int, name: str = "") -> Spent:
    """Return the median per call of iterations in which eight of fifty calls continue, including task switches."""
    waiting: list[asyncio.Future[None]] = []
    loop = asyncio.get_running_loop()
    other = [claims() for _ in range(CROWD_SIZE)]

    async def turns(at: int) -> None:
        for turn in range(calls // CROWD_SIZE):
            call = f"{name}-{at}-{turn}"
            await gate()
            await store.reserve(call, other[at], 400)
            await gate()
            await store.settle(call, {other[at][1].key: 50})

    def gate() -> asyncio.Future[None]:
        future = loop.create_future()
        waiting.append(future)
        return future

    tasks = [asyncio.create_task(turns(at)) for at in range(CROWD_SIZE)]
    await asyncio.sleep(0)
    spent = []
    while waiting:
        other_work()
        chosen = waiting[:CALLS_PER_ITERATION]
        del waiting[:CALLS_PER_ITERATION]
        begun = time.process_time_ns()
        for future in chosen:
            future.set_result(None)
        while len(waiting) + sum(task.done() for task in tasks) < CROWD_SIZE:  # noqa: ASYNC110  # event-loop iterations are measured
            await asyncio.sleep(0)
        spent.append((time.process_time_ns() - begun) / 1000 / len(chosen))
    await asyncio.gather(*tasks)
    return statistics.median(spent), statistics.median(spent)


def shared(folder: Path, calls: int) -> Spent:
    """Return the means of four processes that use one file."""
    command = [sys.executable, __file__, "--calls", str(calls), "--in", str(folder)]
    running = [subprocess.Popen([*command, f"p{at}"], stdout=subprocess.PIPE, text=True) for at in range(PROCESS_COUNT)]
    outputs = [process.communicate()[0].split() for process in running]
    return statistics.mean(float(each[0]) for each in outputs), statistics.mean(float(each[1]) for each in outputs)


def measured(
    url: str, folder: Path, calls: int, how: Callable[[Store, int, str], Awaitable[Spent]], name: str
) -> Spent:
    async def run() -> Spent:
        store = open_store(url, folder=folder)
        try:
            await how(store, 100, f"first-{name}")
            return await how(store, calls, name)
        finally:
            await store.aclose()

    return asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--in", dest="shared", nargs=2, metavar=("FOLDER", "NAME"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.shared:
        folder, name = given.shared
        print(*measured("sqlite:///shared.db", Path(folder), given.calls, alone, name))
        return
    found: dict[str, list[Spent]] = {}
    with tempfile.TemporaryDirectory() as made:
        for at in range(given.rounds):
            folder = Path(made, f"{at}")
            folder.mkdir()
            for kind, url in (("memory", "memory://"), ("sqlite", "sqlite:///s.db")):
                for how in (alone, crowd):
                    spent = measured(url, folder, given.calls, how, how.__name__)
                    found.setdefault(f"{kind} {how.__name__}", []).append(spent)
            found.setdefault("sqlite shared", []).append(shared(folder, given.calls))
    print(f"{'':14} {'reserve':>8} {'settle':>8} {'both':>8}   us of CPU")
    for label, each in found.items():
        reserve, settle = (statistics.median(column) for column in zip(*each, strict=True))
        print(f"{label:14} {reserve:>8.1f} {settle:>8.1f} {reserve + settle:>8.1f}")


if __name__ == "__main__":
    main()
