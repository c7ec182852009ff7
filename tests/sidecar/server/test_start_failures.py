"""Starts that cannot succeed: they name their cause and end, and a stop during a start is no failure."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from process import EXIT_TIMEOUT_SECONDS, environment, ran

pytestmark = pytest.mark.anyio

BAD_POLICY = """
from policies import Call, Policy


class Bad(Policy, frozen=True):
    async def admit(self, call: Call) -> None: ...

    def start(self, services):
        raise ValueError("the table FOO is missing")
"""
SERVE = ("serve", "--upstream", "http://127.0.0.1:9/v1", "--port", "0")


@pytest.mark.parametrize("workers", ["1", "3"])
def test_start_that_fails_names_its_cause(tmp_path: Path, workers: str) -> None:
    """A policy that cannot start ends the program with exit code 2, once for all workers, and the log names the cause."""
    (tmp_path / "bad.py").write_text(BAD_POLICY)
    (tmp_path / "s.toml").write_text('[store]\nurl = "sqlite:///x.db"\n[[policy]]\nuse = "bad:Bad"\n')
    code, out, log = ran(*SERVE, "--config", "s.toml", "--workers", workers, folder=tmp_path)

    assert (code, out) == (2, "")
    assert "cannot start: ValueError: the table FOO is missing" in log
    assert "starting another" not in log


@pytest.mark.parametrize("name", ["policies.py", "sidecar.py"])
def test_file_with_our_name_in_the_working_directory(tmp_path: Path, name: str) -> None:
    """Without a configuration file no module is imported from the working directory, so its file names do not matter."""
    (tmp_path / name).write_text("")
    code, _, _ = ran(
        "check", folder=tmp_path, environ={"SIDECAR_UPSTREAM": "http://h/v1"}, command=("-P", "-m", "sidecar")
    )

    assert code == 0


@pytest.mark.skipif(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason="a background job, which ignores SIGINT")
@pytest.mark.parametrize("delay", [0.0, 0.2, 0.4, 0.6, 0.8])
async def test_stop_of_the_process_group_while_workers_start(tmp_path: Path, delay: float) -> None:
    """Ctrl+C reaches the parent and its workers at once: at each moment of a start the program stops in order."""
    command = [sys.executable, "-m", "sidecar", *SERVE, "--workers", "3"]
    starting = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment(), start_new_session=True
    )
    await asyncio.sleep(0.3 + delay)  # a moment of the start, not a wait for something
    os.killpg(starting.pid, signal.SIGINT)
    _, log = await asyncio.to_thread(starting.communicate, timeout=EXIT_TIMEOUT_SECONDS)

    assert starting.returncode in (0, -signal.SIGINT, 130)  # the last two: before the program's handlers exist
    assert b"ending at once" not in log
