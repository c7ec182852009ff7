"""`sidecar ARGUMENTS` with a probe in its event loop: how long the loop was blocked, and what is open.

The probe measures the CPU time of the loop's thread: other processes on the machine do not count. Only `late_ms` is wall
time. On SIGUSR1 it prints a `Sample` as a line of JSON and starts a new measurement.
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

TICK_SECONDS = 0.002
"""Seconds between two iterations that the probe measures."""
BLOCKED_SECONDS = 0.010
"""Seconds of CPU time that no single callback may take, because all other calls wait that long."""
PROTOCOL_CALLBACKS = {"data_received", "buffer_updated", "eof_received", "connection_lost", "resume_writing"}
"""Methods of a protocol that the loop calls."""


class Sample(NamedTuple):
    """Measurements since the last sample, and what is open now."""

    turn_ms: float
    """The largest CPU time between two ticks; several callbacks where many clients wait."""
    step_ms: float
    """The largest CPU time of one step of a task, or of one call of a connection's protocol."""
    late_ms: float
    """The largest delay of a timer, in wall time: how long the loop was blocked, also by waits for locks and disks."""
    where: str
    """The stack of the longest step after `BLOCKED_SECONDS`; of the longest turn if no step took that long."""
    collector_ms: float
    """The largest CPU time of one garbage collection, which is also part of its step."""
    tasks: int
    files: int
    resident_mb: float
    cpu_s: float


class Probe:
    """Measures one event loop from inside."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._last = time.thread_time()
        self._seen, self._inside = "", 0
        self._turn = self._step = self._late = self._collector = self._collecting = 0.0
        self._due = time.perf_counter()
        self._where = ""

    def start(self) -> None:
        """Start measuring. Must be the first callback of the loop."""
        self._loop.set_task_factory(self._task)
        # Not loop.add_signal_handler: uvloop calls its handler twice if another signal, here SIGALRM, follows at once.
        signal.signal(signal.SIGUSR1, lambda *_: self._loop.call_soon_threadsafe(self._report))
        signal.signal(signal.SIGALRM, self._look)
        gc.callbacks.append(self._collect)
        for protocol in _below(asyncio.BaseProtocol):
            for name in PROTOCOL_CALLBACKS & vars(protocol).keys():
                setattr(protocol, name, self._timed(getattr(protocol, name)))
        self._tick()

    def _tick(self) -> None:
        self._turned()
        now = time.perf_counter()
        self._late, self._due = max(self._late, now - self._due), now + TICK_SECONDS
        self._loop.call_later(TICK_SECONDS, self._tick)

    def _turned(self) -> None:
        now = time.thread_time()
        if now - self._last > self._turn:
            self._turn = now - self._last
            if self._step < BLOCKED_SECONDS:
                self._where = self._seen
        self._last, self._seen = now, ""
        signal.setitimer(signal.ITIMER_REAL, BLOCKED_SECONDS)

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
        """Start to time a step; return the CPU time of the thread at its start."""
        if not self._inside:
            self._seen = ""
            signal.setitimer(signal.ITIMER_REAL, BLOCKED_SECONDS)
        self._inside += 1
        return time.thread_time()

    def end(self, begun: float) -> None:
        """Record the duration of the step that started at *begun*."""
        seconds = time.thread_time() - begun
        self._inside -= 1
        if seconds > self._step:
            self._step = seconds
            if seconds > BLOCKED_SECONDS:
                self._where = self._seen

    def _report(self) -> None:
        self._turned()
        sample = Sample(
            turn_ms=round(self._turn * 1000, 2),
            step_ms=round(self._step * 1000, 2),
            late_ms=round(self._late * 1000, 2),
            where=self._where,
            collector_ms=round(self._collector * 1000, 2),
            tasks=len(asyncio.all_tasks(self._loop)),
            files=sum(1 for _ in Path("/proc/self/fd").iterdir()),
            resident_mb=resident_mb(os.getpid()),
            cpu_s=round(time.process_time(), 2),
        )
        print(json.dumps(sample._asdict()), flush=True)
        self._turn = self._step = self._late = self._collector = 0.0
        self._where = ""
        self._last = time.thread_time()


class Steps(Coroutine[Any, Any, Any]):
    """A coroutine that times each of its steps."""

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
        """Run one step that starts with an exception."""
        begun = self._probe.begin()
        try:
            return self._inner.throw(*error)
        finally:
            del error  # its traceback holds this frame: the reference cycle would wait for the collector
            self._probe.end(begun)

    def close(self) -> None:
        """Close the coroutine."""
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
        """Return the measurements since the last sample."""
        self.popen.send_signal(signal.SIGUSR1)
        while not (line := self.read_line()).startswith("{"):
            assert line, "the program has ended"  # any other line is part of what it prints at its start
        return Sample(**json.loads(line))


@contextmanager
def probed(*arguments: str, folder: Path, core: int | None = None) -> Iterator[Probed]:
    """Run `sidecar ARGUMENTS` with a probe while the block lasts, on *core* if this process may use that core."""
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
