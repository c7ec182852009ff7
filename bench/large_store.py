"""Fill a SQLite store with 1,000,000 counters, and measure how long other processes wait for its write lock meanwhile.

A process of its own takes the lock of the file every few milliseconds and records its waits. Meanwhile the store is opened, gets
heartbeats that remove what has expired, and serves calls, and `sidecar usage` reads all counters. `idle` is the wait while
nothing else uses the file: the noise of the machine. The exit code is 1 if a wait exceeds 20 ms, those of calls apart:
there the disk decides, because the first write to a restarted WAL is synchronised while it holds the lock. It is also 1 if the WAL
grows beyond 32 MB. After the phases above the expired counters are removed by calls, as fast as they can be.

The rows are copies of those that a store has written itself, so that any version of its schema can be filled. ROWS is the
number of counters; FILE keeps the file there, and uses one that exists (also one of an older version).
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from process import environment

from policies.api.claim import Claim
from policies.api.store import Store
from policies.api.window import Calendar, Sliding
from policies.stores.opening import open_store

ROWS = int(os.environ.get("ROWS", "1000000"))
FILE = os.environ.get("FILE", "")
MOST_WAIT_MS = 20.0
MOST_WAL_MB = 32.0
HEARTBEATS, CALLS, CALLS_AT_ONCE = 60, 2_000, 4
REMOVAL_SECONDS = float(os.environ.get("REMOVAL_SECONDS", "60"))
"""Longest removal of expired counters."""
CALLS_PER_COUNT, UNCHANGED_COUNTS = 400, 4
PAUSE_SECONDS = 0.002
"""Between two attempts to take the lock, and between two heartbeats."""
SPIN_SECONDS = 0.0002
"""Between two attempts while the file is locked: SQLite itself would wait in larger steps."""
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


class Waits(NamedTuple):
    """The waits for the lock, in milliseconds."""

    number: int
    longest: float
    over: int
    wal_mb: float
    """The largest size of the WAL meanwhile."""


def sample_waits(path: str) -> None:
    """Take the lock of *path* again and again until stdin is closed; print a line of JSON for each line of stdin."""
    file = sqlite3.connect(path, timeout=0, isolation_level=None)
    os.set_blocking(0, False)
    waits: list[float] = []
    wal, largest = Path(f"{path}-wal"), 0
    while True:
        with contextlib.suppress(FileNotFoundError):
            largest = max(largest, wal.stat().st_size)
        try:
            line = os.read(0, 1)
        except BlockingIOError:
            pass
        else:
            if not line:
                return
            over = sum(each > MOST_WAIT_MS for each in waits)
            print(json.dumps([len(waits), max(waits, default=0.0), over, largest / 1e6]), flush=True)
            waits.clear()
            largest = 0
        waits.append(_wait(file))
        time.sleep(PAUSE_SECONDS)


def _wait(file: sqlite3.Connection) -> float:
    began = time.perf_counter()
    while True:
        try:
            file.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            time.sleep(SPIN_SECONDS)
        else:
            waited = time.perf_counter() - began
            file.execute("ROLLBACK")
            return waited * 1000


class Sampler:
    """The process that takes the lock."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.longest = self.wal_mb = 0.0

    def waits(self) -> Waits:
        """Return the waits since the last call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Waits(*json.loads(self._process.stdout.readline()))

    def report(self, name: str, began: float, *, counts: bool = True) -> None:
        """Print the line of one phase, which began at *began* (monotonic seconds); without *counts* its waits may be longer."""
        seconds = time.monotonic() - began
        waits = self.waits()
        columns = f"{seconds:8.2f} {waits.number:8,} {waits.longest:11.1f} {waits.over:8} {waits.wal_mb:8.1f}"
        print(f"{name:34} {columns}", flush=True)
        self.wal_mb = max(self.wal_mb, waits.wal_mb)
        if counts:
            self.longest = max(self.longest, waits.longest)


@contextlib.contextmanager
def sampling(path: Path) -> Iterator[Sampler]:
    """Run the process that takes the lock while the block lasts."""
    command = [sys.executable, __file__, "--sample", str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Sampler(process)
    finally:
        process.communicate()


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
    if sys.argv[1:2] == ["--sample"]:
        sample_waits(sys.argv[2])
        return 0
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
