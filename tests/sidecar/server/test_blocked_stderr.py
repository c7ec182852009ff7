"""A reader of stderr that stops reading stops no process."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from process import Program, environment, has_ended
from wire import Client, eventually

pytestmark = pytest.mark.anyio

PIPE_BYTES = 4096


def fill(pipe: int) -> None:
    """Write to *pipe* until it takes no byte."""
    os.set_blocking(pipe, False)
    for size in (512, 1):
        try:
            while True:
                os.write(pipe, b"x" * size)
        except BlockingIOError:
            continue


@contextmanager
def two_workers_with_full_stderr(folder: Path) -> Iterator[Program]:
    """Run a sidecar with two workers whose stderr is a pipe that is full and never read."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    arguments = ("serve", "--upstream", "http://127.0.0.1:9/v1", "--model", "m", "--port", "0", "--workers", "2")
    popen = subprocess.Popen(
        [sys.executable, "-m", "sidecar", *arguments],
        stdout=subprocess.PIPE,
        stderr=write_end,
        text=True,
        cwd=folder,
        env=environment(),
    )
    assert popen.stdout is not None
    running = Program(popen, popen.stdout.readline().strip())
    try:
        own_end = os.open(f"/proc/self/fd/{write_end}", os.O_WRONLY)  # its own file: O_NONBLOCK is not shared
        fill(own_end)
        os.close(own_end)
        yield running
    finally:
        workers = running.workers if popen.poll() is None else []
        popen.kill()
        popen.wait()
        os.close(write_end)
        os.close(read_end)
        popen.stdout.close()
        for pid in workers:
            if not has_ended(pid):
                os.kill(pid, 9)


async def test_blocked_stderr_stops_no_parent_of_workers(tmp_path: Path) -> None:
    """With a stderr that takes nothing, a dead worker is replaced, requests are served, and SIGTERM ends all."""
    with two_workers_with_full_stderr(tmp_path) as running:
        dead, other = running.workers
        os.kill(dead, 9)
        await eventually(lambda: dead not in running.workers and len(running.workers) == 2)
        assert other in running.workers
        client = await Client.to(running.port)
        client.writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        status, _, _ = await client.answer()
        client.close()
        await client.writer.wait_closed()
        assert status == 200
        assert running.stop() == 0
