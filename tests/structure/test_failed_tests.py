"""A test that fails leaves nothing behind that fails the next ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from places import DOUBLES, ROOT

TESTS = """
import gc
import socket


async def nothing():
    pass


def test_first():
    open_socket, never_awaited = socket.socket(), nothing()
    raise AssertionError("expected")


def test_second():
    gc.collect()


def test_third():
    gc.collect()
"""


def test_failure_does_not_cascade(tmp_path: Path) -> None:
    """A failed test that has left a socket open and a coroutine unawaited does not fail those after it."""
    path = tmp_path / "test_cascade.py"
    path.write_text(TESTS)
    arguments = ("-q", "-p", "conftest", "-p", "no:cacheprovider", "-W", "error", "--rootdir", str(tmp_path), str(path))
    places = os.pathsep.join(str(each) for each in (ROOT / "tests", DOUBLES, ROOT))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": places},
        cwd=tmp_path,
        timeout=300,
        check=False,
    )
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "AssertionError: expected" in done.stdout
