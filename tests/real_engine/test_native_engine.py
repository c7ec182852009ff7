"""The sidecar in front of llama.cpp's own server: each API answers the same direct and through the sidecar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import openai
import pytest
from engine_processes import sidecar_running

Table: TypeAlias = dict[str, tuple[str, dict[str, Any]]]
"""Path and body of a request, by name."""
SAMPLING = {"seed": 1, "temperature": 0, "cache_prompt": False}
"""What makes two answers of one model equal."""
HELLO: list[dict[str, str]] = [{"role": "user", "content": "hello"}]
LONG = "hello world " * 400
VARYING = {"id", "created", "created_at", "completed_at", "item_id", "timings"}
"""Fields that differ from one answer to the next."""
GENERATED: Table = {
    "completions": ("/completions", {"prompt": "hello", "max_tokens": 12}),
    "completions of token ids": ("/completions", {"prompt": [260, 261, 262], "max_tokens": 12}),
    "completions of a list": ("/completions", {"prompt": ["hello", [260, 261]], "max_tokens": 6}),
    "completions with log probabilities": ("/completions", {"prompt": "hello", "max_tokens": 3, "logprobs": 2}),
    "chat completions": ("/chat/completions", {"messages": HELLO, "max_tokens": 12}),
    "responses": ("/responses", {"input": "hello", "max_output_tokens": 12}),
    "responses of items": ("/responses", {"input": HELLO, "max_output_tokens": 12}),
    "messages": ("/messages", {"messages": HELLO, "max_tokens": 12}),
    "messages with a system prompt": ("/messages", {"messages": HELLO, "max_tokens": 12, "system": "the fox"}),
}
FREE: Table = {
    "messages": ("/messages/count_tokens", {"messages": HELLO}),
    "responses": ("/responses/input_tokens", {"input": "hello"}),
}
OVER_CONTEXT: Table = {
    "completions": ("/completions", {"prompt": LONG}),
    "chat completions": ("/chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
    "responses": ("/responses", {"input": LONG}),
    "messages": ("/messages", {"messages": [{"role": "user", "content": LONG}], "max_tokens": 12}),
}


def same(value: Any) -> Any:
    """Return *value* without the fields that vary."""
    if isinstance(value, dict):
        return {name: same(each) for name, each in value.items() if name not in VARYING}
    return [same(each) for each in value] if isinstance(value, list) else value


def ask(url: str, path: str, body: dict[str, Any]) -> Any:
    answer = httpx.post(url + path, json={"model": "tiny.gguf", **body}, timeout=60)
    assert answer.status_code == 200, answer.text
    return same(answer.json())


def events(url: str, path: str, body: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return name and data of each event of a stream, those of each choice in order and one choice after the other.

    The order between choices is that in which the engine's slots run. `data: null`, with which the stream of several prompts
    begins, is left out: the sidecar drops it.
    """
    answer = httpx.post(url + path, json={"model": "tiny.gguf", "stream": True, **body}, timeout=60)
    assert answer.status_code == 200, answer.text
    blocks = [dict(line.split(": ", 1) for line in block.split("\n")) for block in answer.text.strip().split("\n\n")]
    read = [(block.get("event", ""), block["data"]) for block in blocks]
    found = [(name, data if data == "[DONE]" else same(json.loads(data))) for name, data in read if data != "null"]
    return sorted(found, key=choice_of)


def choice_of(event: tuple[str, Any]) -> int:
    """Return the index of the choice that *event* belongs to; those of no choice come last."""
    _, data = event
    choices = data.get("choices") if isinstance(data, dict) else None
    return choices[0]["index"] if choices else 1000 if data == "[DONE]" else 0


@pytest.mark.parametrize("name", GENERATED)
def test_answer_is_the_same(name: str, native: str, served_native: str) -> None:
    """The sidecar returns the engine's whole answer as it was."""
    path, body = GENERATED[name]

    assert ask(f"{served_native}/v1", path, body | SAMPLING) == ask(native, path, body | SAMPLING)


@pytest.mark.parametrize("name", GENERATED)
def test_stream_has_the_same_events(name: str, native: str, served_native: str) -> None:
    """The sidecar returns each event of the engine as it was, but for the usage that the client did not ask for."""
    path, body = GENERATED[name]
    direct, through = (events(url, path, body | SAMPLING) for url in (native, f"{served_native}/v1"))

    assert len(direct) > 3
    assert through == direct


@pytest.mark.parametrize("name", FREE)
def test_counts_of_tokens_are_the_same(name: str, native: str, served_native: str) -> None:
    """Counts of the prompt's tokens pass."""
    path, body = FREE[name]

    assert ask(f"{served_native}/v1", path, body) == ask(native, path, body)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("name", OVER_CONTEXT)
def test_prompt_over_the_context_is_the_engines_refusal(name: str, stream: bool, served_native: str) -> None:  # noqa: FBT001
    """A prompt over the context is the engine's 400 on each API, with its numbers, and no repetition is advised."""
    path, body = OVER_CONTEXT[name]
    refused = httpx.post(f"{served_native}/v1{path}", json={"model": "tiny.gguf", "stream": stream, **body}, timeout=60)

    assert refused.status_code == 400, refused.text
    assert "512" in refused.json()["error"]["message"]
    assert refused.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("asked", ["hello", ["hello", "hello world"], [260, 261], [[260, 261], [262]]], ids=repr)
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_vectors_are_the_same(asked: Any, encoding: str, native_embeddings: str, served_embeddings: str) -> None:
    """Vectors of each form of input pass as they are, in both encodings."""
    body = {"input": asked, "encoding_format": encoding}

    through = ask(f"{served_embeddings}/v1", "/embeddings", body)
    assert through == ask(native_embeddings, "/embeddings", body)
    assert through["usage"]["prompt_tokens"] > 0


def test_engine_without_embeddings_says_so(served_native: str) -> None:
    """The engine's 501 for embeddings that it was not started for reaches the client with its text."""
    refused = httpx.post(f"{served_native}/v1/embeddings", json={"model": "tiny.gguf", "input": "hello"}, timeout=60)

    assert refused.status_code == 501, refused.text
    assert "--embeddings" in refused.json()["error"]["message"]


def test_openai_client_reads_responses(served_native: str) -> None:
    """OpenAI's unmodified client reads this engine's events, which have no `sequence_number`."""
    with openai.OpenAI(base_url=f"{served_native}/v1", api_key="none", max_retries=0) as client:
        with client.responses.create(model="tiny.gguf", input="hello", max_output_tokens=12, stream=True) as stream:
            kinds = [event.type for event in stream]
        answer = client.responses.create(model="tiny.gguf", input="hello", max_output_tokens=12)

    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.output_text.delta") >= 6
    assert answer.usage is not None
    assert answer.usage.output_tokens == 12


def test_disconnect_frees_the_engine(served_native: str) -> None:
    """A disconnect in mid-stream of any API frees the engine's slot: the next calls are answered."""
    for path, body in (GENERATED["completions"], GENERATED["responses"], GENERATED["messages"]):
        longer = {**body, "model": "tiny.gguf", "stream": True, "ignore_eos": True}
        longer["max_output_tokens" if path == "/responses" else "max_tokens"] = 400
        for _ in range(5):
            with httpx.stream("POST", f"{served_native}/v1{path}", json=longer, timeout=60) as answer:
                assert answer.status_code == 200
                next(answer.iter_bytes())
        assert ask(f"{served_native}/v1", path, body)


def test_tokenize_passes_where_it_is_named(native: str, tmp_path: Path) -> None:
    """The engine's own `/tokenize` is served where `passthrough` names it, and is 404 otherwise."""
    body = {"content": "hello world"}
    direct = httpx.post(native.removesuffix("/v1") + "/tokenize", json=body, timeout=60).json()
    named = tmp_path / "sidecar.toml"
    named.write_text(f'[server]\npassthrough = ["/tokenize"]\n[[upstream]]\nbase_url = "{native}"\n')

    with sidecar_running(native, tmp_path) as url:
        assert httpx.post(f"{url}/tokenize", json=body, timeout=60).status_code == 404
    with sidecar_running(native, tmp_path, "--config", str(named)) as url:
        answer = httpx.post(f"{url}/tokenize", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
    assert answer.json() == direct
