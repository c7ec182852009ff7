"""Server-sent events as the sidecar writes them."""

from __future__ import annotations

import msgspec

START = b"event: start\ndata: \n\n"


PING = b"event: ping\ndata: \n\n"


DONE = b"event: done\ndata: \n\n"


OPENAI_PING = b": ping\n"
"""One newline: with two, OpenAI's Python SDK fails on it after an event that carried an id."""


OPENAI_DONE = b"data: [DONE]\n\n"


def token_event(text: str) -> bytes:
    """Return Chat Nest's event for one piece of text: always one line, whatever is in it.

    Half of a surrogate pair, which UTF-8 cannot carry, becomes U+FFFD.
    """
    try:
        data = msgspec.json.encode(text)
    except UnicodeEncodeError:
        data = msgspec.json.encode(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return b"event: token\ndata: " + data + b"\n\n"


def error_event(message: str, code: str, *, retryable: bool) -> bytes:
    """Return Chat Nest's last event of an answer that failed."""
    data = msgspec.json.encode({"message": message, "code": code, "retryable": retryable})
    return b"event: error\ndata: " + data + b"\n\n"


def openai_error_event(error: dict[str, object]) -> bytes:
    """Return the event that makes OpenAI's SDKs raise."""
    return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"
