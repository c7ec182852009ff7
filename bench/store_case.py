"""Measure one store in a process of its own: CPU and bytes of a call, which is one reservation and its settlement.

Each call claims from one sliding window of a minute and from some calendar budgets of its tenant. Prints one JSON object.
With `--seconds` it prints a line when it is ready, and after a line on its input calls the store for that time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import uvloop
from processes import cpu_ns, resident_mb
from redis_process import RedisUsage, redis_usage

from policies.api.claim import Claim
from policies.api.store import Store, StoreDown
from policies.api.window import Calendar, Period, Sliding
from policies.stores.opening import open_store

ResultT = TypeVar("ResultT")

PERIODS: tuple[Period, ...] = ("day", "month", "hour", "week")
LIMIT = 10**12
CEILING_TOKENS, CHARGED_TOKENS = 400, 50
SEEDED_AT_ONCE = 64
RUNNING_CALLS = 1_000
"""Reservations that are open when their memory is read."""
TENANT_STRIDE = 7919
"""A prime number: consecutive calls are of tenants whose counters are far apart."""
MAX_REPEATS, REPEAT_SECONDS = 20, 0.5
GC_THRESHOLDS = (20_000, 20, 20)
"""Those of `sidecar serve`."""


def claims_of(tenant: int, budgets: int) -> list[Claim]:
    """Return the claims of one call: a rate, and *budgets* budgets of different names and periods."""
    identity = f"tenant-{tenant:05}"
    rate = Claim(policy="rate", identity=identity, unit="requests", limit=LIMIT, window=Sliding(60.0), base=1)
    windows = [Calendar(PERIODS[at % len(PERIODS)]) for at in range(budgets)]
    return [rate] + [
        Claim(policy=f"budget-{at}", identity=identity, unit="tokens", limit=LIMIT, window=window, base=9, per_token=1, floor=64)
        for at, window in enumerate(windows)
    ]  # fmt: skip


class Shape(NamedTuple):
    """How many budgets a call has, how many tenants have counters, and how many calls are made at the same time.

    The calls are made by *nodes* stores in turn, each of which stands for a process.
    """

    budgets: int
    tenants: int
    at_once: int
    nodes: int = 1

    @property
    def claims(self) -> list[list[Claim]]:
        """The claims of a call of each tenant."""
        return [claims_of(tenant, self.budgets) for tenant in range(self.tenants)]


class Bytes(NamedTuple):
    """Readings of bytes: resident in memory or in the file, sent and received, and written to disk."""

    kept: float
    network: float
    written: float


class Place(NamedTuple):
    """Where a store keeps its counters, and how to read its size."""

    url: str
    folder: Path
    server_pid: int = 0
    server_port: int = 0

    def open(self) -> Store:
        """Open the store as `sidecar serve` does."""
        return open_store(self.url, folder=self.folder, resident=True)

    def server_ns(self) -> int:
        """Return the CPU time of the store's server."""
        return cpu_ns(self.server_pid) if self.server_pid else 0

    def bytes(self) -> Bytes:
        """Read the bytes now. A SQLite store must be closed: then its WAL is in the file."""
        if self.server_port:
            usage: RedisUsage = redis_usage(self.server_port)
            return Bytes(usage.memory, usage.network, usage.journal)
        if self.url.startswith("sqlite"):
            file = self.folder / self.url.removeprefix("sqlite:///")
            return Bytes(file.stat().st_size if file.exists() else 0, 0, _written())
        gc.collect()
        return Bytes(resident_mb(os.getpid()) * 1e6, 0, 0)


def _written() -> int:
    """Return the bytes that this process has written to files."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar:")).partition(":")[2])


async def persistently(operation: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """Return the result of *operation*, which is repeated while the store does not answer: a busy machine may time out."""
    for _ in range(MAX_REPEATS):
        try:
            return await operation()
        except StoreDown:
            await asyncio.sleep(REPEAT_SECONDS)
    return await operation()


class Caller:
    """Makes calls at stores in turn, some at the same time."""

    def __init__(self, stores: Sequence[Store], claims: Sequence[Sequence[Claim]], first: str) -> None:
        self._stores, self._claims, self._first = stores, claims, first
        self._count = 0
        self.refused = self.down = 0

    async def run(self, calls: int, at_once: int) -> None:
        """Make *calls* calls, *at_once* at the same time."""
        for _ in range(0, calls, at_once):
            if at_once == 1:
                await self._call(0)
            else:
                await asyncio.gather(*[self._call(1) for _ in range(at_once)])

    async def _call(self, pauses: int) -> None:
        self._count += 1
        number = self._count
        call_id = f"{self._first}-{number:012}"
        claims = self._claims[number * TENANT_STRIDE % len(self._claims)]
        store = self._stores[number % len(self._stores)]
        try:
            grant = await store.reserve(call_id, claims, CEILING_TOKENS)
            if grant.refused is not None:
                self.refused += 1
                return
            for _ in range(pauses):
                await asyncio.sleep(0)  # otherwise a store that never waits serves the calls one after the other
            await store.settle(call_id, {claim.key: CHARGED_TOKENS for claim in claims[1:]})
        except StoreDown:
            self.down += 1


async def _read(place: Place, store: Store) -> tuple[Store, Bytes]:
    """Read the bytes of *store*, and return the store to use from now on."""
    if not place.url.startswith("sqlite"):
        return store, place.bytes()
    await store.aclose()
    return place.open(), place.bytes()


async def measure(place: Place, shape: Shape, calls: int, rounds: int) -> dict[str, object]:
    """Return microseconds of CPU per call in each round, and bytes per call and tenant."""
    claims, (_, tenants, at_once, nodes) = shape.claims, shape
    store = place.open()
    await persistently(store.heartbeat)
    store, empty = await _read(place, store)
    await Caller([store], claims, "seed").run(tenants, SEEDED_AT_ONCE if tenants > 1 else 1)
    store, seeded = await _read(place, store)
    stores = [store, *(place.open() for _ in range(1, nodes))]
    caller = Caller(stores, claims, "call")
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    client, server = list[float](), list[float]()
    await caller.run(at_once, at_once)
    for _ in range(rounds):
        for each in stores:
            await persistently(each.heartbeat)
        server_began, began = place.server_ns(), time.process_time_ns()
        await caller.run(calls, at_once)
        client.append((time.process_time_ns() - began) / calls / 1000)
        server.append((place.server_ns() - server_began) / calls / 1000)
    store, ended = await _read(place, store)
    for at in range(RUNNING_CALLS):
        reserved = f"running-{at:012}", claims[at * TENANT_STRIDE % tenants], CEILING_TOKENS
        await persistently(functools.partial(store.reserve, *reserved))
    store, held = await _read(place, store)
    for each in (store, *stores[1:]):
        await each.aclose()
    made = calls * rounds + at_once
    kept_per_call = (ended.kept - seeded.kept) / made
    return {
        "client_us": client,
        "server_us": server,
        "network_bytes_per_call": (ended.network - seeded.network) / made,
        "written_bytes_per_call": (ended.written - seeded.written) / made,
        "kept_bytes_per_call": kept_per_call,
        "kept_bytes_per_tenant": (seeded.kept - empty.kept) / tenants,
        "held_bytes_per_call": (held.kept - ended.kept) / RUNNING_CALLS,
        "refused": caller.refused,
        "down": caller.down,
    }


async def load(place: Place, shape: Shape, seconds: float) -> dict[str, object]:
    """Call the store for *seconds* after a line of input; return the number of calls and microseconds of CPU of all."""
    store = place.open()
    await persistently(store.heartbeat)
    caller, at_once = Caller([store], shape.claims, f"call-{os.getpid()}"), shape.at_once
    await caller.run(2 * at_once, at_once)
    print("ready", flush=True)
    sys.stdin.readline()
    calls, began, until = 0, time.process_time_ns(), time.monotonic() + seconds
    while time.monotonic() < until:
        await caller.run(at_once, at_once)
        calls += at_once
    spent = time.process_time_ns() - began
    await store.aclose()
    return {"calls": calls, "cpu_us": spent / 1000, "refused": caller.refused, "down": caller.down}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name the store."""
    parser.add_argument("url")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--server", help="PID,PORT of the store's own server")


def place_of(given: argparse.Namespace) -> Place:
    """Return the store that the arguments name."""
    pid, port = map(int, given.server.split(",")) if given.server else (0, 0)
    return Place(given.url, given.folder, pid, port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    arguments(parser)
    parser.add_argument("--budgets", type=int, default=1)
    parser.add_argument("--tenants", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--calls", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.0)
    given = parser.parse_args()
    place, shape = place_of(given), Shape(given.budgets, given.tenants, given.at_once, given.nodes)
    with contextlib.closing(uvloop.new_event_loop()) as loop:
        if given.seconds:
            found = loop.run_until_complete(load(place, shape, given.seconds))
        else:
            found = loop.run_until_complete(measure(place, shape, given.calls, given.rounds))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
