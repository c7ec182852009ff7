"""One measurement: CPU and memory of a proxy under load from another process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TypeAlias

from processes import OTHERS, PROXY, core_ns, cpu_ns, pin, resident_mb
from targets import Target
from workloads import Work, request_body

BENCH_FOLDER = Path(__file__).parent
WARM_UP_SECONDS = 0.5
"""Seconds of load before the measurement, for workloads without pauses."""
REST_SECONDS, REST_CPU_NS = 0.4, 4_000_000
"""A proxy is at rest when it used less than `REST_CPU_NS` of CPU in `REST_SECONDS`."""

Row: TypeAlias = "dict[str, Any]"


def measure(
    target: Target,
    name: str,
    work: Work,
    seconds: float,
    folder: Path,
    *,
    core: int | None = OTHERS,
    warm: bool = True,
) -> Row:
    """Measure *work* once, with the client on *core*; *warm* runs some load first that does not count.

    `others_percent` is the share of the proxy's core that other programs used. They displace its caches, which slows
    short requests more than long ones.
    """
    named: Row = {"work": name, "target": target.name, "unit": work.unit}
    if warm and work.kind == "closed" and not work.interval:
        _closed(
            target, work._replace(connections=min(work.connections, 20)), min(WARM_UP_SECONDS, seconds), folder, core
        )
    begun, core_begun, spent = time.monotonic_ns(), core_ns(PROXY), _cpu(target)
    if work.kind == "closed":
        row = _closed(target, work, seconds, folder, core)
    else:
        row = (_idle if work.kind == "idle" else _slow)(target, work, folder, core)
    others = core_ns(PROXY) - core_begun - (_cpu(target) - spent)
    return named | row | {"others_percent": max(0, round(100 * others / (time.monotonic_ns() - begun)))}


def _closed(target: Target, work: Work, seconds: float, folder: Path, core: int | None) -> Row:
    begun = _cpu(target)
    more = (str(work.connections), str(seconds), f"--spread={work.spread}")
    row = _ended(_client("load.py", target, work, folder, core, *more))
    spent = (_cpu(target) - begun) / 1000
    row["cpu_us_per_request"] = round(spent / max(1, row["ok"]), 2)
    row["cpu_us_per_token"] = round(spent / max(1, row["tokens"]), 3)
    row["cpu_us_per_unit"] = row[f"cpu_us_per_{work.unit}"]
    return row | {"resident_mb": _memory(target)}


def _idle(target: Target, work: Work, folder: Path, core: int | None) -> Row:
    """Hold streams open until each has got one token."""
    before = _memory(target)
    client = _open(target, work, folder, core)
    begun, hold = _cpu(target), work.interval / 1000
    time.sleep(hold)
    spent, resident = (_cpu(target) - begun) / 1000, _memory(target)
    row = _ended(client)
    row["cpu_us_per_unit"] = round(spent / (work.connections * hold), 2)
    return row | {"resident_mb": resident, "grown_mb": round(resident - before, 1)}


def _slow(target: Target, work: Work, folder: Path, core: int | None) -> Row:
    """Read nothing until the proxy is at rest, then read all answers."""
    before, begun = _memory(target), _cpu(target)
    client = _open(target, work, folder, core)
    seen = -REST_CPU_NS
    while (now := _cpu(target)) - seen >= REST_CPU_NS:
        seen = now
        time.sleep(REST_SECONDS)
    resident = _memory(target)
    row = _ended(client)
    row["cpu_us_per_unit"] = round((_cpu(target) - begun) / 1000 / max(1, row["tokens"]), 3)
    row["whole"] = row["tokens"] == work.tokens * work.connections
    return row | {"resident_mb": resident, "grown_mb": round(resident - before, 1)}


def _cpu(target: Target) -> int:
    return cpu_ns(target.pid) if target.pid else 0


def _memory(target: Target) -> float:
    return round(resident_mb(target.pid), 1) if target.pid else 0.0


def _client(
    program: str, target: Target, work: Work, folder: Path, core: int | None, *more: str
) -> subprocess.Popen[str]:
    body = folder / "body.json"
    body.write_text(json.dumps(request_body(work, target.path), ensure_ascii=False))
    kind = () if work.kind == "closed" else (work.kind,)
    command = [sys.executable, str(BENCH_FOLDER / program), *kind, str(target.port), target.path, str(body), *more]
    command += [f"--header={header}" for header in target.headers]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: pin(core),  # noqa: PLW1509  # a script with one thread
    )


def _open(target: Target, work: Work, folder: Path, core: int | None) -> subprocess.Popen[str]:
    client = _client("hold.py", target, work, folder, core, str(work.connections))
    assert client.stdout is not None
    client.stdout.readline()
    return client


def _ended(client: subprocess.Popen[str]) -> Row:
    output, _ = client.communicate("\n")
    if client.returncode:
        msg = "the load client failed; its output is above"
        raise RuntimeError(msg)
    row: Row = json.loads(output.splitlines()[-1])
    return row
