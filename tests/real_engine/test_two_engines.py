"""Two real engines with one model each, or with the same one: calls are routed by model, and conversations keep their prefix."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from engine_processes import ENGINE_PYTHON, POLLS, free_port, needs, running

from sidecar.upstream.routing.affinity import conversation_of, preferred

HERE = Path(__file__).parent
NAMES = ["first", "second"]
TURNS = 20
PREFIX_HIT = re.compile(r"(\d+) prefix-match hit, remaining (\d+) prompt tokens")
"""What llama-cpp-python writes with `--verbose` about each prompt."""


class RunningEngine:
    """One engine: its URL, its process, and the file of its log."""

    def __init__(self, url: str, process: subprocess.Popen[str], log: Path) -> None:
        self.url, self.process, self.log = url, process, log

    @property
    def hits(self) -> list[tuple[int, int]]:
        """For each prompt: the tokens that were in the cache, and those that were not."""
        return [(int(hit), int(rest)) for hit, rest in PREFIX_HIT.findall(self.log.read_text(errors="replace"))]


@contextlib.contextmanager
def engine(folder: Path, model: Path, alias: str, number: int) -> Iterator[RunningEngine]:
    """Run one engine that calls its model *alias*; wait until it lists it."""
    port = free_port()
    command = [
        ENGINE_PYTHON,
        "-m",
        "llama_cpp.server",
        "--model",
        str(model),
        "--model_alias",
        alias,
        "--port",
        str(port),
    ]
    command += ["--n_ctx", "2048", "--verbose", "true"]
    log = folder / f"engine-{number}.log"
    with log.open("w") as out, running(command, cwd=folder, stdout=out, stderr=out) as process:
        url = f"http://127.0.0.1:{port}/v1"
        for _ in range(POLLS):
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/models", timeout=2).status_code == httpx.codes.OK:
                    break
            time.sleep(0.1)  # between two polls of a process that starts; their number is bounded
        yield RunningEngine(url, process, log)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs("llama_cpp.server, gguf", "llama-cpp-python[server] or gguf")
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    subprocess.run([ENGINE_PYTHON, str(HERE / "tiny_model.py"), str(path)], check=True, timeout=60)
    return path


@contextlib.contextmanager
def routed(folder: Path, model: Path, *aliases: str) -> Iterator[tuple[openai.OpenAI, list[RunningEngine]]]:
    """Run an engine for each of *aliases*, and a sidecar in front of them; yield OpenAI's client of it."""
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(engine(folder, model, alias, at)) for at, alias in enumerate(aliases)]
        tables = [
            f'[[upstream]]\nname = "{name}"\nbase_url = "{each.url}"\n'
            for name, each in zip(NAMES, engines, strict=True)
        ]
        chain = '[[policy]]\nuse = "rate"\nrequests = 1_000\n[[policy]]\nuse = "retry"\nbase = 0.01\n'
        (folder / "sidecar.toml").write_text('[store]\nurl = "memory://"\n' + "".join(tables) + chain)
        command = [sys.executable, "-m", "sidecar", "serve", "--config", "sidecar.toml", "--port", "0"]
        process = stack.enter_context(running(command, cwd=folder, stdout=subprocess.PIPE))
        assert process.stdout is not None
        url = process.stdout.readline().strip().rpartition(" ")[2]
        stack.callback(process.stdout.close)
        yield (
            stack.enter_context(openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)),
            engines,
        )


def one_for_each() -> list[str]:
    """Return the first message of a conversation that prefers the first upstream, and of one that prefers the second."""
    from policies.testing import make_call

    found: dict[int, str] = {}
    for letter in "abcdefghijklmnopqrstuvwxyz":
        call = make_call(letter)
        conversation = conversation_of(call)
        assert conversation is not None
        found.setdefault(preferred(conversation, NAMES, [1.0, 1.0]), letter)
    return [found[0], found[1]]


def test_each_model_has_its_engine(tmp_path: Path, model: Path) -> None:
    """Two engines with one model each: both are listed with their names, each answers for its own; a third name is 404."""
    with routed(tmp_path, model, "tiny-a", "tiny-b") as (client, engines):
        hi: Any = [{"role": "user", "content": "hello"}]
        assert [each.id for each in client.models.list()] == ["tiny-a", "tiny-b"]
        answers = [
            client.chat.completions.create(model=name, messages=hi, max_tokens=4) for name in ("tiny-a", "tiny-b")
        ]
        with pytest.raises(openai.NotFoundError) as refused:
            client.chat.completions.create(model="tiny-c", messages=hi)
        logs = [each.log.read_text(errors="replace").count("POST /v1/chat/completions") for each in engines]

    assert [answer.model for answer in answers] == ["tiny-a", "tiny-b"]
    assert refused.value.code == "model_not_found"
    assert logs == [1, 1]


def test_conversations_keep_their_prefix(tmp_path: Path, model: Path) -> None:
    """In 20 turns of two interleaved conversations, each turn finds all earlier turns in its engine's cache."""
    with routed(tmp_path, model, "tiny", "tiny") as (client, engines):
        conversations: list[list[Any]] = [[{"role": "user", "content": first}] for first in one_for_each()]
        for turn in range(TURNS):
            for messages in conversations:
                if turn:
                    messages.append({"role": "user", "content": "a"})
                answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=2)
                messages.append({"role": "assistant", "content": answer.choices[0].message.content})
        hits = [each.hits for each in engines]

    for of_engine in hits:
        assert len(of_engine) >= TURNS - 1
        later = of_engine[-(TURNS - 2) :]
        assert all(hit > rest for hit, rest in later), later
    print("prefix hits (cached, new) of the last turns:", [each[-3:] for each in hits])


def test_killed_engine_is_replaced(tmp_path: Path, model: Path) -> None:
    """When one of two engines with the same model is killed, the other one answers the calls of both."""
    with routed(tmp_path, model, "tiny", "tiny") as (client, engines):
        engines[0].process.kill()
        engines[0].process.wait()
        for first in one_for_each() * 3:
            hi: Any = [{"role": "user", "content": first}]
            assert client.chat.completions.create(model="tiny", messages=hi, max_tokens=2).choices
