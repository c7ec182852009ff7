"""The table of cases: which operation a client runs, and what upstream does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import answers
from wire import Script

OVERFLOW: dict[str, Any] = {
    "message": "This model's maximum context length is 128000 tokens. However, your messages resulted in 200012 tokens."
    " Please reduce the length of the messages.",
    "type": "invalid_request_error",
    "param": "messages",
    "code": "context_length_exceeded",
}
BAD_KEY: dict[str, Any] = {
    "message": "Incorrect API key provided.",
    "type": "invalid_request_error",
    "param": None,
    "code": "invalid_api_key",
}
UNKNOWN_MODEL: dict[str, Any] = {
    "message": "The model `gpt-4o-mini` does not exist or you do not have access to it.",
    "type": "invalid_request_error",
    "param": None,
    "code": "model_not_found",
}
VENDOR: dict[str, Any] = {
    "message": "Provider returned error",
    "code": 400,
    "metadata": {"raw": '{"detail": "temperature is not supported"}', "provider_name": "Example"},
}
"""OpenRouter's form: a number as the code, no type, and an object of its own."""
RATE: dict[str, Any] = {
    "message": "Rate limit reached for gpt-4o-mini on requests per min (RPM): Limit 3, Used 3, Requested 1.",
    "type": "requests",
    "param": None,
    "code": "rate_limit_exceeded",
}
QUOTA: dict[str, Any] = {
    "message": "You exceeded your current quota, please check your plan and billing details.",
    "type": "insufficient_quota",
    "param": None,
    "code": "insufficient_quota",
}
SERVER: dict[str, Any] = {
    "message": "The server had an error while processing your request.",
    "type": "server_error",
    "param": None,
    "code": "internal_error",
}
OVERLOADED: dict[str, Any] = {
    "message": "The engine is overloaded, please try again later.",
    "type": "overloaded_error",
    "param": None,
    "code": "server_is_overloaded",
}


INTERRUPTED = "The answer was interrupted before it was complete."
"""The sidecar's own message for a stream that upstream did not end."""


@dataclass(frozen=True)
class Case:
    """One call of a client: the operation that it runs, and what upstream does with each request, the last repeated."""

    name: str
    operation: str
    scripts: tuple[Script, ...] = (answers.answers,)
    shows: str = "Zoë"
    """Text that the application must have received: without it, two equal failures would pass."""
    fails: tuple[bool | None, bool | None] = (False, False)
    """Whether the operation ends with an error, direct and through the sidecar; None where clients differ."""
    closes: bool = False
    """Whether the client leaves, so that upstream's connection must be closed."""


def failure(name: str, status: int, error: dict[str, Any], *, operation: str = "plain") -> Case:
    """Return the case of an upstream that answers *error* to every request."""
    return Case(name, operation, (answers.fails(status, error),), shows=error["message"], fails=(True, True))


def recovery(name: str, operation: str, status: int, error: dict[str, Any], *headers: str) -> Case:
    """Return the case of an upstream that answers *error* once, and then as it should."""
    return Case(name, operation, (answers.fails(status, error, *headers), answers.answers))


CASES = (
    Case("plain", "plain"),
    Case("plain with reasoning", "plain", (answers.reasons,)),
    Case("stream", "stream"),
    Case("stream with usage", "stream_usage", shows="11"),
    Case("stream with reasoning", "stream", (answers.reasons,)),
    Case("stream with comments", "stream", (answers.comments,)),
    Case("stream of a refusal", "stream", (answers.refuses,), shows="", fails=(None, None)),
    Case("tools", "tools", shows="Oslo"),
    Case("tools in a stream", "tools_stream", shows="Oslo"),
    Case("structured output", "structured", shows="Ada Lovelace"),
    Case("structured output in a stream", "structured_stream", shows="Ada Lovelace"),
    failure("context overflow", 400, OVERFLOW),
    failure("context overflow of a stream", 400, OVERFLOW, operation="stream"),
    failure("bad key", 401, BAD_KEY),
    failure("unknown model", 404, UNKNOWN_MODEL),
    failure("error of another vendor", 400, VENDOR),
    failure("quota spent", 429, QUOTA),
    recovery("rate limit, then an answer", "plain", 429, RATE, "retry-after: 1"),
    recovery("rate limit, then a stream", "stream", 429, RATE, "retry-after: 1"),
    recovery("server error, then an answer", "plain", 500, SERVER),
    recovery("server error, then a stream", "stream", 500, SERVER),
    Case("error, then a stream", "stream", (answers.starts_with(OVERLOADED), answers.answers), fails=(None, False)),
    Case("error in a stream", "stream", (answers.breaks(SERVER),), shows=SERVER["message"], fails=(True, True)),
    Case("stream that is cut", "stream", (answers.cut,), fails=(True, True)),
    Case("stream that ends early", "stream", (answers.ends_early,), fails=(None, True)),
    failure("unavailable to the end", 503, OVERLOADED),  # after the cases that need the sidecar's retry budget
    Case("cancel", "cancel", (answers.stalls,), shows="Hello", closes=True),
)
