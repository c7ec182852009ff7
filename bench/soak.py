"""Run full load for minutes, and check that memory, descriptors and tasks do not grow and are released afterwards.

The load has bursts and paced streams, both routes, plain answers, large prompts, clients that stop reading and clients
that disconnect. The sidecar has one core to itself, with a probe in its event loop. The exit code is 1 if a bound is
exceeded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from probe import BLOCKED_SECONDS, Probed, Sample, probed
from process import program
from processes import OTHERS, PROXY, many_files, pin
from targets import CHAT, V1, sidecar_config
from wire import Client
from workloads import STORY, WORK, Work, request_body

BENCH_FOLDER = Path(__file__).parent
SAMPLE_SECONDS = 5.0
"""Between two samples."""
MAX_GROWTH_MB = 3.0
"""By how much the memory of the last quarter may exceed that of the second."""
MAX_BLOCKED_SHARE = 0.02
"""Share of the samples, at least one, in which a step may exceed its bound: other programs cause that too."""
REST_SECONDS = 40
"""Within this time after the load, its kept connections and other resources must be released."""
WARM_UP_SECONDS = 10.0
LOADS = {
    "burst": (V1, WORK["burst"], 10),
    "paced": (V1, WORK["paced"], 60),
    "plain": (V1, WORK["plain"], 2),
    "chat": (CHAT, WORK["burst"], 5),
}
"""Path, workload and connections of each `load.py`."""
LONG = Work(4000, 0, 0, 1)


class OtherClients:
    """Clients that behave in ways that `load.py` does not."""

    def __init__(self, port: int) -> None:
        self._port, self._chance = port, random.Random(7)  # noqa: S311  # not for secrets
        self.end = time.monotonic()
        self.answered = 0

    async def leaving(self) -> None:
        """Disconnect in the middle of a stream, by FIN or by RST."""
        client = await Client.to(self._port)
        await client.post(V1, request_body(WORK["paced"], V1))
        try:
            async with asyncio.timeout(self._chance.random()):
                await client.answer()
        except TimeoutError:
            pass
        self._chance.choice([client.close, client.reset])()

    async def large(self) -> None:
        """Send a prompt of 100 kB, 1 MB or 1,000 messages."""
        count, size = self._chance.choice([(1, 1000), (10, 100), (1000, 10), (1000, 1)])
        messages = [{"role": "user", "content": STORY * size} for _ in range(count)]
        await self._whole(V1, {"model": WORK["one"].model, "messages": messages, "stream": self._chance.random() < 0.5})
        await asyncio.sleep(self._chance.random())

    async def pausing(self) -> None:
        """Pause in the middle of a long answer, then read all of it."""
        client = await Client.to(self._port)
        await client.post(V1, request_body(LONG, V1))
        await client.head()
        await asyncio.sleep(1 + self._chance.random())
        answer = b""
        while not answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            piece = await client.reader.read(65_536)
            assert piece
            answer += piece
        assert answer.count(b'" tok') == LONG.tokens
        client.close()

    async def _whole(self, path: str, body: object) -> None:
        client = await Client.to(self._port)
        await client.post(path, body)
        status, _, _ = await client.answer()
        assert status == 200, status
        client.close()

    async def repeat(self, one: Callable[[], Awaitable[None]]) -> None:
        """Repeat *one* until the end."""
        while time.monotonic() < self.end:
            await one()
            self.answered += 1


async def loaded(port: int, seconds: float, folder: Path) -> int:
    """Run the load for *seconds*; return the number of answered requests."""
    others = OtherClients(port)
    others.end = time.monotonic() + seconds
    running = []
    for name, (path, work, connections) in LOADS.items():
        body = folder / f"{name}.json"
        body.write_text(json.dumps(request_body(work, path)))
        command = [
            str(BENCH_FOLDER / "load.py"),
            str(port),
            path,
            str(body),
            str(connections),
            str(seconds),
            "--spread=1",
        ]
        running.append(await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE))
    more = [others.leaving] * 10 + [others.large] * 2 + [others.pausing] * 5
    await asyncio.gather(*(others.repeat(one) for one in more))
    answered = others.answered
    for each in running:
        output, _ = await each.communicate()
        counted = json.loads(output)
        assert counted["failed"] == 0, counted
        answered += counted["ok"]
    return answered


async def watched(served: Probed, load: asyncio.Task[int]) -> list[Sample]:
    """Take samples until *load* has ended."""
    samples: list[Sample] = []
    while not load.done():
        await asyncio.wait([load], timeout=SAMPLE_SECONDS)
        sample = await asyncio.to_thread(served.sample)
        samples.append(sample)
        if len(samples) % 6 == 0:
            print(f"{len(samples) * SAMPLE_SECONDS:6.0f} s  {described(sample)}", flush=True)
    return samples[:-1]


async def rested(served: Probed, most: Sample | None = None) -> Sample:
    """Wait `REST_SECONDS` for the load to be released; less if no more is open than in *most*."""
    for _ in range(REST_SECONDS):
        await asyncio.sleep(1)
        sample = await asyncio.to_thread(served.sample)
        if most is not None and sample.files <= most.files and sample.tasks <= most.tasks:
            break
    return sample


def described(sample: Sample) -> str:
    return (
        f"{sample.resident_mb:7.1f} MB {sample.files:5} files {sample.tasks:5} tasks {sample.cpu_s:8.1f} s of CPU"
        f"  longest iteration {sample.turn_ms:5.1f} ms, step {sample.step_ms:5.1f}, collection {sample.collector_ms:5.1f} {sample.where}"
    )


def quarter(samples: list[Sample], number: int) -> list[Sample]:
    size = len(samples) // 4
    return samples[number * size : (number + 1) * size]


def verdict(samples: list[Sample], before: Sample, after: Sample) -> bool:
    """Print the results; return whether all bounds hold."""
    second, last = quarter(samples, 1), quarter(samples, 3)
    print(f"{'median of':10} {'2nd quarter':>12} {'last quarter':>12}")
    for name in ("resident_mb", "files", "tasks"):
        one, other = (statistics.median(getattr(each, name) for each in part) for part in (second, last))
        print(f"{name:10} {one:12.1f} {other:12.1f}")
    growth = statistics.median(x.resident_mb for x in last) - statistics.median(x.resident_mb for x in second)
    blocked = sum(sample.step_ms > BLOCKED_SECONDS * 1000 for sample in samples)
    step = max(samples, key=lambda sample: sample.step_ms)
    print(f"at rest before: {described(before)}\nat rest after:  {described(after)}")
    print(f"longest: iteration {max(x.turn_ms for x in samples)} ms, step {step.step_ms} ms ({step.where})")
    print(f"         collection {max(x.collector_ms for x in samples)} ms")
    held = {
        f"memory grew by {growth:+.1f} MB, at most {MAX_GROWTH_MB}": growth <= MAX_GROWTH_MB,
        "descriptors at rest as before": after.files <= before.files,
        "tasks at rest as before": after.tasks <= before.tasks,
        f"{blocked} of {len(samples)} samples had a step over {BLOCKED_SECONDS * 1000:.0f} ms": blocked
        <= max(1, len(samples) * MAX_BLOCKED_SHARE),
    }
    for bound, good in held.items():
        print(f"{bound}: {'held' if good else 'NOT HELD'}")
    return all(held.values())


async def soak(seconds: float, folder: Path) -> bool:
    (folder / "s.toml").write_text(sidecar_config())
    serve = ("serve", "--config", "s.toml", "--model", WORK["burst"].model, "--port", "0")
    with (
        program("mock", "--port", "0", folder=folder) as mock,
        probed(*serve, "--upstream", mock.url, folder=folder, core=PROXY) as served,
    ):
        await loaded(served.port, WARM_UP_SECONDS, folder)
        before = await rested(served)
        load = asyncio.create_task(loaded(served.port, seconds, folder))
        samples = await watched(served, load)
        print(f"{await load} answers in {seconds:.0f} s")
        return verdict(samples, before, await rested(served, before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    given = parser.parse_args()
    many_files()
    pin(OTHERS)
    with tempfile.TemporaryDirectory() as name:
        sys.exit(0 if asyncio.run(soak(given.minutes * 60, Path(name))) else 1)


if __name__ == "__main__":
    main()
