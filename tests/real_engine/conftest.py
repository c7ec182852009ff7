"""The engines, each with a model of random weights and a context of 512 tokens, and a sidecar in front of each."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from engine_processes import ENGINE_PYTHON, ENGINES, engine_running, free_port, needs, sidecar_running


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of the model."""
    if subprocess.run([ENGINE_PYTHON, "-c", "import gguf, numpy"], capture_output=True, check=False).returncode:
        pytest.skip("gguf is not installed: `make test-engine` installs it")
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    subprocess.run([ENGINE_PYTHON, str(ENGINES / "tiny_model.py"), str(path)], check=True, timeout=60)
    return str(path)


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
    command = [ENGINE_PYTHON, str(ENGINES / "native_server.py"), model, str(port)]
    with engine_running(command, port, tmp_path_factory.mktemp("native")) as url:
        yield url


@pytest.fixture(scope="module")
def native_embeddings(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run llama.cpp's own server for embeddings."""
    needs("xllamacpp", "xllamacpp")
    port = free_port()
    command = [ENGINE_PYTHON, str(ENGINES / "native_server.py"), model, str(port), "embeddings"]
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
