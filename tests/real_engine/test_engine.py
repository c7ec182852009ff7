"""The sidecar in front of llama.cpp's Python server with a model of random weights and a context of 512 tokens."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

HERE = Path(__file__).parent
ENGINE_PYTHON = os.environ.get("ENGINE_PYTHON", sys.executable)
HI: Any = [{"role": "user", "content": "hello"}]
LONG: Any = [{"role": "user", "content": "hello world " * 400}]


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


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    python = str(Path(ENGINE_PYTHON).absolute())
    if subprocess.run([python, "-c", "import llama_cpp.server, gguf"], capture_output=True, check=False).returncode:
        pytest.skip("llama-cpp-python[server] and gguf are not installed: `make test-engine` installs them")
    folder = tmp_path_factory.mktemp("engine")
    model = folder / "tiny.gguf"
    subprocess.run([python, str(HERE / "tiny_model.py"), str(model)], check=True, timeout=60)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "-m", "llama_cpp.server", "--model", str(model), "--port", str(port), "--n_ctx", "512"]
    with running(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}/v1"
        for _ in range(600):
            assert process.poll() is None, "the engine has ended"
            with contextlib.suppress(httpx.HTTPError), httpx.Client() as http:
                if http.get(f"{url}/models", timeout=2).status_code == 200:
                    break
            time.sleep(0.1)  # between two polls of a process that starts; their number is bounded
        yield url


@pytest.fixture(scope="module")
def served(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    command = [sys.executable, "-m", "sidecar", "serve", "--upstream", engine, "--port", "0"]
    with running(command, cwd=tmp_path_factory.mktemp("sidecar"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip().rpartition(" ")[2]
        process.stdout.close()


@pytest.fixture
def client(served: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def chat(served: str, body: dict[str, Any]) -> list[tuple[str, str]]:
    answer = httpx.post(f"{served}/api/chat", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    blocks = answer.text.split("\n\n")
    assert blocks.pop() == ""
    parsed = [dict(line.split(":", 1) for line in block.split("\n")) for block in blocks]
    return [(block["event"].strip(), block.get("data", "").strip()) for block in parsed]


def test_chat_nest_client_gets_tokens(served: str) -> None:
    """Tokens of a real engine arrive as Chat Nest's events, up to the profile's ceiling."""
    events = chat(served, {"messages": HI, "profile": "constrained"})
    text = "".join(json.loads(data) for name, data in events if name == "token")

    assert (events[0], events[-1]) == (("start", ""), ("done", ""))
    assert len(text) > 20


def test_openai_client_streams(client: openai.OpenAI) -> None:
    """OpenAI's unmodified client streams from a real engine."""
    model = next(iter(client.models.list())).id
    with client.chat.completions.create(model=model, messages=HI, max_tokens=20, stream=True) as stream:
        chunks = list(stream)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_openai_client_asks_without_streaming(client: openai.OpenAI) -> None:
    """OpenAI's unmodified client gets an answer and its usage from a real engine, also without `max_tokens`."""
    answer = client.chat.completions.create(model="tiny", messages=HI, max_tokens=20)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 20
    assert client.chat.completions.create(model="tiny", messages=HI).choices[0].message.content


def test_disconnect_frees_the_engine(client: openai.OpenAI) -> None:
    """A disconnect in mid-stream frees the engine: the next call is answered at once."""
    for _ in range(5):
        with client.chat.completions.create(model="tiny", messages=HI, max_tokens=400, stream=True) as stream:
            for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
        answer = client.chat.completions.create(model="tiny", messages=HI, max_tokens=1, timeout=5)
        assert answer.choices


def test_long_prompt_is_refused_by_the_engine(client: openai.OpenAI, served: str) -> None:
    """A prompt over the context is the engine's 400 for an SDK, and an error event for Chat Nest."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=LONG)
    events = chat(served, {"messages": LONG, "profile": "expanded"})
    error = json.loads(events[-1][1])

    assert "512" in refused.value.message
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert [name for name, _ in events] == ["start", "error"]
    # This engine ends a stream with a long prompt after a 200 without an error; it reports the error to plain calls only.
    assert error["message"] == "The model failed to answer. Please try again."
