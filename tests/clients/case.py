"""One case: which operation a client runs, what upstream does, and the failures that all APIs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apis.api import Api, breaks, cut, ends_early, fails, stalls, starts_with
from apis.messages import MESSAGES
from apis.responses import RESPONSES
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
    scripts: tuple[Script, ...]
    shows: str = "Zoë"
    """Text that the application must have received: without it, two equal failures would pass."""
    fails: tuple[bool | None, bool | None] = (False, False)
    """Whether the operation ends with an error, direct and through the sidecar; None where clients differ."""
    closes: bool = False
    """Whether the client leaves, so that upstream's connection must be closed."""
    differs: str = ""
    """The name of a further difference that the contract of this API makes, beside that of the case."""


def failure(api: Api, name: str, status: int, error: dict[str, Any], operation: str = "plain") -> Case:
    """Return the case of an upstream that answers *error* to every request."""
    script = fails(api, status, error)
    return Case(name, operation, (script,), shows=error["message"], fails=(True, True), differs=error_form(api))


def error_form(api: Api) -> str:
    """Return the difference that the error envelope of *api* makes, empty if it makes none."""
    return "error of Messages" if api is MESSAGES else ""


def recovery(api: Api, name: str, operation: str, status: int, error: dict[str, Any], *headers: str) -> Case:
    """Return the case of an upstream that answers *error* once, and then as it should."""
    return Case(name, operation, (fails(api, status, error, *headers), api.answers))


def refusals(api: Api) -> tuple[Case, ...]:
    """Return the cases of errors that no repetition can help."""
    return (
        failure(api, "context overflow", 400, OVERFLOW),
        failure(api, "bad key", 401, BAD_KEY),
        failure(api, "unknown model", 404, UNKNOWN_MODEL),
        failure(api, "error of another vendor", 400, VENDOR),
        failure(api, "quota spent", 429, QUOTA),
    )


def plain_recoveries(api: Api) -> tuple[Case, ...]:
    """Return the cases of a plain answer after an error."""
    return (
        recovery(api, "rate limit, then an answer", "plain", 429, RATE, "retry-after: 1"),
        recovery(api, "server error, then an answer", "plain", 500, SERVER),
    )


def error_in_stream(api: Api) -> Case:
    """Return the case of an error after two pieces of output.

    Some clients of Responses ignore the `error` event, as they ignore a response that has failed: they take the part for all.
    """
    script = breaks(api, SERVER)
    if api is RESPONSES:
        return Case("error event in a stream", "stream", (script,), fails=(None, True))
    shows, differs = SERVER["message"], error_form(api)
    return Case("error in a stream", "stream", (script,), shows=shows, fails=(True, True), differs=differs)


def stream_failures(api: Api) -> tuple[Case, ...]:
    """Return the cases of streams that fail."""
    after_error = (starts_with(api, OVERLOADED), api.answers)
    return (
        failure(api, "context overflow of a stream", 400, OVERFLOW, "stream"),
        recovery(api, "rate limit, then a stream", "stream", 429, RATE, "retry-after: 1"),
        recovery(api, "server error, then a stream", "stream", 500, SERVER),
        Case("error, then a stream", "stream", after_error, fails=(None, False)),
        error_in_stream(api),
        Case("stream that is cut", "stream", (cut(api),), fails=(True, True)),
        Case("stream that ends early", "stream", (ends_early(api),), fails=(None, True)),
    )


def last_cases(api: Api) -> tuple[Case, ...]:
    """Return the cases that come last: they empty the sidecar's retry budget, or end the client's connection."""
    unavailable = failure(api, "unavailable to the end", 503, OVERLOADED)
    return unavailable, Case("cancel", "cancel", (stalls(api),), shows="Hello", closes=True)
