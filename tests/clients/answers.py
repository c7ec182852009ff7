"""What the fake upstream sends for chat completions: the answers of an OpenAI server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from apis.api import HEADERS, STREAM_HEAD, Api, openai_error
from apis.texts import HELLO, PERSON, WARM, arguments_of, pieces
from wire import Connection, chunk, sse

USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def envelope(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that all of OpenAI's answers and chunks have."""
    return {
        "id": "chatcmpl-1",
        "object": kind,
        "created": 1760000000,
        "model": body["model"],
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }


def called_tool(body: dict[str, Any]) -> tuple[str, str] | None:
    """Return name and arguments of the tool that the model calls: the first of *body*, unless its result is there."""
    if body["messages"][-1]["role"] == "tool" or not body.get("tools"):
        return None
    name = body["tools"][0]["function"]["name"]
    return name, arguments_of(name)


def texts(body: dict[str, Any]) -> tuple[str, ...]:
    """Return the pieces of the text that the model answers."""
    if body["messages"][-1]["role"] == "tool":
        return WARM
    if body.get("response_format", {}).get("type") in ("json_schema", "json_object"):
        return pieces(PERSON)
    return HELLO


def deltas(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the deltas of a stream, the role first."""
    call = called_tool(body)
    if call is None:
        yield {"role": "assistant", "content": "", "refusal": None}
        yield from ({"content": text} for text in texts(body))
        return
    name, arguments = call
    function = {"name": name, "arguments": ""}
    first = {"index": 0, "id": "call_1", "type": "function", "function": function}
    yield {"role": "assistant", "content": None, "tool_calls": [first], "refusal": None}
    for piece in pieces(arguments):
        yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}


def finish_reason(body: dict[str, Any]) -> str:
    return "tool_calls" if called_tool(body) else "stop"


async def whole(connection: Connection, **more: Any) -> None:
    """Answer with one JSON object whose message has the fields *more* too."""
    body = connection.body
    call = called_tool(body)
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    if call is None:
        message["content"] = "".join(texts(body))
    else:
        function = {"name": call[0], "arguments": call[1]}
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
    choice = {"index": 0, "message": message | more, "logprobs": None, "finish_reason": finish_reason(body)}
    answer = envelope("chat.completion", body) | {"choices": [choice], "usage": USAGE}
    await connection.answer(200, json.dumps(answer).encode(), *HEADERS)


async def send_chunk(connection: Connection, delta: dict[str, Any], finish: str | None = None) -> None:
    """Send one chunk of a stream in a read of its own."""
    counted = (connection.body.get("stream_options") or {}).get("include_usage")
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    body = envelope("chat.completion.chunk", connection.body) | {"choices": [choice]}
    await connection.chunk(sse(body | ({"usage": None} if counted else {})))
    await asyncio.sleep(0)


async def end_stream(connection: Connection, finish: str) -> None:
    """Send the finish, the usage if it was asked for, and the end of the stream."""
    body = connection.body
    await send_chunk(connection, {}, finish)
    if (body.get("stream_options") or {}).get("include_usage"):
        await connection.chunk(sse(envelope("chat.completion.chunk", body) | {"choices": [], "usage": USAGE}))
    await connection.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def answers(connection: Connection) -> None:
    """Answer as OpenAI does, with a stream or with one JSON object."""
    if not connection.body.get("stream"):
        await whole(connection)
        return
    await connection.send(STREAM_HEAD)
    for delta in deltas(connection.body):
        await send_chunk(connection, delta)
    await end_stream(connection, finish_reason(connection.body))


async def reasons(connection: Connection) -> None:
    """Answer with the reasoning field of DeepSeek, vLLM and others before the text."""
    if not connection.body.get("stream"):
        await whole(connection, reasoning_content="A greeting is due.")
        return
    await connection.send(STREAM_HEAD)
    for text in ("A greeting", " is due."):
        await send_chunk(connection, {"role": "assistant", "content": None, "reasoning_content": text})
    for text in HELLO:
        await send_chunk(connection, {"content": text})
    await end_stream(connection, "stop")


async def comments(connection: Connection) -> None:
    """Stream with the comments that OpenRouter sends while its provider has not answered."""
    await connection.send(STREAM_HEAD)
    for delta in deltas(connection.body):
        await connection.chunk(b": OPENROUTER PROCESSING\n\n")
        await send_chunk(connection, delta)
    await end_stream(connection, "stop")


async def refuses(connection: Connection) -> None:
    """Stream a refusal, which has no `content` at all."""
    await connection.send(STREAM_HEAD)
    await send_chunk(connection, {"role": "assistant", "content": None, "refusal": ""})
    for text in ("I cannot", " say that."):
        await send_chunk(connection, {"refusal": text})
    await end_stream(connection, "stop")


async def begin(connection: Connection) -> None:
    """Send the head, the role and two pieces of text."""
    await connection.send(STREAM_HEAD)
    for delta in ({"role": "assistant", "content": ""}, *({"content": text} for text in HELLO[:2])):
        await send_chunk(connection, delta)


def error_events(error: dict[str, Any]) -> bytes:
    """Return *error* as vLLM and OpenAI send it in a stream."""
    return sse({"error": error}) + b"data: [DONE]\n\n"


CHAT = Api(answers, begin, openai_error, error_events)
