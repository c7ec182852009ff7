"""Anthropic's Messages API of the fake upstream: answers, streams, counts of tokens."""

from __future__ import annotations

from typing import Any

from apis.api import STREAM_HEAD, Api, send_events, send_json, stream
from apis.texts import HELLO, THOUGHTS, WARM, arguments_of, pieces
from samples import messages
from samples.sample import named_event
from wire import Connection

SMALL_CEILING = 16
"""An answer with at most this ceiling has the stop reason `max_tokens`."""
Events = tuple[dict[str, Any], ...]
ERROR_TYPES = {
    "invalid_api_key": "authentication_error",
    "model_not_found": "not_found_error",
    "insufficient_quota": "rate_limit_error",
    "rate_limit_exceeded": "rate_limit_error",
    "internal_error": "api_error",
    "server_is_overloaded": "overloaded_error",
}
"""Anthropic's type for the code of an error of OpenAI; others are `invalid_request_error`."""


def has_tool_result(body: dict[str, Any]) -> bool:
    content = body["messages"][-1]["content"]
    return isinstance(content, list) and any(each["type"] == "tool_result" for each in content)


def output_events(body: dict[str, Any]) -> tuple[str, Events]:
    """Return the stop reason and the events of the blocks that the model generates for *body*."""
    if has_tool_result(body):
        return "end_turn", messages.text_events(*WARM)
    if tools := body.get("tools"):
        called = messages.tool_events(*pieces(arguments_of(tools[0]["name"])), at=1)
        return "tool_use", (*messages.text_events("I ask."), *called)
    if body["max_tokens"] <= SMALL_CEILING:
        return "max_tokens", messages.text_events(*HELLO[:2])
    if (body.get("thinking") or {}).get("type") == "enabled":
        return "end_turn", (*messages.thinking_events(), *messages.text_events(*HELLO, at=1))
    return "end_turn", messages.text_events(*HELLO)


def blocks(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the content of a plain answer to *body*."""
    if has_tool_result(body):
        return [messages.TEXT | {"text": "".join(WARM)}]
    if body.get("tools"):
        return [messages.TEXT | {"text": "I ask."}, messages.TOOL_USE | {"name": body["tools"][0]["name"]}]
    text = messages.TEXT | {"text": "".join(HELLO[:2] if body["max_tokens"] <= SMALL_CEILING else HELLO)}
    thinks = (body.get("thinking") or {}).get("type") == "enabled"
    return [messages.THINKING | {"thinking": "".join(THOUGHTS)}, text] if thinks else [text]


def opening(body: dict[str, Any]) -> dict[str, Any]:
    """Return `message_start`, with the model that was asked for."""
    return messages.START | {"message": messages.START["message"] | {"model": body["model"]}}


async def answers(connection: Connection) -> None:
    """Answer each route of the API, and `HEAD /`."""
    method, path, _ = connection.head.decode().split(" ", 2)
    if method == "HEAD":
        await connection.answer(200, b"")
    elif path.partition("?")[0].endswith("/count_tokens"):
        await send_json(connection, messages.COUNTED.fields)
    else:
        await create(connection)


async def create(connection: Connection) -> None:
    body = connection.body
    stop, output = output_events(body)
    if body.get("stream"):
        events = (opening(body), messages.PING, *output, *messages.ending(stop))
        await stream(connection, map(named_event, events))
    else:
        await send_json(connection, messages.message(stop, *blocks(body), model=body["model"]))


async def begin(connection: Connection) -> None:
    """Send the head, the events that begin the message, and two pieces of text."""
    events = (opening(connection.body), messages.PING, *messages.text_events(*HELLO)[:3])
    await connection.send(STREAM_HEAD)
    await send_events(connection, map(named_event, events))


def error_body(error: dict[str, Any]) -> dict[str, Any]:
    """Return Anthropic's envelope with its type of *error*."""
    return messages.error(ERROR_TYPES.get(error.get("code", ""), "invalid_request_error"), error["message"])


def error_events(error: dict[str, Any]) -> bytes:
    return named_event(error_body(error))


MESSAGES = Api(answers, begin, error_body, error_events)
