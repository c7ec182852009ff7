"""All errors that clients receive: status, code, message, and whether a retry can help."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec

from policies.api.rejection import Rejection
from policies.api.upstream import UpstreamError
from sidecar.wire.limit_headers import Header
from sidecar.wire.sse_writer import error_event, openai_error_event


class ClientMessage(NamedTuple):
    """The error that a client gets for one kind of upstream failure (`policies.api.failure_kinds` lists the kinds).

    *raises* is the exception of the OpenAI SDK for such a failure. *status* is sent where upstream sent none.
    *retryable* is the field of Chat Nest's `error` event, and decides whether upstream's `Retry-After` is forwarded.
    """

    raises: str
    status: int
    code: str
    retryable: bool
    message: str


MESSAGES_BY_KIND = {
    "connect": ClientMessage(
        "APIConnectionError",
        502,
        "upstream_unavailable",
        True,
        "The model cannot be reached. Please try again.",
    ),
    "connect_timeout": ClientMessage(
        "APITimeoutError",
        504,
        "upstream_timeout",
        True,
        "The model's server did not accept a connection in time. Please try again.",
    ),
    "head_timeout": ClientMessage(
        "APITimeoutError", 504, "upstream_timeout", True, "The model did not start to answer in time. Please try again."
    ),
    "first_token_timeout": ClientMessage(
        "APITimeoutError", 504, "upstream_timeout", True, "The model sent no first token in time. Please try again."
    ),
    "idle_timeout": ClientMessage(
        "APITimeoutError", 504, "stream_interrupted", True, "The model stopped sending before its answer was complete."
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
        "APIError", 502, "upstream_error", True, "The model sent an empty answer. Please try again."
    ),
    "unavailable": ClientMessage(
        "APIConnectionError",
        502,
        "upstream_unavailable",
        True,
        "The model is temporarily unavailable. Please try again in a moment.",
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
        "APIConnectionError", 502, "stream_interrupted", True, "The answer was interrupted before it was complete."
    ),
}
PASSES_UPSTREAM_MESSAGE = frozenset({"context", "request"})
"""Kinds whose upstream message is useful to the client, and is sent to it."""
PASSES_UPSTREAM_CODE = frozenset({"quota", "context", "auth", "request"})
"""Final kinds: upstream's code, type and param are kept, because programs match `context_length_exceeded`."""

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
"""Status and message on `/api/chat` that differ from `/v1`, as Chat Nest's own server sends them; by code."""
FIRST_SERVER_ERROR, BAD_GATEWAY = 500, 502
ERROR_STATUSES = range(400, 600)
"""Statuses of failures in HTTP. Servers also invent others, which are replaced."""


class ClientError(msgspec.Struct, frozen=True, kw_only=True):
    """One error response, or the error event of a stream.

    *kind* is OpenAI's error type; empty stands for the type of the status. *retryable* is the field of Chat Nest's
    `error` event. *final* sends `x-should-retry: false`. *wait* is `Retry-After` in seconds, None where waiting does
    not help. *details* are further fields of the error object. *allow* and *challenge* are the headers `Allow` and
    `WWW-Authenticate`.
    """

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
        """The headers of the response, without its length and type; waits are rounded up."""
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


def error_for_rejection(rejection: Rejection) -> ClientError:
    """Return the error for a policy's refusal."""
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


def error_for_upstream(error: UpstreamError) -> ClientError:
    """Return the error for a failed upstream, by its kind.

    It is `final`: the sidecar has made its own retries, so the client's SDK should not retry.
    """
    known, cause = MESSAGES_BY_KIND.get(error.kind, MESSAGES_BY_KIND["server"]), error.cause
    status = known.status
    if cause.status_code is not None:
        status = cause.status_code if cause.status_code in ERROR_STATUSES else BAD_GATEWAY
    passed = cause if error.kind in PASSES_UPSTREAM_CODE else None
    code = passed.code if passed is not None and passed.code and not passed.code.isdigit() else known.code
    message = cause.message if cause.message and error.kind in PASSES_UPSTREAM_MESSAGE else known.message
    return ClientError(
        status=status,
        code=code,
        message=message,
        kind=(passed.type if passed is not None and passed.type else None) or "upstream_error",
        param=passed.param if passed is not None else None,
        retryable=known.retryable,
        wait=error.retry_after if known.retryable else None,
    )


def invalid_request(message: str, param: str | None) -> ClientError:
    """Return the 400 for a body that does not follow the schema; *param* names the field."""
    return ClientError(status=400, code="invalid_request", message=message, param=param)


def unauthorized() -> ClientError:
    """Return the 401 for a missing or unknown API key."""
    message = "The API key is missing or unknown. Send it as 'Authorization: Bearer KEY'."
    return ClientError(status=401, code="unauthorized", message=message, challenge="Bearer")


def forbidden(message: str, param: str | None) -> ClientError:
    """Return the 403 for a key that does not permit the request; *param* names the field."""
    return ClientError(status=403, code="forbidden", message=message, param=param)


def not_found(path: str) -> ClientError:
    """Return the 404 for *path*, of which at most 100 characters are quoted."""
    return ClientError(status=404, code="not_found", message=f"Nothing is served at {path[:100]!r}.")


def method_not_allowed(allow: str) -> ClientError:
    """Return the 405 that names the methods in *allow*."""
    return ClientError(status=405, code="method_not_allowed", message=f"Use {allow} for this path.", allow=allow)


def body_too_large(limit: int) -> ClientError:
    """Return the 413 for a body of more than *limit* bytes."""
    return ClientError(status=413, code="body_too_large", message=f"The body is larger than {limit} bytes.")


def unsupported_media_type() -> ClientError:
    """Return the 415 for a body that is not declared as uncompressed JSON in UTF-8."""
    message = "Send JSON in UTF-8, uncompressed, with the header 'content-type: application/json'."
    return ClientError(status=415, code="unsupported_media_type", message=message)


def internal_error() -> ClientError:
    """Return the 500 for a fault of the sidecar or of a policy; details are in the log only."""
    return ClientError(status=500, code="internal_error", message="AI request failed", retryable=True, final=False)


def draining() -> ClientError:
    """Return the 503 of a process that is shutting down; a client can retry after a second."""
    message = "The service is restarting. Please try again in a moment."
    return ClientError(status=503, code="draining", message=message, retryable=True, final=False, wait=1.0)


def output_exhausted(tokens: int) -> ClientError:
    """Return Chat Nest's error for an answer that reached its ceiling, of *tokens* (0: unknown), before any text."""
    message = "The model reached its limit of output tokens before it wrote an answer"
    used = f": all {tokens} tokens were used for reasoning." if tokens else "."
    return ClientError(status=BAD_GATEWAY, code="output_exhausted", message=message + used, kind="upstream_error")


def empty_answer(reason: str = "The model sent an empty answer.") -> ClientError:
    """Return Chat Nest's error for an answer that is complete and has no text, because of *reason*, a sentence."""
    return ClientError(status=BAD_GATEWAY, code="empty_answer", message=reason, kind="upstream_error")


def deadline_passed(seconds: float) -> ClientError:
    """Return the 504 for an answer that took longer than *seconds* in all."""
    known = MESSAGES_BY_KIND["total_timeout"]
    message = known.message.format(seconds=seconds)
    return ClientError(status=known.status, code=known.code, message=message, retryable=known.retryable)


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
    """Return the error event of an OpenAI stream that failed; `[DONE]` follows it."""
    return openai_error_event(openai_error(fault))
