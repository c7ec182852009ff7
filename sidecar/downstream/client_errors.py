"""Everything that a client can be told, in one table: status, code, words, and whether to try again."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec

from policies.api.rejection import Rejection
from policies.api.upstream import UpstreamError
from sidecar.wire.limit_headers import Header
from sidecar.wire.sse_writer import error_event, openai_error_event


class ClientMessage(NamedTuple):
    """What a client is told of a failed upstream, by the failure's class (`policies.classes` says which are tried again).

    *raises* is what openai's SDK would have raised in the sidecar's place; *status* holds where upstream gave none.
    """

    raises: str
    status: int
    code: str
    retryable: bool
    words: str


MESSAGES_BY_KIND = {
    "connect": ClientMessage(
        "APIConnectionError",
        502,
        "upstream_unavailable",
        True,
        "The model cannot be reached just now. Please try again.",
    ),
    "connect_timeout": ClientMessage(
        "APITimeoutError",
        504,
        "upstream_timeout",
        True,
        "The model's server took no connection in time. Please try again.",
    ),
    "head_timeout": ClientMessage(
        "APITimeoutError", 504, "upstream_timeout", True, "The model did not begin to answer in time. Please try again."
    ),
    "first_token_timeout": ClientMessage(
        "APITimeoutError", 504, "upstream_timeout", True, "The model gave no first word in time. Please try again."
    ),
    "idle_timeout": ClientMessage(
        "APITimeoutError", 504, "stream_interrupted", True, "The model fell silent before its answer was complete."
    ),
    "total_timeout": ClientMessage(
        "APITimeoutError", 504, "upstream_timeout", True, "The answer took longer than {seconds:g} seconds."
    ),
    "timeout": ClientMessage(
        "APIStatusError", 504, "upstream_timeout", True, "The model did not answer in time. Please try again."
    ),
    "rate": ClientMessage(
        "RateLimitError", 429, "upstream_error", True, "The model is busy. Please try again in a moment."
    ),
    "overloaded": ClientMessage(
        "InternalServerError", 503, "upstream_error", True, "The model is overloaded. Please try again in a moment."
    ),
    "server": ClientMessage(
        "InternalServerError", 502, "upstream_error", True, "The model failed to answer. Please try again."
    ),
    "empty": ClientMessage(
        "APIError", 502, "upstream_error", True, "The model gave an empty answer. Please try again."
    ),
    "unavailable": ClientMessage(
        "APIConnectionError",
        502,
        "upstream_unavailable",
        True,
        "The model is out of order. Please try again in a moment.",
    ),
    "quota": ClientMessage("RateLimitError", 429, "upstream_error", False, "The model's own quota is used up."),
    "context": ClientMessage(
        "BadRequestError", 400, "upstream_error", False, "The conversation is too long for the model."
    ),
    "auth": ClientMessage(
        "AuthenticationError", 502, "upstream_error", False, "The model refused the service's credentials."
    ),
    "request": ClientMessage("BadRequestError", 400, "upstream_error", False, "The model refused the request."),
    "interrupted": ClientMessage(
        "APIConnectionError", 502, "stream_interrupted", True, "The answer broke off before it was complete."
    ),
}
PASSES_UPSTREAM_MESSAGE = frozenset({"context", "request"})
"""Classes whose upstream message is for the person who asks."""
PASSES_UPSTREAM_CODE = frozenset({"quota", "context", "auth", "request"})
"""Final classes: code, type and param of upstream stay, because programs match `context_length_exceeded` and the like."""

ERROR_TYPES_BY_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
CHAT_MESSAGES = {
    "rate_limit_exceeded": (429, "Rate limit exceeded. Please slow down."),
    "request_too_large": (429, "Request too large. Please shorten your message."),
    "budget_exceeded": (429, "Daily AI budget exceeded. Try again tomorrow."),
}
"""What Chat Nest's clients know: status and words on `/api/chat`."""
FIRST_SERVER_ERROR, BAD_GATEWAY = 500, 502
ERROR_STATUSES = range(400, 600)
"""All that HTTP knows as failures; servers make up others, which no client of ours must see."""


class ClientError(msgspec.Struct, frozen=True, kw_only=True):
    """One no.  *wait* is in seconds, where waiting helps; *final* tells SDKs not to try again."""

    status: int
    code: str
    message: str
    kind: str = ""
    param: str | None = None
    retryable: bool = False
    final: bool = True
    wait: float | None = None
    details: dict[str, Any] = {}
    allow: str = ""
    challenge: str = ""

    @property
    def headers(self) -> list[Header]:
        """The headers that go with it; waits are rounded up."""
        headers: list[Header] = []
        if self.wait is not None:
            headers.append((b"retry-after", b"%d" % math.ceil(self.wait)))
            if not self.final:
                headers.append((b"retry-after-ms", b"%d" % math.ceil(self.wait * 1000)))
        if self.final:
            headers.append((b"x-should-retry", b"false"))
        if self.allow:
            headers.append((b"allow", self.allow.encode()))
        if self.challenge:
            headers.append((b"www-authenticate", self.challenge.encode()))
        return headers


def fault_of_rejection(rejection: Rejection) -> ClientError:
    """Return what a policy's no says to a client."""
    return ClientError(
        status=rejection.status,
        code=rejection.code,
        message=rejection.message,
        kind=rejection.error_type or "",
        retryable=not rejection.final,
        final=rejection.final,
        wait=rejection.retry_after,
        details=rejection.details,
    )


def fault_of_upstream(error: UpstreamError) -> ClientError:
    """Return what a failed upstream says to a client; our own retries are spent, so it is to send nothing again."""
    told, cause = MESSAGES_BY_KIND.get(error.kind, MESSAGES_BY_KIND["server"]), error.cause
    status = told.status
    if cause.status_code is not None:
        status = cause.status_code if cause.status_code in ERROR_STATUSES else BAD_GATEWAY
    own = cause if error.kind in PASSES_UPSTREAM_CODE else None
    code = own.code if own is not None and own.code and not own.code.isdigit() else told.code
    words = cause.message if cause.message and error.kind in PASSES_UPSTREAM_MESSAGE else told.words
    return ClientError(
        status=status,
        code=code,
        message=words,
        kind=(own.type if own is not None and own.type else None) or "upstream_error",
        param=own.param if own is not None else None,
        retryable=told.retryable,
        wait=error.retry_after if told.retryable else None,
    )


def invalid_request(message: str, param: str | None) -> ClientError:
    """Say that the body is not as specified."""
    return ClientError(status=400, code="invalid_request", message=message, param=param)


def unauthorized() -> ClientError:
    """Say that there is no key, or one that is not known."""
    message = "The API key is missing or not known. Send it as 'Authorization: Bearer KEY'."
    return ClientError(status=401, code="unauthorized", message=message, challenge="Bearer")


def forbidden(message: str, param: str | None) -> ClientError:
    """Say that the key is good, but not for this."""
    return ClientError(status=403, code="forbidden", message=message, param=param)


def not_found(path: str) -> ClientError:
    """Say that nothing is served at *path*."""
    return ClientError(status=404, code="not_found", message=f"Nothing is served at {path[:100]!r}.")


def method_not_allowed(allow: str) -> ClientError:
    """Say that the path does not take the method."""
    return ClientError(status=405, code="method_not_allowed", message=f"Use {allow} for this path.", allow=allow)


def body_too_large(limit: int) -> ClientError:
    """Say that the body has more than *limit* bytes."""
    return ClientError(status=413, code="body_too_large", message=f"The body may have {limit} bytes.")


def unsupported_media_type() -> ClientError:
    """Say that the body is not announced as JSON."""
    message = "Send JSON in UTF-8, uncompressed, with the header 'content-type: application/json'."
    return ClientError(status=415, code="unsupported_media_type", message=message)


def internal_error() -> ClientError:
    """Say that it is our own fault; the log has more."""
    return ClientError(status=500, code="internal_error", message="AI request failed", retryable=True, final=False)


def draining() -> ClientError:
    """Say that the process is on its way out; another one, or its successor, will serve."""
    message = "The service is restarting. Please try again in a moment."
    return ClientError(status=503, code="draining", message=message, retryable=True, final=False, wait=1.0)


def deadline_passed(seconds: float) -> ClientError:
    """Say that the whole answer took longer than *seconds*."""
    told = MESSAGES_BY_KIND["total_timeout"]
    message = told.words.format(seconds=seconds)
    return ClientError(status=told.status, code=told.code, message=message, retryable=told.retryable)


def chat_body(fault: ClientError) -> bytes:
    """Return the JSON body of a refusal on `/api/chat`."""
    _, message = CHAT_MESSAGES.get(fault.code, (0, fault.message))
    return msgspec.json.encode({"error": message, "code": fault.code, **fault.details})


def chat_status(fault: ClientError) -> int:
    """Return the status of a refusal on `/api/chat`."""
    return CHAT_MESSAGES.get(fault.code, (fault.status, ""))[0]


def openai_error(fault: ClientError) -> dict[str, Any]:
    """Return the error object that OpenAI's SDKs read."""
    kind = fault.kind or ERROR_TYPES_BY_STATUS.get(
        fault.status, "server_error" if fault.status >= FIRST_SERVER_ERROR else "invalid_request_error"
    )
    return {"message": fault.message, "type": kind, "param": fault.param, "code": fault.code, **fault.details}


def openai_body(fault: ClientError) -> bytes:
    """Return the JSON body of a refusal on `/v1`."""
    return msgspec.json.encode({"error": openai_error(fault)})


def chat_event(fault: ClientError) -> bytes:
    """Return the `error` event that ends a Chat Nest stream."""
    _, message = CHAT_MESSAGES.get(fault.code, (0, fault.message))
    return error_event(message, fault.code, retryable=fault.retryable)


def openai_event(fault: ClientError) -> bytes:
    """Return the event that tells a broken OpenAI stream; the end mark follows it."""
    return openai_error_event(openai_error(fault))
