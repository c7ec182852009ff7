"""A start on a SQLite file of an earlier version while another process converts it: it waits, and ends at a signal."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from old_files import old_file
from process import EXIT_TIMEOUT_SECONDS, environment
from stored import query

pytestmark = pytest.mark.anyio

SERVE = ("serve", "--upstream", "http://127.0.0.1:9/v1", "--store", "sqlite:///s.db", "--port", "0")
WAITING = "another process converts the file from the format of an earlier version; wait until that is done (at most 600 seconds)"
POLLS, POLL_SECONDS = 600, 0.05
LONGER_THAN_FOR_A_LOCK_SECONDS = 2.5


@contextmanager
def converting(path: Path, waiting: subprocess.Popen[bytes]) -> Iterator[None]:
    """Have the file at *path* locked, as a process that converts it does, while the block lasts.

    The process *waiting* is stopped meanwhile until the lock is taken: it would convert the file itself.
    """
    waiting.send_signal(signal.SIGSTOP)
    file = sqlite3.connect(path, isolation_level=None)
    try:
        file.execute("PRAGMA locking_mode = EXCLUSIVE")
        file.execute("BEGIN EXCLUSIVE")
        waiting.send_signal(signal.SIGCONT)
        yield
    finally:
        file.close()


@contextmanager
def starting(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a sidecar that cannot serve yet; its log is the file `log`."""
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "sidecar", *SERVE]
        popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=folder, env=environment())
    try:
        yield popen
    finally:
        popen.kill()
        popen.communicate()


async def until_logged(folder: Path, waiting: subprocess.Popen[bytes]) -> None:
    """Wait until the process *waiting* has logged that it waits. A busy test process would delay its start."""
    for _ in range(POLLS):
        if WAITING in (folder / "log").read_text():
            return
        assert waiting.poll() is None
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError((folder / "log").read_text())


async def test_start_waits_for_the_conversion_by_another_process(tmp_path: Path) -> None:
    """A second start waits for as long as the conversion takes, with one line that says so, and then serves."""
    old_file(tmp_path / "s.db", 3)
    with starting(tmp_path) as popen:
        with converting(tmp_path / "s.db", popen):
            await until_logged(tmp_path, popen)
            await asyncio.sleep(LONGER_THAN_FOR_A_LOCK_SECONDS)
            assert popen.poll() is None
        assert popen.stdout is not None
        line = await asyncio.to_thread(popen.stdout.readline)
        popen.terminate()
        assert await asyncio.to_thread(popen.wait, EXIT_TIMEOUT_SECONDS) == 0

    log = (tmp_path / "log").read_text()
    assert line.startswith(b"sidecar listening on http://")
    assert log.count(WAITING) == 1
    assert query(tmp_path / "s.db", "PRAGMA user_version") == [(4,)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_the_wait_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """A signal ends a start that waits for a conversion, with exit code 0 and no further line; the file stays as it was."""
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("a background job, which ignores SIGINT")
    old_file(tmp_path / "s.db", 3)
    with starting(tmp_path) as popen, converting(tmp_path / "s.db", popen):
        await until_logged(tmp_path, popen)
        popen.send_signal(number)
        assert await asyncio.to_thread(popen.wait, EXIT_TIMEOUT_SECONDS) == 0
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    assert query(tmp_path / "s.db", "PRAGMA user_version") == [(3,)]
