"""`sidecar ARGUMENTS` with a probe in its loop: for how long nothing else could run there, and what is open.

The probe counts the CPU time of the loop's thread, not the time that passed: a busy machine blocks no loop.  SIGUSR1 has
it print a `Sample` as a line of JSON and begin anew.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import uvloop
from process import Program, environment

TICK = 0.002
"""Seconds between two looks."""
BLOCKED = 0.010
"""Seconds of CPU that no single thing may take: so long all others wait."""


CALLED = {"data_received", "buffer_updated", "eof_received", "connection_lost", "resume_writing"}
"""What the loop calls of a protocol."""


class Sample(NamedTuple):
    """What happened since the last sample, and what is open now."""

    turn_ms: float
    """The most CPU that went between two looks: several callbacks, where many clients wait."""
    step_ms: float
    """The most that one step of a task, or one call of a connection's protocol, took."""
    where: str
    """What was running in the longest step after `BLOCKED`, by the clock; in the longest turn, where no step took so long."""
    collector_ms: float
    """The most that one run of the garbage collector took, which is part of the step that it falls into."""
    tasks: int
    files: int
    resident_mb: float
    cpu_s: float


class Probe:
    """Looks at one loop from within."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._last = time.thread_time()
        self._seen, self._inside = "", 0
        self._turn = self._step = self._collector = self._collecting = 0.0
        self._where = ""

    def start(self) -> None:
        """Begin, as the first thing that runs in the loop."""
        self._loop.set_task_factory(self._task)
        # uvloop's own handlers may be called twice where another signal, here the alarm, comes soon after.
        signal.signal(signal.SIGUSR1, lambda *_: self._loop.call_soon_threadsafe(self._report))
        signal.signal(signal.SIGALRM, self._look)
        gc.callbacks.append(self._collect)
        for protocol in _below(asyncio.BaseProtocol):
            for name in CALLED & vars(protocol).keys():
                setattr(protocol, name, self._timed(getattr(protocol, name)))
        self._tick()

    def _tick(self) -> None:
        self._turned()
        self._loop.call_later(TICK, self._tick)

    def _turned(self) -> None:
        now = time.thread_time()
        if now - self._last > self._turn:
            self._turn = now - self._last
            if self._step < BLOCKED:
                self._where = self._seen
        self._last, self._seen = now, ""
        signal.setitimer(signal.ITIMER_REAL, BLOCKED)

    def _look(self, _: int, frame: FrameType | None) -> None:
        stack = traceback.extract_stack(frame)[-4:]
        self._seen = " > ".join(f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in stack)

    def _collect(self, phase: str, _: dict[str, int]) -> None:
        now = time.thread_time()
        if phase == "start":
            self._collecting = now
        else:
            self._collector = max(self._collector, now - self._collecting)

    def _task(self, loop: asyncio.AbstractEventLoop, steps: Any, **more: Any) -> asyncio.Task[Any]:
        return asyncio.Task(Steps(self, steps), loop=loop, **more)

    def _timed(self, called: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            begun = self.begin()
            try:
                return called(*arguments)
            finally:
                self.end(begun)

        return timed

    def begin(self) -> float:
        """Begin with something that nothing else can run in; return the CPU time until then."""
        if not self._inside:
            self._seen = ""
            signal.setitimer(signal.ITIMER_REAL, BLOCKED)
        self._inside += 1
        return time.thread_time()

    def end(self, begun: float) -> None:
        """Note how long it took."""
        seconds = time.thread_time() - begun
        self._inside -= 1
        if seconds > self._step:
            self._step = seconds
            if seconds > BLOCKED:
                self._where = self._seen

    def _report(self) -> None:
        self._turned()
        sample = Sample(
            turn_ms=round(self._turn * 1000, 2),
            step_ms=round(self._step * 1000, 2),
            where=self._where,
            collector_ms=round(self._collector * 1000, 2),
            tasks=len(asyncio.all_tasks(self._loop)),
            files=sum(1 for _ in Path("/proc/self/fd").iterdir()),
            resident_mb=resident_mb(os.getpid()),
            cpu_s=round(time.process_time(), 2),
        )
        print(json.dumps(sample._asdict()), flush=True)
        self._turn = self._step = self._collector = 0.0
        self._where = ""
        self._last = time.thread_time()


class Steps(Coroutine[Any, Any, Any]):
    """A coroutine each of whose steps is timed."""

    def __init__(self, probe: Probe, inner: Coroutine[Any, Any, Any]) -> None:
        self._probe, self._inner = probe, inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()

    def send(self, value: Any) -> Any:
        """Run one step."""
        begun = self._probe.begin()
        try:
            return self._inner.send(value)
        finally:
            self._probe.end(begun)

    def throw(self, *error: Any) -> Any:
        """Run one step, which begins with an exception."""
        begun = self._probe.begin()
        try:
            return self._inner.throw(*error)
        finally:
            del error  # it holds this frame: the collector would have to find them
            self._probe.end(begun)

    def close(self) -> None:
        """Give it up."""
        self._inner.close()


def _below(above: type[Any]) -> list[type[Any]]:
    found = [above]
    for cls in above.__subclasses__():
        found += _below(cls)
    return found


def resident_mb(pid: int) -> float:
    """Return the resident memory of *pid* in megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


class Probed(Program):
    """A running sidecar with a probe in it."""

    def sample(self) -> Sample:
        """Return what happened since the last one."""
        assert self.popen.stdout is not None
        self.popen.send_signal(signal.SIGUSR1)
        line = self.popen.stdout.readline()
        while line and not line.startswith("{"):  # the summary that follows the first line of output
            line = self.popen.stdout.readline()
        return Sample(**json.loads(line))


@contextmanager
def probed(*arguments: str, folder: Path, core: int | None = None) -> Iterator[Probed]:
    """Run `sidecar ARGUMENTS` with a probe in it while the block lasts, on *core* if there is one of that number."""
    popen = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, cwd=folder, env=environment()
    )
    assert popen.stdout is not None
    try:
        if core in os.sched_getaffinity(0):
            os.sched_setaffinity(popen.pid, {core})
        running = Probed(popen, popen.stdout.readline().strip())
        running.sample()
        yield running
    finally:
        popen.terminate()
        popen.wait(30)
        popen.stdout.close()


def main() -> int:
    """Run the command line with a probe in its uvloop."""
    new = uvloop.new_event_loop

    def with_probe() -> uvloop.Loop:
        loop = new()
        loop.call_soon(Probe(loop).start)
        return loop

    uvloop.new_event_loop = with_probe
    from sidecar.cli.main import main as run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
