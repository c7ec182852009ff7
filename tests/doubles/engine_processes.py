"""Run engines, and sidecars in front of them, as processes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from places import ROOT

ENGINES = ROOT / "tests" / "real_engine"
ENGINE_PYTHON = str(Path(os.environ.get("ENGINE_PYTHON", sys.executable)).absolute())
POLLS = 600


@contextlib.contextmanager
def running(command: list[str], **more: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, text=True, **more)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def engine_running(command: list[str], port: int, folder: Path) -> Iterator[str]:
    """Run an engine while the block lasts, and yield its base URL when it answers."""
    quiet = subprocess.DEVNULL
    with running(command, cwd=folder, stdout=quiet, stderr=quiet) as process:
        url = f"http://127.0.0.1:{port}/v1"
        for _ in range(POLLS):
            assert process.poll() is None, "the engine has ended"
            with contextlib.suppress(httpx.HTTPError), httpx.Client() as http:
                if http.get(f"{url}/models", timeout=2).status_code == 200:
                    break
            time.sleep(0.1)  # between two polls of a process that starts; their number is bounded
        yield url


@contextlib.contextmanager
def sidecar_running(upstream: str, folder: Path, *arguments: str) -> Iterator[str]:
    """Run a sidecar while the block lasts, in its shipped configuration unless *arguments* change it, and yield its URL."""
    command = [sys.executable, "-m", "sidecar", "serve", "--upstream", upstream, "--port", "0", *arguments]
    with running(command, cwd=folder, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip().rpartition(" ")[2]
        process.stdout.close()


def needs(module: str, package: str) -> None:
    if subprocess.run([ENGINE_PYTHON, "-c", f"import {module}"], capture_output=True, check=False).returncode:
        pytest.skip(f"{package} is not installed: `make test-engine` installs it")
