"""Lines to a descriptor, without waiting for it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.observers.line_writer import LineWriter

TIMEOUT_SECONDS = 30.0
"""Seconds after which a test fails instead of waiting on."""
LINE = b"x" * 199 + b"\n"


def describe(count: int) -> bytes:
    return b"dropped %d\n" % count


class Pipe:
    """A pipe; its reader is a thread that reads to the end once it is started."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self._open = {self.reading, self.writing}
        self._read = bytearray()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def close(self, fd: int) -> None:
        if fd in self._open:
            self._open.remove(fd)
            os.close(fd)

    def start_reader(self) -> None:
        self._thread.start()

    def lines(self) -> list[bytes]:
        """Close the writing end; return what was read until the end."""
        self.close(self.writing)
        self._thread.join(TIMEOUT_SECONDS)
        assert not self._thread.is_alive()
        return bytes(self._read).splitlines(keepends=True)

    def _run(self) -> None:
        while data := os.read(self.reading, 4096):
            self._read += data


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close(made.writing)
    made.close(made.reading)


def dropped_in(lines: list[bytes]) -> int:
    return sum(int(line.split()[1]) for line in lines if line.startswith(b"dropped "))


@pytest.mark.parametrize("blocking", [True, False])
def test_blocked_pipe_drops_and_counts(pipe: Pipe, blocking: bool) -> None:  # noqa: FBT001  # a column of the table
    """While a pipe is not read every write returns; then the queued lines and the number of the dropped ones arrive."""
    os.set_blocking(pipe.writing, blocking)
    writer = LineWriter(pipe.writing, describe, max_lines=100)
    kept = sum(writer.write(LINE) for _ in range(2_000))
    assert kept < 2_000  # the pipe holds 64 kB, a sixth of them
    assert writer.dropped == 2_000 - kept
    pipe.start_reader()
    assert writer.close(TIMEOUT_SECONDS)
    lines = pipe.lines()
    assert lines.count(LINE) == kept
    assert dropped_in(lines) == 2_000 - kept
    assert set(lines) <= {LINE, *(line for line in lines if line.startswith(b"dropped "))}


def test_queue_is_bounded_in_bytes(pipe: Pipe) -> None:
    """Few long lines are dropped as many short ones are."""
    writer = LineWriter(pipe.writing, describe, max_bytes=10_000)
    assert not writer.write(b"y" * 10_001)
    assert writer.write(LINE)
    pipe.start_reader()
    assert writer.close(TIMEOUT_SECONDS)
    assert sorted(pipe.lines()) == sorted([LINE, b"dropped 1\n"])


def test_close_returns_while_the_pipe_is_blocked(pipe: Pipe) -> None:
    """Closing gives up after its time-out, and says that lines are left."""
    writer = LineWriter(pipe.writing, describe)
    for _ in range(1_000):
        writer.write(LINE)
    assert not writer.close(0.01)
    assert not writer.write(LINE)
    pipe.start_reader()
    assert writer.close(TIMEOUT_SECONDS)
    lines = pipe.lines()
    assert (lines.count(LINE), dropped_in(lines)) == (1_000, 1)


def test_close_writes_what_is_queued(pipe: Pipe) -> None:
    """All lines taken before the close are written, in their order, and none after it is taken."""
    pipe.start_reader()
    writer = LineWriter(pipe.writing, describe)
    wanted = [b"%d\n" % at for at in range(5_000)]
    assert sum(map(writer.write, wanted)) == len(wanted)
    assert writer.close(TIMEOUT_SECONDS)
    assert writer.close(TIMEOUT_SECONDS)
    assert pipe.lines() == wanted
    assert not writer.write(b"late\n")


def test_closed_pipe_loses_lines_without_an_error(pipe: Pipe) -> None:
    """A reader that went away ends the writing; nothing is raised, and what is lost is counted."""
    pipe.close(pipe.reading)
    writer = LineWriter(pipe.writing, describe)
    for _ in range(3):
        writer.write(LINE)
    assert not writer.close(TIMEOUT_SECONDS)
    assert not writer.write(LINE)
    assert writer.dropped == 4


def test_closed_descriptor_loses_lines_without_an_error(pipe: Pipe) -> None:
    """A descriptor that was closed is never written to again: its number may belong to something else by then."""
    pipe.close(pipe.writing)
    writer = LineWriter(pipe.writing, describe)
    writer.write(LINE)
    assert not writer.close(TIMEOUT_SECONDS)
    assert writer.dropped == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_full_disk_loses_lines_without_an_error() -> None:
    """Lines for a full disk are dropped and counted, and a close does not wait for room."""
    fd = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(fd, describe)
    writer.write(LINE)
    assert not writer.close(TIMEOUT_SECONDS)
    assert writer.dropped >= 1
    os.close(fd)


def test_lines_of_threads_stay_whole(pipe: Pipe) -> None:
    """Threads share a writer: each line is there once, those of one thread in order."""
    pipe.start_reader()
    writer = LineWriter(pipe.writing, describe)

    def write(name: int) -> None:
        for at in range(500):
            writer.write(b"%d %d\n" % (name, at))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
    assert writer.close(TIMEOUT_SECONDS)
    lines = pipe.lines()
    for name in range(4):
        assert [line for line in lines if line.startswith(b"%d " % name)] == [
            b"%d %d\n" % (name, at) for at in range(500)
        ]


WORKER = """
import sys
from sidecar.observers.line_writer import LineWriter
name = sys.argv[1].encode()
writer = LineWriter(2, lambda count: b"")
for at in range(1000):
    writer.write(name * (1 + at * 7 % 4000) + b"\\n")
sys.exit(0 if writer.close(60) and not writer.dropped else 1)
"""


def test_lines_of_workers_stay_whole(pipe: Pipe) -> None:
    """Workers share one stderr: none of their lines holds a part of another one."""
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, name], stderr=pipe.writing) for name in "abcd"]
    pipe.close(pipe.writing)
    pipe.start_reader()
    assert [worker.wait(TIMEOUT_SECONDS) for worker in workers] == [0] * 4
    lines = pipe.lines()
    assert len(lines) == 4_000
    assert all(len(set(line)) == 2 for line in lines)


def test_saturated_caller_yields(pipe: Pipe) -> None:
    """A caller that fills the queue lets the thread run now and then, also where the pipe is blocked: never for long."""
    naps: list[float] = []
    writer = LineWriter(pipe.writing, describe, max_lines=500, sleep=naps.append)
    for _ in range(2_000):
        writer.write(LINE)
    assert 0 < len(naps) <= 2_000 / 64
    assert max(naps) <= 0.0001
    pipe.start_reader()
    assert writer.close(TIMEOUT_SECONDS)
    assert pipe.lines()
