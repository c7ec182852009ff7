"""Fuzz both wires of the sidecar: mutated requests, and mutated answers of an upstream.

    python tests/fuzz/fuzz.py [--seed N] [--cases N] [--wire client|upstream|both] [--first N]
    python tests/fuzz/fuzz.py --replay FILE

Without --cases it runs until it is interrupted. Each case depends on the seed and its number only. A case that fails is
made smaller and written to build/fuzz/; its file replays it. The variables FUZZ_SEED and FUZZ_CASES are the defaults.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from random import Random, SystemRandom

import msgspec
from client_wire import ClientCase, check_client_case, make_client_case
from fuzzed import Fuzzed, fuzzed, received
from places import ROOT
from shrinking import AnyCase, shrunk
from strict_http import read_responses
from upstream_wire import ORDINARY, call, check_upstream_case, make_upstream_case

BATCH = 25
"""Cases between two checks that ordinary calls work."""
CASES_PER_TURN = 5_000
"""Cases of one wire before the other one follows, where there is no limit."""
PROGRESS_SECONDS = 5.0
WIRES: dict[str, Callable[[Random], AnyCase]] = {"client": make_client_case, "upstream": make_upstream_case}
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
FAULTS = ROOT / "build" / "fuzz"


class Found(msgspec.Struct):
    """A case that failed, where it came from, and what is wrong."""

    seed: int
    number: int
    faults: list[str]
    case: AnyCase

    def __str__(self) -> str:
        """Return one line per fault."""
        lines = "\n".join(f"  {fault}" for fault in self.faults)
        return f"seed {self.seed}, case {self.number} ({type(self.case).__name__}):\n{lines}"


class Report(msgspec.Struct):
    """The result of a run."""

    cases: int = 0
    seconds: float = 0.0
    found: list[Found] = msgspec.field(default_factory=list)
    worst_ms: float = 0.0
    worst_where: str = ""
    grown_mb: float = 0.0

    def __str__(self) -> str:
        """Return the numbers in one line."""
        return (
            f"{self.cases} cases in {self.seconds:.0f} s, {len(self.found)} faults, longest step {self.worst_ms} ms "
            f"({self.worst_where or 'below 10 ms'}), memory {self.grown_mb:+.0f} MB"
        )


def make_case(wire: str, seed: int, number: int) -> AnyCase:
    """Return the case *number* of *seed*."""
    return WIRES[wire](Random(f"{seed} {wire} {number}"))


async def check(case: AnyCase, target: Fuzzed) -> list[str]:
    """Run *case*; return the faults, also that of a process that has ended."""
    try:
        if isinstance(case, ClientCase):
            faults = await check_client_case(case, target)
        else:
            faults = await check_upstream_case(case, target)
    except (OSError, TimeoutError, msgspec.DecodeError) as error:
        faults = [f"the process does not answer: {type(error).__name__}: {error}"]
    except Exception:  # noqa: BLE001  # of the fuzzer itself: the run goes on
        faults = [f"the check failed: {traceback.format_exc()[-800:]}"]
    return faults if target.alive() else [*faults, "the process has ended"]


async def check_ordinary(target: Fuzzed) -> list[str]:
    """Return what is wrong with ordinary calls: each must get exactly the bytes of its answer."""
    faults = []
    for schema, body in ORDINARY.items():
        raw, _ = await call(target, schema)
        if [each.body for each in read_responses(raw)] != [body]:
            faults.append(f"an ordinary call got another answer: {raw[:300]!r}")
    raw, _ = await received(target.port, [HEALTH], lambda _: False, leave=False)
    if not raw.endswith(b'{"status":"ok"}'):
        faults.append(f"/healthz: {raw[:300]!r}")
    return faults + target.faults_of(await target.settled())


async def run(
    wire: str, seed: int, cases: int, first: int = 0, *, report: Report | None = None, progress: bool = False
) -> Report:
    """Run *cases* cases from number *first* on; a process that failed is replaced. The results are added to *report*."""
    report = report or Report()
    begun = time.monotonic() - report.seconds
    printed = report.seconds
    start, last = first, first + cases
    while start < last:
        async with fuzzed() as target:
            for number in range(start, last):
                case = make_case(wire, seed, number)
                faults = await check(case, target)
                if not faults and (number + 1) % BATCH == 0:
                    faults = await check_ordinary(target)
                start = number + 1
                _measure(report, target)
                report.seconds = time.monotonic() - begun
                if progress and report.seconds - printed >= PROGRESS_SECONDS:
                    printed = report.seconds
                    print(f"{wire}: {report}", flush=True)
                if faults:
                    report.found.append(Found(seed, number, faults, case))
                    if progress:
                        print(report.found[-1], flush=True)
                    break
    return report


def _measure(report: Report, target: Fuzzed) -> None:
    """Add one case of *target* to *report*."""
    report.cases += 1
    if target.worst_ms > report.worst_ms:
        report.worst_ms, report.worst_where = target.worst_ms, target.worst_where
    report.grown_mb = max(report.grown_mb, target.grown_mb)


async def smaller(found: Found) -> AnyCase:
    """Return the case of *found*, made smaller if it fails alone; each failure ends its process."""
    kinds = {fault.partition(":")[0] for fault in found.faults}
    async with AsyncExitStack() as stack:
        targets: list[Fuzzed] = []

        async def fails(case: AnyCase) -> bool:
            if not targets:
                targets.append(await stack.enter_async_context(fuzzed()))
            faults = await check(case, targets[0])
            if faults:
                targets.clear()
                await stack.aclose()
            return bool(kinds & {fault.partition(":")[0] for fault in faults})

        return await shrunk(found.case, fails) if await fails(found.case) else found.case


async def save(found: Found) -> Path:
    """Write *found* to a file, with a smaller case where possible; return its path."""
    case = await smaller(found)
    FAULTS.mkdir(parents=True, exist_ok=True)
    path = FAULTS / f"{type(case).__struct_config__.tag}-{found.seed}-{found.number}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(found, case=case))))
    return path


async def replay(path: Path) -> int:
    """Run the case in *path*; print what is sent and what is wrong, and return the exit code."""
    found = msgspec.json.decode(path.read_bytes(), type=Found)
    for piece in found.case.pieces:
        print(repr(piece))
    async with fuzzed() as target:
        faults = await check(found.case, target) or await check_ordinary(target)
    print(*(faults or ["no fault"]), sep="\n")
    return 1 if faults else 0


async def fuzz(wires: list[str], seed: int, cases: int | None, first: int) -> int:
    """Fuzz *wires*, in turns if without a limit; return the exit code."""
    reports = {wire: Report() for wire in wires}
    turn = cases if cases is not None else CASES_PER_TURN
    for start in count(first, turn) if cases is None else (first,):
        for wire, report in reports.items():
            reported = len(report.found)
            await run(wire, seed, turn, start, report=report, progress=True)
            print(f"{wire}: {report}", flush=True)
            for found in report.found[reported:]:
                print(f"replay: python tests/fuzz/fuzz.py --replay {await save(found)}", flush=True)
    return 1 if any(report.found for report in reports.values()) else 0


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    environ = os.environ
    parser.add_argument("--seed", type=int, default=int(environ.get("FUZZ_SEED") or SystemRandom().randrange(10**9)))
    parser.add_argument("--cases", type=int, default=int(environ["FUZZ_CASES"]) if environ.get("FUZZ_CASES") else None)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--wire", choices=[*WIRES, "both"], default="both")
    parser.add_argument("--replay", type=Path, help="file of a case that failed")
    given = parser.parse_args()
    if given.replay:
        return asyncio.run(replay(given.replay))
    print(f"seed {given.seed}", flush=True)
    wires = list(WIRES) if given.wire == "both" else [given.wire]
    try:
        return asyncio.run(fuzz(wires, given.seed, given.cases, given.first))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
