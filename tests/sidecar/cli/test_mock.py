"""The mock upstream: streams, ceilings, pace and disconnects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.cli.mock import Mock

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "hello there"}]


async def ask(mock: Mock, body: Any, *, path: str = "/v1/chat/completions", leaves: bool = False) -> tuple[int, bytes]:
    """Send one request to the ASGI application; with *leaves* the client disconnects right after its body."""
    import asyncio

    messages = [{"type": "http.request", "body": json.dumps(body).encode()}]
    sent: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        if not leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await mock({"type": "http", "method": "POST" if body is not None else "GET", "path": path}, receive, send)
    return sent[0]["status"] if sent else 0, b"".join(message.get("body", b"") for message in sent)


def chunks(body: bytes) -> list[dict[str, Any]]:
    assert body.endswith(b"data: [DONE]\n\n")
    return [json.loads(block[6:]) for block in body.split(b"\n\n")[:-2]]


async def test_stream_is_complete() -> None:
    """A stream has role, tokens, finish reason, usage if requested, and [DONE]."""
    _, body = await ask(Mock(tokens=3), {"messages": HI, "stream": True, "stream_options": {"include_usage": True}})
    read = chunks(body)

    assert [chunk["choices"][0]["delta"].get("content") for chunk in read[:-1]] == ["", " tok0", " tok1", " tok2", None]
    assert (read[0]["choices"][0]["delta"]["role"], read[-2]["choices"][0]["finish_reason"]) == ("assistant", "stop")
    assert (read[-1]["choices"], read[-1]["usage"]) == (
        [],
        {"prompt_tokens": 8, "completion_tokens": 3, "total_tokens": 11},
    )
    _, plain = await ask(Mock(tokens=3), {"messages": HI, "stream": True})
    assert b"usage" not in plain


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_choices_stop_at_the_ceiling(field: str, *, stream: bool) -> None:
    """Each of n choices stops at the ceiling with the finish reason `length`."""
    _, body = await ask(Mock(), {"messages": HI, "model": "mock-9-0-0", field: 2, "n": 2, "stream": stream})
    if stream:
        finishes = [c["finish_reason"] for chunk in chunks(body) for c in chunk["choices"] if c["finish_reason"]]
    else:
        answer = json.loads(body)
        finishes = [choice["finish_reason"] for choice in answer["choices"]]
        assert answer["usage"]["completion_tokens"] == 4
        assert [choice["message"]["content"] for choice in answer["choices"]] == [" tok0 tok1"] * 2
    assert finishes == ["length", "length"]


async def test_model_name_sets_the_pace() -> None:
    """The model name sets the number of tokens, the interval and the delay of the first token."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    mock = Mock(sleep=sleep)
    await ask(mock, {"messages": HI, "model": "mock-4-20-300", "stream": True})
    await ask(mock, {"messages": HI, "model": "mock-4-20-300"})

    assert slept == pytest.approx([0.3, 0.02, 0.02, 0.02, 0.36])
    assert (mock.stats.requests, mock.stats.tokens, mock.stats.active) == (2, 8, 0)


async def test_long_answer_waits_for_the_reader() -> None:
    """A long response waits for its reader and is complete."""
    import asyncio

    mock, taken = Mock(), 0

    async def receive() -> Any:
        if taken:
            await asyncio.Event().wait()
        body = {"messages": HI, "model": "mock-100000-0-0", "stream": True}
        return {"type": "http.request", "body": json.dumps(body).encode()}

    async def send(message: Any) -> None:
        nonlocal taken
        taken += message.get("body", b"").count(b'" tok')
        assert mock.stats.tokens - taken == 0

    await mock({"type": "http", "method": "POST", "path": "/v1/chat/completions"}, receive, send)

    assert taken == 100_000


async def test_disconnect_aborts_the_stream() -> None:
    """A disconnect aborts the response at once."""
    mock = Mock()
    await ask(mock, {"messages": HI, "model": "mock-5-60000-60000", "stream": True}, leaves=True)

    assert (mock.stats.aborted, mock.stats.active, mock.stats.tokens) == (1, 0, 0)


@pytest.mark.parametrize(
    ("body", "path", "status"), [({}, "/v1/chat/completions", 400), ({"messages": HI}, "/v1/x", 404)]
)
async def test_invalid_request_gets_an_openai_error(body: Any, path: str, status: int) -> None:
    """Invalid requests and unknown paths get OpenAI's error envelope."""
    got, answer = await ask(Mock(), body, path=path)

    assert (got, set(json.loads(answer)["error"])) == (status, {"message", "type", "param", "code"})
