"""Start the measured programs on a core, and read their CPU and memory from the operating system."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

PROXY, OTHERS = 1, 0
"""The core of the proxy under test, and the core of the mock and the load."""


def tree(pid: int) -> list[int]:
    """Return *pid* and all its descendants."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{found[-1]}/task").iterdir():
                todo += [int(child) for child in (task / "children").read_text().split()]
    return found


def cpu_ns(pid: int) -> int:
    """Return the CPU time of *pid* and its children in nanoseconds, including threads that have ended."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            total += time.clock_gettime_ns((~each << 3) | 2)  # the clock id of clock_getcpuclockid(3) on Linux
    return total


def resident_mb(pid: int) -> float:
    """Return the resident memory of *pid* and its children in megabytes; shared pages count once per process."""
    pages = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def core_ns(core: int) -> int:
    """Return the time for which *core* was busy with any program, in nanoseconds; 0 if this process may not use it."""
    if core not in os.sched_getaffinity(0):
        return 0
    named = f"cpu{core} "
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(named))
    user, nice, system, _idle, _waiting, *interrupts = (int(ticks) for ticks in line.split()[1:9])
    return (user + nice + system + sum(interrupts)) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


class Calm:
    """Waits for moments in which a core is nearly idle, *seconds* at most in all."""

    SAMPLE_SECONDS, MAX_BUSY_SHARE = 0.1, 0.15

    def __init__(self, core: int, seconds: float) -> None:
        self._core, self._left = core, seconds

    def wait(self) -> None:
        """Return when the core was nearly idle for `SAMPLE_SECONDS`, or the total wait is used up."""
        while self._left > 0:
            busy = core_ns(self._core)
            time.sleep(self.SAMPLE_SECONDS)
            if core_ns(self._core) - busy <= self.MAX_BUSY_SHARE * self.SAMPLE_SECONDS * 1e9:
                return
            self._left -= self.SAMPLE_SECONDS


def many_files() -> int:
    """Raise the limit of open files of this process and its children to the maximum; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 65_536
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def pin_all(pid: int, core: int) -> None:
    """Move *pid*, its children and all their threads to *core*, if this process may use it."""
    if core in os.sched_getaffinity(0):
        for each in tree(pid):
            for task in Path(f"/proc/{each}/task").iterdir():
                os.sched_setaffinity(int(task.name), {core})


def pin(core: int | None) -> None:
    """Restrict this process to *core*, if it may use it; None restricts nothing."""
    allowed = os.sched_getaffinity(0)
    if core in allowed:
        os.sched_setaffinity(0, {core})


def free_port() -> int:
    """Return a port on which no process listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def started(
    command: list[str],
    core: int | None,
    folder: Path,
    *,
    quiet: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, str]]:
    """Run *command* on *core* until the block ends; yield its process id and its first line, `""` if *quiet*."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL if quiet else subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        env={**os.environ, **(environ or {})},
        preexec_fn=lambda: pin(core),  # noqa: PLW1509  # a script with one thread
    )
    try:
        line = "" if process.stdout is None else process.stdout.readline().strip()
        yield process.pid, line
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def reachable(port: int, seconds: float = 10.0, *, pid: int = 0) -> None:
    """Wait until a process listens on *port*. Raises `RuntimeError` after *seconds*, or if *pid* has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not (pid and _ended(pid)):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    msg = f"nothing listens on port {port}"
    raise RuntimeError(msg)


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
