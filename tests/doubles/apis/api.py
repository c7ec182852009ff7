"""One API of the fake upstream, and the failures that all APIs share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from wire import Connection, Script, chunk

HEADERS = ("x-request-id: req_upstream", "openai-processing-ms: 12")
STREAM_HEAD = "\r\n".join(
    (
        "HTTP/1.1 200 OK",
        "content-type: text/event-stream; charset=utf-8",
        "transfer-encoding: chunked",
        *HEADERS,
        "\r\n",
    )
).encode()
STREAM_END = b"0\r\n\r\n"


@dataclass(frozen=True)
class Api:
    """How a server of this API answers, begins a stream and reports errors."""

    answers: Script
    """Answers a request as the API does."""
    begin: Script
    """Sends the head of a stream and two pieces of output."""
    error_body: Callable[[dict[str, Any]], dict[str, Any]]
    """Returns the body of an error answer for OpenAI's four fields of an error."""
    error_events: Callable[[dict[str, Any]], bytes]
    """Returns the events that end a stream by this error."""


async def send_json(connection: Connection, body: dict[str, Any], status: int = 200, *headers: str) -> None:
    """Answer with one JSON object."""
    await connection.answer(status, json.dumps(body).encode(), *HEADERS, *headers)


async def send_events(connection: Connection, events: Iterable[bytes]) -> None:
    """Send each of *events* in a network write of its own."""
    for event in events:
        await connection.chunk(event)
        await asyncio.sleep(0)


async def stream(connection: Connection, events: Iterable[bytes]) -> None:
    """Answer with a whole stream of *events*."""
    await connection.send(STREAM_HEAD)
    await send_events(connection, events)
    await connection.send(STREAM_END)


def fails(api: Api, status: int, error: dict[str, Any], *headers: str) -> Script:
    """Return a script that answers with *error* and *status*."""

    async def script(connection: Connection) -> None:
        await send_json(connection, api.error_body(error), status, *headers)

    return script


def cut(api: Api) -> Script:
    """Return a script that closes the connection inside the chunked body."""

    async def script(connection: Connection) -> None:
        await api.begin(connection)
        connection.close()

    return script


def ends_early(api: Api) -> Script:
    """Return a script that ends the body as HTTP demands, without the last event of the API."""

    async def script(connection: Connection) -> None:
        await api.begin(connection)
        await connection.send(STREAM_END)

    return script


def breaks(api: Api, error: dict[str, Any]) -> Script:
    """Return a script that streams two pieces of output, then *error*."""

    async def script(connection: Connection) -> None:
        await api.begin(connection)
        await connection.send(chunk(api.error_events(error)) + STREAM_END)

    return script


def starts_with(api: Api, error: dict[str, Any]) -> Script:
    """Return a script that streams *error* and nothing else, after status 200."""

    async def script(connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(api.error_events(error)) + STREAM_END)

    return script


def stalls(api: Api) -> Script:
    """Return a script that streams two pieces of output, then nothing until the other side closes."""

    async def script(connection: Connection) -> None:
        await api.begin(connection)
        await connection.hang()

    return script


def not_found(text: str, code: str | None = None) -> dict[str, Any]:
    """Return OpenAI's error body of an unknown object."""
    return {"error": {"message": text, "type": "invalid_request_error", "param": None, "code": code}}


def openai_error(error: dict[str, Any]) -> dict[str, Any]:
    """Return OpenAI's error envelope."""
    return {"error": error}
