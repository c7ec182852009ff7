"""OpenAI's embeddings API of the fake upstream: each form of an input, both encodings, `dimensions`."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

from apis.api import Api, openai_error, send_json
from samples.embeddings import VECTOR, answer, encoded
from wire import Connection

TOKENS_PER_TEXT = 3


def inputs(body: dict[str, Any]) -> list[Any]:
    """Return the inputs: one text, several, one list of token ids, or several."""
    asked = body["input"]
    return [asked] if isinstance(asked, str) or isinstance(asked[0], int) else asked


async def answers(connection: Connection) -> None:
    """Answer with one vector for each input."""
    body = connection.body
    asked = inputs(body)
    vector = tuple(islice(cycle(VECTOR), body.get("dimensions") or len(VECTOR)))
    value = encoded(vector) if body.get("encoding_format") == "base64" else list(vector)
    tokens = sum(TOKENS_PER_TEXT if isinstance(each, str) else len(each) for each in asked)
    await send_json(connection, answer(*[value] * len(asked), tokens=tokens) | {"model": body["model"]})


async def begin(connection: Connection) -> None:
    """Send the head and a part of the body of a plain answer: the API has no streams."""
    await connection.send(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"object":')


def error_events(error: dict[str, Any]) -> bytes:
    """Return nothing: the API has no streams."""
    return b""


EMBEDDINGS = Api(answers, begin, openai_error, error_events)
