"""Write server-sent events: Chat Nest's and OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

START_EVENT = b"event: start\ndata: \n\n"
PING_EVENT = b"event: ping\ndata: \n\n"
DONE_EVENT = b"event: done\ndata: \n\n"
OPENAI_PING = b": ping\n"
"""One newline: OpenAI's Python SDK fails on a blank line after an event that had an id."""
OPENAI_DONE_EVENT = b"data: [DONE]\n\n"


def token_event(text: str) -> bytes:
    """Return Chat Nest's event for one piece of text, in one data line; a lone surrogate becomes U+FFFD."""
    try:
        data = msgspec.json.encode(text)
    except UnicodeEncodeError:
        data = msgspec.json.encode(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return b"event: token\ndata: " + data + b"\n\n"


def error_event(message: str, code: str, *, retryable: bool, details: Mapping[str, object] | None = None) -> bytes:
    """Return Chat Nest's last event of a failed answer; *details* are further fields and replace none of the first three."""
    known = {"message": message, "code": code, "retryable": retryable}
    data = msgspec.json.encode({**known, **details, **known} if details else known)
    return b"event: error\ndata: " + data + b"\n\n"


def openai_error_body(error: Mapping[str, object]) -> bytes:
    """Return the JSON body of an error response of OpenAI's APIs."""
    return msgspec.json.encode({"error": error})


def openai_error_event(error: Mapping[str, object]) -> bytes:
    """Return the event that makes OpenAI's SDKs raise."""
    return b"data: " + openai_error_body(error) + b"\n\n"
