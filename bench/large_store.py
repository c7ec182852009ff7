"""Fill a SQLite store with 1,000,000 counters, and measure how long other processes wait for its write lock meanwhile.

A process of its own takes the lock of the file every few milliseconds and records its waits. Meanwhile the store is opened, gets
heartbeats that remove what has expired, and serves calls, and `sidecar usage` reads all counters. `idle` is the wait while
nothing else uses the file: the noise of the machine. The exit code is 1 if a wait exceeds 20 ms, those of calls apart:
there the disk decides, because the first write to a restarted WAL is synchronised while it holds the lock. It is also 1 if the WAL
grows beyond 32 MB. After these phases, calls remove the expired counters as fast as they can.

The rows are copies of those that a store has written itself, so that any version of its schema can be filled. ROWS is the
number of counters; FILE keeps the file there, and uses one that exists (also one of an older version). REMOVAL_SECONDS is the
longest time of that removal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lock_waits import MOST_WAIT_MS, sampling
from process import environment

from policies.api.claim import Claim
from policies.api.store import Store
from policies.api.window import Calendar, Sliding
from policies.stores.opening import open_store

ROWS = int(os.environ.get("ROWS", "1000000"))
FILE = os.environ.get("FILE", "")
MOST_WAL_MB = 32.0
HEARTBEATS, CALLS, CALLS_AT_ONCE = 60, 2_000, 4
REMOVAL_SECONDS = float(os.environ.get("REMOVAL_SECONDS", "60"))
"""Longest removal of expired counters."""
CALLS_PER_COUNT, UNCHANGED_COUNTS = 400, 4
PAUSE_SECONDS = 0.002
"""Between two heartbeats, and between some of the calls."""
TEMPLATE = "0000000"
"""The number in the names of the rows that are copied."""
DAY_SECONDS = 86_400.0
AGES_DAYS = {"expired": 90.0, "closed": 20.0, "open": 0.0}
"""Days since the use of the counters: to be removed, kept, open."""
CONFIG = '[store]\nurl = "sqlite:///s.db"\n[[policy]]\nuse = "budget"\nname = "open"\ntokens = 1000\nwindow = "month"\n'


def claims_of(age: str, name: str) -> list[Claim]:
    """Return the claims of one identity: a month of tokens, a day of tokens, and a rate."""

    def claim(policy: str, unit: Any, window: Calendar | Sliding) -> Claim:
        return Claim(policy=policy, identity=name, unit=unit, limit=10**9, window=window, base=1)

    return [
        claim(age, "tokens", Calendar("month")),
        claim(f"{age}-day", "tokens", Calendar("day")),
        claim(f"{age}-rate", "requests", Sliding(60.0)),
    ]


async def write_templates(path: Path, now: float) -> int:
    """Let the store write one identity of each age; return how many counters that are."""
    for age, days in reversed(AGES_DAYS.items()):  # the newest first: a later clock would remove what is older
        store = open_store(f"sqlite:///{path.name}", folder=path.parent, clock=lambda: now - days * DAY_SECONDS)  # noqa: B023  # used in this iteration
        name = f"{age}-{TEMPLATE}"
        await store.reserve(name, claims_of(age, name))
        await store.settle(name, {each.key: 1 for each in claims_of(age, name)[:2]})
        await store.aclose()
    return 3 * len(AGES_DAYS)


def copy_rows(path: Path, copies: int) -> None:
    """Copy each row that names a template so many times, under other names and, where they are numbered, other numbers."""
    file = sqlite3.connect(path, isolation_level=None)
    file.execute("PRAGMA synchronous = OFF")
    file.execute("BEGIN")
    tables = [name for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()]
    for table in tables:
        columns = file.execute(f"PRAGMA table_info({table})").fetchall()
        numbered = {name for _, name, kind, *_, primary in columns if primary and kind.upper() == "INTEGER"}
        if len([each for each in columns if each[5]]) > 1:
            numbered = set()
        names = [name for _, name, *_ in columns if name not in numbered]
        found = file.execute(f"SELECT {', '.join(names)} FROM {table}").fetchall()  # noqa: S608  # names of the file's own schema
        rows = [row for row in found if _is_template(row)]
        if rows:
            marks = ", ".join("?" * len(names))
            statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608  # as above
            file.executemany(statement, (_renamed(row, at) for at in range(1, copies) for row in rows))
            print(f"  {len(rows) * copies:,} rows in {table}")
    file.execute("COMMIT")
    file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.close()


def _is_template(row: tuple[Any, ...]) -> bool:
    return any(
        TEMPLATE in value if isinstance(value, str) else TEMPLATE.encode() in value
        for value in row
        if isinstance(value, str | bytes)
    )


def _renamed(row: tuple[Any, ...], number: int) -> tuple[Any, ...]:
    text = f"{number:07}"
    return tuple(
        value.replace(TEMPLATE, text)
        if isinstance(value, str)
        else value.replace(TEMPLATE.encode(), text.encode())
        if isinstance(value, bytes)
        else value
        for value in row
    )


async def heartbeats(store: Store) -> float:
    """Send heartbeats; return the longest, in milliseconds."""
    longest = 0.0
    for _ in range(HEARTBEATS):
        began = time.perf_counter()
        await store.heartbeat()
        longest = max(longest, time.perf_counter() - began)
        await asyncio.sleep(PAUSE_SECONDS)
    return longest * 1000


async def calls(store: Store, age: str) -> None:
    """Reserve and settle calls of identities that exist, with pauses in which others get the lock."""
    for at in range(CALLS):
        claims = claims_of(age, f"{age}-{at:07}")
        await store.reserve(f"call {at}", claims)
        await store.settle(f"call {at}", {each.key: 1 for each in claims[:2]})
        if not at % CALLS_AT_ONCE:
            await asyncio.sleep(PAUSE_SECONDS)


async def remove_expired(store: Store, path: Path) -> int:
    """Make calls until no more counters are removed, or the time is over; return how many rows were removed."""
    count = "SELECT count(*) FROM counter"
    with contextlib.closing(sqlite3.connect(path)) as file:
        counts: list[int] = [file.execute(count).fetchone()[0]]
        ends = time.monotonic() + REMOVAL_SECONDS
        at = 0
        while len(counts) < UNCHANGED_COUNTS or counts[-1] < counts[-UNCHANGED_COUNTS]:
            for _ in range(CALLS_PER_COUNT):
                at += 1
                await store.reserve(f"removing {at}", claims_of("open", f"open-{at % 1000:07}"))
                await store.release(f"removing {at}")
                await asyncio.sleep(PAUSE_SECONDS)
            counts.append(file.execute(count).fetchone()[0])
            if time.monotonic() > ends:
                break
    return counts[0] - counts[-1]


def run_usage(folder: Path) -> str:
    """Run `sidecar usage`; return its size."""
    command = [sys.executable, "-m", "sidecar", "usage", "--config", "s.toml", "--json"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, check=True)
    return f"{len(json.loads(done.stdout)):,} budgets"


async def open_once(path: Path) -> None:
    """Open the store, which may convert a file of an older version, and print how long that takes."""
    began = time.monotonic()
    store = open_store(f"sqlite:///{path.name}", folder=path.parent)
    await store.ping()
    await store.aclose()
    print(f"opened for the first time in {time.monotonic() - began:.2f} s")


async def measure(path: Path) -> bool:
    """Print the waits of each phase; return whether none is too long."""
    offset = 0.0

    def clock() -> float:
        return time.time() + offset

    with sampling(path) as sampler:
        print(f"{'phase':34} {'seconds':>8} {'waits':>8} {'longest ms':>11} {'over 20':>8} {'WAL MB':>8}")
        began = time.monotonic()
        await asyncio.sleep(2)
        sampler.report("idle", began, counts=False)
        began = time.monotonic()
        store = open_store(f"sqlite:///{path.name}", folder=path.parent, clock=clock, resident=True)
        await store.ping()
        sampler.report("open the file", began)
        for age in AGES_DAYS:
            # Each time as after half an hour: a store may remove what has expired only that often.
            offset, began = offset + 1_800.0, time.monotonic()
            longest = await heartbeats(store)
            sampler.report(f"{HEARTBEATS} heartbeats ({longest:.0f} ms at most)", began)
            began = time.monotonic()
            await calls(store, age)
            sampler.report(f"{CALLS} calls", began, counts=False)
        began = time.monotonic()
        await store.accounts()
        sampler.report("accounts()", began)
        began = time.monotonic()
        size = await asyncio.to_thread(run_usage, path.parent)
        sampler.report(f"sidecar usage ({size})", began)
        began = time.monotonic()
        removed = await remove_expired(store, path)
        sampler.report(f"removal of {removed:,} rows", began, counts=False)
        await store.aclose()
        print(f"longest wait for the lock: {sampler.longest:.1f} ms, at most {MOST_WAIT_MS:.0f}")
        print(f"largest WAL: {sampler.wal_mb:.1f} MB, at most {MOST_WAL_MB:.0f}")
        return sampler.longest <= MOST_WAIT_MS and sampler.wal_mb <= MOST_WAL_MB


def main() -> int:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        path = Path(FILE).absolute() if FILE else Path(name) / "s.db"
        if not path.exists():
            print(f"filling {path.name} with {ROWS:,} counters")
            templates = asyncio.run(write_templates(path, time.time()))
            copy_rows(path, ROWS // templates)
            os.sync()  # else the first waits are for the disk, which still writes the copies
        (path.parent / "s.toml").write_text(CONFIG.replace("s.db", path.name))
        print(f"{path.stat().st_size / 1e6:.0f} MB")
        asyncio.run(open_once(path))
        return 0 if asyncio.run(measure(path)) else 1


if __name__ == "__main__":
    sys.exit(main())
