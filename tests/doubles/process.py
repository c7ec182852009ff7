"""Processes of the program, started as users start it, each ended by its id."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

EXIT_TIMEOUT_SECONDS = 60
"""Seconds after which a process that should have ended fails its test."""
RUN_TIMEOUT_SECONDS = 120
"""The same for a whole run with its start, which alone takes up to 30 seconds on a very busy machine."""


class Program:
    """A running process; `line` is the first line of its stdout, which names its address."""

    def __init__(self, popen: subprocess.Popen[str], line: str) -> None:
        self.popen, self.line = popen, line
        self.url = line.rpartition(" ")[2]

    @property
    def port(self) -> int:
        return int(self.url.removesuffix("/v1").rpartition(":")[2])

    def read_line(self) -> str:
        """Return the next line of stdout, empty at its end."""
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    @property
    def workers(self) -> list[int]:
        """The process ids of its children."""
        path = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def stop(self, number: int = 15) -> int:
        """Send a signal, wait for the end, return the exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(EXIT_TIMEOUT_SECONDS)


def has_ended(pid: int) -> bool:
    """Whether the process *pid* has ended; a zombie that its parent has not reaped has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment without the variables that configure the sidecar, plus *more*."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SIDECAR_", "OPENAI_"))}
    return kept | dict(more or {})


@contextmanager
def program(
    *arguments: str,
    folder: Path,
    environ: Mapping[str, str] | None = None,
    command: Sequence[str] = ("-m", "sidecar"),
    log: Path | None = None,
) -> Iterator[Program]:
    """Run `sidecar ARGUMENTS` in *folder* while the block lasts.

    *command* is what the interpreter runs instead of our program; *log* is the file that gets its stderr.
    """
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(log.open("wb")) if log is not None else None
        popen = subprocess.Popen(
            [sys.executable, *command, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors or (None if os.environ.get("SHOW") else subprocess.DEVNULL),
            text=True,
            cwd=folder,
            env=environment(environ),
        )
    assert popen.stdout is not None
    try:
        yield Program(popen, popen.stdout.readline().strip())
    finally:
        if popen.poll() is None:
            popen.terminate()
            try:
                popen.wait(EXIT_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()
        popen.stdout.close()


def ran(
    *arguments: str,
    folder: Path,
    environ: Mapping[str, str] | None = None,
    command: Sequence[str] = ("-m", "sidecar"),
) -> tuple[int, str, str]:
    """Run `sidecar ARGUMENTS` to its end, or *command* instead; return exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, *command, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(environ),
        timeout=RUN_TIMEOUT_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr
