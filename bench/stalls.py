"""Measure the longest step of the event loop for each request of a hostile client, and each answer of a hostile upstream.

The sidecar runs in its own process with a probe in its event loop. A step is one step of a task, or one callback of a
connection. Its CPU time is the minimum of several runs: other processes can only add to it. `iteration` is the CPU time
between two ticks of the probe, which may have several steps. `memory` is by how much the process grew at most during the
case, in megabytes. Compressed bodies have their compressed size. While the store's file is locked, a step is the longest
delay of a timer in wall time, because a wait uses no CPU. The exit code is 1 if a step exceeds its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from api_keys import key
from hostile_requests import CASES, KEY, LARGE_STEP_MS, STEP_MS, Case, Refusing, configuration
from locked_store import blocked
from probe import Probed, probed
from processes import PROXY
from wire import Client, Connection, upstream

BUDGET = """
[store]
url = "memory://"

[[upstream]]
base_url = "{url}"
breaker = {{ calls = 0 }}

[[policy]]
use = "budget"
tokens = 900_000_000_000

"""
"""The configuration for hostile answers."""

ROUNDS = 3
ANSWER_SECONDS = 120.0
"""Seconds within which the sidecar must answer: a stall is measured, also where it lasts."""
ANSWERS_TABLE = "hostile_answers"
"""The module of the hostile answers, in `ANSWERS`."""


class Row(NamedTuple):
    """The measurements of one case, in milliseconds and megabytes."""

    case: str
    size: int
    status: int
    step: float
    iteration: float
    limit: float
    memory: float
    where: str = ""

    def __str__(self) -> str:
        """Return the row of the table, with the place of a step that takes more than half of its limit."""
        where = f"  {self.where}" if self.step > self.limit / 2 else ""
        return (
            f"{self.case:39}{self.size:>11,}{self.status:>7}{self.step:>9.2f}{self.iteration:>10.2f}"
            f"{self.limit:>6.0f}{self.memory:>8.1f}{where}"
        )


def reset_peak(pid: int) -> None:
    """Let the kernel forget the most memory that *pid* has had."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def memory_mb(pid: int, field: str) -> float:
    """Return *field* of the memory of *pid* in megabytes: `VmRSS` now, `VmHWM` at most."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


class Probing:
    """Measures cases on a running sidecar."""

    def __init__(self, served: Probed, rounds: int) -> None:
        self._served, self._rounds = served, rounds

    async def row(self, case: str, size: int, limit: float, run: Callable[[], Awaitable[int]]) -> Row:
        """Return the row of *case*, whose *run* sends its request and returns the status of the answer."""
        pid = self._served.popen.pid
        before, samples, status = memory_mb(pid, "VmRSS"), [], 0
        reset_peak(pid)
        for _ in range(self._rounds):
            status = await run()
            samples.append(await asyncio.to_thread(self._served.sample))
        grown = memory_mb(pid, "VmHWM") - before
        best = min(samples, key=lambda each: each.step_ms)
        iteration = min(each.turn_ms for each in samples)
        return Row(case, size, status, best.step_ms, iteration, limit, grown, best.where)

    async def status(self, request: Callable[[Client], Awaitable[None]]) -> int:
        """Send *request*, and read until the end of the connection; return the status, 0 without one."""
        client = await Client.to(self._served.port)
        try:
            await request(client)
            async with asyncio.timeout(ANSWER_SECONDS):
                head = await client.reader.read(12)
                while await client.reader.read(1 << 20):
                    pass
        except (ConnectionError, TimeoutError):
            return 0
        finally:
            client.close()
        return int(head[9:12] or 0)


async def of_requests(folder: Path, only: str, rounds: int) -> AsyncIterator[Row]:
    """Measure the requests whose names contain *only*."""
    script = Refusing()
    async with upstream(script) as up:
        (folder / "sidecar.toml").write_text(configuration(up.url))
        with probed("serve", "--config", "sidecar.toml", "--port", "0", folder=folder, core=PROXY) as served:
            probing = Probing(served, rounds)
            for case in CASES:
                if only in case.name:
                    body = case.body()

                    async def request(client: Client, case: Case = case, body: bytes = body) -> None:
                        script.refusal = case.refusal
                        up.requests.clear()
                        await client.post(case.path, body, "connection: close", *case.headers)

                    size = len(body)
                    yield await probing.row(case.name, size, case.most_ms(size), partial(probing.status, request))


async def of_answers(folder: Path, only: str, rounds: int) -> AsyncIterator[Row]:
    """Measure the answers whose names contain *only*."""
    response = b""

    async def script(connection: Connection) -> None:
        await connection.send(response)
        connection.close()

    text = BUDGET + key(KEY, "hostile", 'models = ["m*", "a*"]')
    async with upstream(script) as up:
        (folder / "sidecar.toml").write_text(text.format(url=up.url))
        with probed("serve", "--config", "sidecar.toml", "--port", "0", folder=folder, core=PROXY) as served:
            probing = Probing(served, rounds)
            for name, answer in importlib.import_module(ANSWERS_TABLE).ANSWERS.items():
                if only in name:
                    response = answer.response()

                    async def request(client: Client, answer: Any = answer) -> None:
                        up.requests.clear()
                        headers = (f"authorization: Bearer {KEY}", "connection: close")
                        if answer.lists_models:
                            client.writer.write(
                                "\r\n".join(("GET /v1/models HTTP/1.1", "host: x", *headers, "", "")).encode()
                            )
                        else:
                            await client.post(answer.path, answer.question, *headers)

                    limit = LARGE_STEP_MS if answer.large else STEP_MS
                    yield await probing.row(name, len(response), limit, partial(probing.status, request))


async def of_failing_stores(folder: Path, only: str, rounds: int) -> AsyncIterator[Row]:
    """Measure the store while its file is locked or cannot grow; the step is the longest delay of a timer."""
    async for each in blocked(folder, only, rounds):
        best = each.best
        yield Row(each.case, 0, each.status, best.late_ms, best.turn_ms, STEP_MS, 0.0)


async def compare(folder: Path, only: str, rounds: int) -> int:
    """Print a row for each case whose name contains *only*; return the number of steps above their limit."""
    tables = [of_requests(folder, only, rounds)]
    if importlib.util.find_spec(ANSWERS_TABLE) is not None:
        tables.append(of_answers(folder, only, rounds))
    tables.append(of_failing_stores(folder, only, rounds))
    print(f"{'case':39}{'bytes':>11}{'status':>7}{'step ms':>9}{'iteration':>10}{'limit':>6}{'memory':>8}")
    above = 0
    for table in tables:
        async for row in table:
            print(row, flush=True)
            above += row.step > row.limit
    return above


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        above = asyncio.run(compare(Path(name), given.only, given.rounds))
    print(f"{above} of the steps exceed their limit")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
