"""The programs that are measured: started on a core, and what the operating system says that they have used."""

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
"""The core of the proxy under test, and that of the mock and the load."""


def tree(pid: int) -> list[int]:
    """Return *pid* and its children."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{found[-1]}/task").iterdir():
                todo += [int(child) for child in (task / "children").read_text().split()]
    return found


def cpu_ns(pid: int) -> int:
    """Return the CPU time that *pid* and its children have had, in nanoseconds; threads that have ended count too."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            total += time.clock_gettime_ns((~each << 3) | 2)  # clock_getcpuclockid(3), as Linux makes it
    return total


def resident_mb(pid: int) -> float:
    """Return the resident memory of *pid* and its children in megabytes; pages that they share count for each."""
    pages = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def core_ns(core: int) -> int:
    """Return the time that *core* has been busy, whoever kept it so, in nanoseconds; 0 where it is not ours to use."""
    if core not in os.sched_getaffinity(0):
        return 0
    named = f"cpu{core} "
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(named))
    user, nice, system, _idle, _waiting, *interrupts = (int(ticks) for ticks in line.split()[1:9])
    return (user + nice + system + sum(interrupts)) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


class Calm:
    """Waits until other programs leave a core alone, *seconds* at most in all; then it waits no more."""

    LOOK, BUSY = 0.1, 0.15

    def __init__(self, core: int, seconds: float) -> None:
        self._core, self._left = core, seconds

    def wait(self) -> None:
        """Return when the core was nearly idle for a moment, or all patience is used up."""
        while self._left > 0:
            busy = core_ns(self._core)
            time.sleep(self.LOOK)
            if core_ns(self._core) - busy <= self.BUSY * self.LOOK * 1e9:
                return
            self._left -= self.LOOK


def many_files() -> int:
    """Let this process and those that it starts open as many files as the system lets them; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 65_536
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def pin_all(pid: int, core: int) -> None:
    """Move *pid*, its children and all their threads to *core*, where there is one of that number."""
    if core in os.sched_getaffinity(0):
        for each in tree(pid):
            for task in Path(f"/proc/{each}/task").iterdir():
                os.sched_setaffinity(int(task.name), {core})


def pin(core: int | None) -> None:
    """Keep this process on *core*, where there is one of that number; None leaves it free."""
    allowed = os.sched_getaffinity(0)
    if core in allowed:
        os.sched_setaffinity(0, {core})


def free_port() -> int:
    """Return a port that nobody listens on just now."""
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
    """Run *command* on *core*; give its id and its first line, which a *quiet* one does not say.  It ends with the block."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL if quiet else subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        env={**os.environ, **(environ or {})},
        preexec_fn=lambda: pin(core),  # noqa: PLW1509  # a script of one thread
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
    """Wait until something listens on *port*.  Raises `RuntimeError` after *seconds*, or when *pid* has ended."""
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
