"""OpenAI's Responses API of the fake upstream: answers, streams, and stored responses.

Stored responses have no memory: each id is known but `resp_missing`, so that a test needs no order of its requests.
"""

from __future__ import annotations

import json
from typing import Any
from zlib import crc32

from apis.api import STREAM_HEAD, Api, not_found, openai_error, send_events, send_json, stream
from apis.texts import HELLO, PERSON, WARM, arguments_of, pieces
from samples.response_object import (
    ECHOED,
    FUNCTION_CALL,
    INCOMPLETE,
    SERVER_ERROR,
    STORED,
    USAGE,
    response,
)
from samples.responses import (
    call_events,
    custom_events,
    ended,
    message_events,
    numbered,
    opened,
    reasoning_events,
    refusal_events,
)
from samples.sample import named_event
from wire import Connection

MISSING = "resp_missing"
SMALL_CEILING = 16
"""The least `max_output_tokens` that OpenAI accepts; an answer with at most this ceiling is incomplete here."""
TOOL_RESULTS = ("function_call_output", "custom_tool_call_output")
Events = tuple[dict[str, Any], ...]


def response_id(body: dict[str, Any]) -> str:
    """Return an id that depends on the request alone, so that two servers give the same."""
    asked = json.dumps([body.get("input"), body.get("previous_response_id")], sort_keys=True)
    return f"resp_{crc32(asked.encode()):08x}"


def echoed(body: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a response that depend on the request."""
    return {name: body[name] for name in ECHOED if body.get(name) is not None} | {"id": response_id(body)}


def has_tool_result(body: dict[str, Any]) -> bool:
    asked = body["input"]
    return isinstance(asked, list) and asked[-1].get("type") in TOOL_RESULTS


def output_events(body: dict[str, Any]) -> Events:
    """Return the events of the output that the model generates for *body*."""
    if has_tool_result(body):
        return message_events(*WARM)
    for tool in body.get("tools") or ():
        if tool["type"] == "custom":
            return custom_events("print(", "1)")
        call = FUNCTION_CALL | {"name": tool["name"]}
        return call_events(call, "response.function_call_arguments", "arguments", *pieces(arguments_of(tool["name"])))
    if ((body.get("text") or {}).get("format") or {}).get("type") in ("json_schema", "json_object"):
        return message_events(*pieces(PERSON))
    if is_incomplete(body):
        return message_events(*HELLO[:2], status="incomplete")
    return message_events(*HELLO)


def is_incomplete(body: dict[str, Any]) -> bool:
    ceiling = body.get("max_output_tokens")
    return ceiling is not None and ceiling <= SMALL_CEILING


def items(events: Events) -> list[dict[str, Any]]:
    """Return the output items that *events* complete."""
    return [event["item"] for event in events if event["type"] == "response.output_item.done"]


async def send(connection: Connection, output: Events) -> None:
    """Answer with *output*, as a stream or as one object."""
    body = connection.body
    fields, status = echoed(body), "completed"
    if is_incomplete(body):
        fields, status = fields | {"incomplete_details": INCOMPLETE}, "incomplete"
    if not body.get("stream"):
        await send_json(connection, response(status, items(output), usage=USAGE, **fields))
        return
    begun = opened(**{name: each for name, each in fields.items() if name != "incomplete_details"})
    events = numbered(*begun, *output, ended(status, *items(output), **fields))
    await stream(connection, map(named_event, events))


async def answers(connection: Connection) -> None:
    """Answer each route of the API."""
    method, path, _ = connection.head.decode().split(" ", 2)
    tail = path.partition("?")[0].rpartition("/responses")[2].strip("/").split("/")
    if tail == [""]:
        await create(connection)
    elif tail == ["input_tokens"]:
        await send_json(connection, STORED[1].fields)
    else:
        await stored(connection, method, *tail)


async def create(connection: Connection) -> None:
    body = connection.body
    if body.get("previous_response_id") == MISSING:
        missing = not_found(f"Previous response with id '{MISSING}' not found.", "previous_response_not_found")
        missing["error"]["param"] = "previous_response_id"
        await send_json(connection, missing, 400)
    else:
        await send(connection, output_events(body))


async def stored(connection: Connection, method: str, identity: str, *action: str) -> None:
    """Answer a route of one stored response."""
    if identity == MISSING:
        await send_json(connection, not_found(f"Response with id '{identity}' not found."), 404)
    elif action == ("input_items",):
        await send_json(connection, STORED[0].fields)
    elif action == ("cancel",):
        await send_json(connection, not_found("Cannot cancel a synchronous response."), 400)
    elif method == "DELETE":
        await send_json(connection, STORED[2].fields | {"id": identity})
    else:
        await send_json(connection, response("completed", items(message_events(*HELLO)), usage=USAGE, id=identity))


async def reasons(connection: Connection) -> None:
    """Answer with reasoning before the text."""
    await send(connection, (*reasoning_events(), *message_events(*HELLO, at=1)))


async def refuses(connection: Connection) -> None:
    """Answer with a refusal."""
    await send(connection, refusal_events())


async def fails_after_text(connection: Connection) -> None:
    """Answer with a part of the text and the status `failed`, as OpenAI reports an error of the model."""
    body = connection.body
    fields = echoed(body) | {"error": SERVER_ERROR}
    if not body.get("stream"):
        await send_json(connection, response("failed", [], **fields))
        return
    events = numbered(*opened(**echoed(body)), *message_events(*HELLO)[:4], ended("failed", usage=None, **fields))
    await stream(connection, map(named_event, events))


async def begin(connection: Connection) -> None:
    """Send the head, the events that begin the message, and two pieces of text."""
    events = numbered(*opened(**echoed(connection.body)), *message_events(*HELLO)[:4])
    await connection.send(STREAM_HEAD)
    await send_events(connection, map(named_event, events))


def error_events(error: dict[str, Any]) -> bytes:
    """Return the `error` event; its number is that after `begin`."""
    fields = {name: error.get(name) for name in ("code", "message", "param")}
    return named_event({"type": "error", **fields, "sequence_number": 6})


RESPONSES = Api(answers, begin, openai_error, error_events)
