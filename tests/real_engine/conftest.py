"""The engines, each with a model of random weights and a context of 512 tokens, and a sidecar in front of each."""

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

HERE = Path(__file__).parent
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
def sidecar_running(upstream: str, folder: Path) -> Iterator[str]:
    """Run a sidecar in its shipped configuration while the block lasts, and yield its URL."""
    command = [sys.executable, "-m", "sidecar", "serve", "--upstream", upstream, "--port", "0"]
    with running(command, cwd=folder, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip().rpartition(" ")[2]
        process.stdout.close()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of the model."""
    if subprocess.run([ENGINE_PYTHON, "-c", "import gguf, numpy"], capture_output=True, check=False).returncode:
        pytest.skip("gguf is not installed: `make test-engine` installs it")
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    subprocess.run([ENGINE_PYTHON, str(HERE / "tiny_model.py"), str(path)], check=True, timeout=60)
    return str(path)


def needs(module: str, package: str) -> None:
    if subprocess.run([ENGINE_PYTHON, "-c", f"import {module}"], capture_output=True, check=False).returncode:
        pytest.skip(f"{package} is not installed: `make test-engine` installs it")


@pytest.fixture(scope="module")
def engine(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run llama.cpp's Python server."""
    needs("llama_cpp.server", "llama-cpp-python[server]")
    port = free_port()
    command = [ENGINE_PYTHON, "-m", "llama_cpp.server", "--model", model, "--port", str(port), "--n_ctx", "512"]
    with engine_running([*command, "--embedding", "true"], port, tmp_path_factory.mktemp("engine")) as url:
        yield url


@pytest.fixture(scope="module")
def native(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run llama.cpp's own server."""
    needs("xllamacpp", "xllamacpp")
    port = free_port()
    command = [ENGINE_PYTHON, str(HERE / "native_server.py"), model, str(port)]
    with engine_running(command, port, tmp_path_factory.mktemp("native")) as url:
        yield url


@pytest.fixture(scope="module")
def native_embeddings(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run llama.cpp's own server for embeddings."""
    needs("xllamacpp", "xllamacpp")
    port = free_port()
    command = [ENGINE_PYTHON, str(HERE / "native_server.py"), model, str(port), "embeddings"]
    with engine_running(command, port, tmp_path_factory.mktemp("native")) as url:
        yield url


@pytest.fixture(scope="module")
def served(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with sidecar_running(engine, tmp_path_factory.mktemp("sidecar")) as url:
        yield url


@pytest.fixture(scope="module")
def served_native(native: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with sidecar_running(native, tmp_path_factory.mktemp("sidecar")) as url:
        yield url


@pytest.fixture(scope="module")
def served_embeddings(native_embeddings: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with sidecar_running(native_embeddings, tmp_path_factory.mktemp("sidecar")) as url:
        yield url
