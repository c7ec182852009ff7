"""The sidecar in front of llama.cpp's Python server with a model of random weights and a context of 512 tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

HI: Any = [{"role": "user", "content": "hello"}]
LONG: Any = [{"role": "user", "content": "hello world " * 400}]


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


def test_completions_of_text(client: openai.OpenAI) -> None:
    """A prompt as text and as a list of one text is completed, with a stream and without."""
    for prompt in ("hello", ["hello"]):
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=8)
        with client.completions.create(model="tiny", prompt=prompt, max_tokens=8, stream=True) as stream:
            text = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 8
        assert answer.choices[0].text
        assert text


def test_token_ids_are_the_engines_refusal(client: openai.OpenAI) -> None:
    """Token ids, which this engine does not accept, are its own error, and the engine is asked once."""
    with pytest.raises(openai.APIStatusError) as refused:
        client.completions.create(model="tiny", prompt=[260, 261, 262], max_tokens=8)
    assert "valid string" in refused.value.message


def test_embeddings_of_each_input_form(client: openai.OpenAI, engine: str) -> None:
    """Vectors of one text and of several are those that the engine gives without the sidecar."""
    for asked in ("hello", ["hello", "hello world"]):
        through = client.embeddings.create(model="tiny", input=asked, encoding_format="float")
        with openai.OpenAI(base_url=engine, api_key="none") as direct:
            expected = direct.embeddings.create(model="tiny", input=asked, encoding_format="float")
        assert [each.embedding for each in through.data] == [each.embedding for each in expected.data]
        assert through.usage == expected.usage


def test_routes_that_the_engine_lacks_are_its_404(client: openai.OpenAI) -> None:
    """An API that this engine does not serve is 404, which no repetition can help."""
    with pytest.raises(openai.NotFoundError) as refused:
        client.responses.create(model="tiny", input="hello")
    assert refused.value.response.headers["x-should-retry"] == "false"
