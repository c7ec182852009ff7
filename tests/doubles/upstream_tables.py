"""`[[upstream]]` tables for tests of several upstreams, and what these upstreams answer."""

from __future__ import annotations

import json
from typing import Any

from wire import Connection

HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 40}
FALLBACK = '[[policy]]\nuse = "fallback"\n'
REPORT = {"prompt_tokens": 1_000_000, "completion_tokens": 0}


def whole(**more: Any) -> bytes:
    """Return the JSON of a complete answer, with the fields *more*."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}
    return json.dumps({"id": "1", "choices": [choice], **more}).encode()


async def good(connection: Connection) -> None:
    """Answer successfully, with a stream or with one JSON object that reports a million prompt tokens."""
    if connection.body.get("stream"):
        await connection.stream("fine")
    else:
        await connection.answer(200, whole(usage=REPORT))


async def busy(connection: Connection) -> None:
    """Refuse with 503."""
    await connection.answer(503, b'{"error": {"message": "busy"}}')


async def lists(connection: Connection) -> None:
    """List two models, and answer other requests successfully."""
    if b"/models" in connection.head.split(b"\r\n")[0]:
        await connection.answer(200, b'{"data": [{"id": "listed"}, {"id": "other"}]}')
    else:
        await good(connection)


def table(url: str, *lines: str) -> str:
    """Return the table of the upstream at *url*, with the further *lines*."""
    return "\n".join(["[[upstream]]", f"base_url = '{url}'", *lines, ""])
