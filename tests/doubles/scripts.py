"""What a scripted upstream does with a request: answers as OpenAI does, or stops in one phase of its answer."""

from __future__ import annotations

import json

from wire import HEAD, Connection, token


def whole_answer(text: str) -> bytes:
    """Return the JSON of a complete answer without `stream`."""
    message = {"role": "assistant", "content": text}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()


async def hello(connection: Connection) -> None:
    """Stream two tokens."""
    await connection.stream("Hel", "lo")


async def answers(connection: Connection) -> None:
    """Answer with a stream or with one JSON object, as the request asks."""
    if connection.body.get("stream"):
        await connection.stream("a", "b")
    else:
        await connection.answer(200, whole_answer("ab"))


async def silent(connection: Connection) -> None:
    """Send nothing until the other side closes."""
    await connection.hang()


async def head_only(connection: Connection) -> None:
    """Send the head of a stream, and no event."""
    await connection.send(HEAD)
    await connection.hang()


async def mid_stream(connection: Connection) -> None:
    """Send one token, and nothing more."""
    await connection.send(HEAD)
    await connection.chunk(token("a"))
    await connection.hang()


async def endless(connection: Connection) -> None:
    """Stream one token as OpenAI does, and nothing more."""
    await connection.stream("a", finish=None, done=False)
    await connection.hang()


async def truncated(connection: Connection) -> None:
    """Send one token, and close the connection without an end."""
    await connection.send(HEAD)
    await connection.chunk(token("a"))
    connection.close()


async def closes(connection: Connection) -> None:
    """Close the connection without an answer."""
    connection.close()


async def resets(connection: Connection) -> None:
    """Reset the connection without an answer."""
    connection.reset()
