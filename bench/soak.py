"""Full load for many minutes: no trend in memory, descriptors and tasks, and nothing of it left at rest.

Streams at once and paced ones, both routes, plain answers, large prompts, readers that stop, and clients that leave, all
at the same time; the sidecar has one core to itself, and a probe in its loop.  Ends with 1 where a promise is broken.
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
from workloads import STORY, WORK, Work, asked

HERE = Path(__file__).parent
EVERY = 5.0
"""Seconds between two samples."""
GROWTH = 3.0
"""Megabytes by which the memory of the last quarter may be above that of the second."""
CHANCE = 0.02
"""Share of the samples, and one of few, in which a step may be longer than is promised: a machine with other users does that."""
REST = 40
"""Seconds in which kept connections and everything else of the load must have gone."""
WARM = 10.0
LOADS = {
    "burst": (V1, WORK["burst"], 10),
    "paced": (V1, WORK["paced"], 60),
    "plain": (V1, WORK["plain"], 2),
    "chat": (CHAT, WORK["burst"], 5),
}
"""What `load.py` asks all the time, and over how many connections."""
LONG = Work(4000, 0, 0, 1)


class Asking:
    """The clients that `load.py` does not have."""

    def __init__(self, port: int) -> None:
        self._port, self._chance = port, random.Random(7)  # noqa: S311  # chance, not secrets
        self.end = time.monotonic()
        self.asked = 0

    async def leaving(self) -> None:
        """Leave in the middle of a stream, in either way."""
        client = await Client.to(self._port)
        await client.post(V1, asked(WORK["paced"], V1))
        try:
            async with asyncio.timeout(self._chance.random()):
                await client.answer()
        except TimeoutError:
            pass
        self._chance.choice([client.close, client.reset])()

    async def large(self) -> None:
        """Ask with 100 kB, 1 MB or 1,000 messages."""
        count, size = self._chance.choice([(1, 1000), (10, 100), (1000, 10), (1000, 1)])
        messages = [{"role": "user", "content": STORY * size} for _ in range(count)]
        await self._whole(V1, {"model": WORK["one"].model, "messages": messages, "stream": self._chance.random() < 0.5})
        await asyncio.sleep(self._chance.random())

    async def pausing(self) -> None:
        """Read nothing of a long answer for a while, then all of it."""
        client = await Client.to(self._port)
        await client.post(V1, asked(LONG, V1))
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

    async def again(self, one: Callable[[], Awaitable[None]]) -> None:
        """Do *one* again and again until the end."""
        while time.monotonic() < self.end:
            await one()
            self.asked += 1


async def loaded(port: int, seconds: float, folder: Path) -> int:
    """Load for *seconds*; return how many requests were answered."""
    others = Asking(port)
    others.end = time.monotonic() + seconds
    running = []
    for name, (path, work, connections) in LOADS.items():
        body = folder / f"{name}.json"
        body.write_text(json.dumps(asked(work, path)))
        command = [str(HERE / "load.py"), str(port), path, str(body), str(connections), str(seconds), "--spread=1"]
        running.append(await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE))
    more = [others.leaving] * 10 + [others.large] * 2 + [others.pausing] * 5
    await asyncio.gather(*(others.again(one) for one in more))
    answered = others.asked
    for each in running:
        said, _ = await each.communicate()
        counted = json.loads(said)
        assert counted["failed"] == 0, counted
        answered += counted["ok"]
    return answered


async def watched(served: Probed, load: asyncio.Task[int]) -> list[Sample]:
    """Take samples until *load* is over."""
    samples: list[Sample] = []
    while not load.done():
        await asyncio.wait([load], timeout=EVERY)
        sample = await asyncio.to_thread(served.sample)
        samples.append(sample)
        if len(samples) % 6 == 0:
            print(f"{len(samples) * EVERY:6.0f} s  {said(sample)}", flush=True)
    return samples[:-1]


async def rested(served: Probed, most: Sample | None = None) -> Sample:
    """Wait until nothing of a load is left; with *most*, until no more is open than then."""
    for _ in range(REST):
        await asyncio.sleep(1)
        sample = await asyncio.to_thread(served.sample)
        if most is not None and sample.files <= most.files and sample.tasks <= most.tasks:
            break
    return sample


def said(sample: Sample) -> str:
    return (
        f"{sample.resident_mb:7.1f} MB {sample.files:5} files {sample.tasks:5} tasks {sample.cpu_s:8.1f} s of CPU"
        f"  longest turn {sample.turn_ms:5.1f} ms, step {sample.step_ms:5.1f}, collection {sample.collector_ms:5.1f} {sample.where}"
    )


def quarter(samples: list[Sample], number: int) -> list[Sample]:
    size = len(samples) // 4
    return samples[number * size : (number + 1) * size]


def verdict(samples: list[Sample], before: Sample, after: Sample) -> bool:
    """Print what was found; return whether all of it is as promised."""
    second, last = quarter(samples, 1), quarter(samples, 3)
    print(f"{'median of':10} {'2nd quarter':>12} {'last quarter':>12}")
    for name in ("resident_mb", "files", "tasks"):
        one, other = (statistics.median(getattr(each, name) for each in part) for part in (second, last))
        print(f"{name:10} {one:12.1f} {other:12.1f}")
    growth = statistics.median(x.resident_mb for x in last) - statistics.median(x.resident_mb for x in second)
    blocked = sum(sample.step_ms > BLOCKED_SECONDS * 1000 for sample in samples)
    step = max(samples, key=lambda sample: sample.step_ms)
    print(f"at rest before: {said(before)}\nat rest after:  {said(after)}")
    print(f"longest: turn {max(x.turn_ms for x in samples)} ms, step {step.step_ms} ms ({step.where})")
    print(f"         collection {max(x.collector_ms for x in samples)} ms")
    held = {
        f"memory grew by {growth:+.1f} MB, at most {GROWTH}": growth <= GROWTH,
        "descriptors at rest as before": after.files <= before.files,
        "tasks at rest as before": after.tasks <= before.tasks,
        f"{blocked} of {len(samples)} samples had a step over {BLOCKED_SECONDS * 1000:.0f} ms": blocked
        <= max(1, len(samples) * CHANCE),
    }
    for what, good in held.items():
        print(f"{what}: {'held' if good else 'NOT HELD'}")
    return all(held.values())


async def soak(seconds: float, folder: Path) -> bool:
    (folder / "s.toml").write_text(sidecar_config())
    serve = ("serve", "--config", "s.toml", "--model", WORK["burst"].model, "--port", "0")
    with (
        program("mock", "--port", "0", folder=folder) as mock,
        probed(*serve, "--upstream", mock.url, folder=folder, core=PROXY) as served,
    ):
        await loaded(served.port, WARM, folder)
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
