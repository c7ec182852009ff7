"""The errors that clients receive for failures of upstreams."""

from __future__ import annotations

import re
from typing import NamedTuple

from policies.api.upstream import UpstreamError

from .client_errors import ClientError


class ClientMessage(NamedTuple):
    """The error that a client gets for one kind of upstream failure (`policies.api.failure_kinds` lists the kinds).

    *raises* is the exception of the OpenAI SDK for such a failure. *status* is sent where upstream sent none.
    *retryable*: the same request can succeed later. It becomes the field of Chat Nest's `error` event.
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
    "too_large": ClientMessage(
        "RateLimitError", 429, "upstream_error", False, "The conversation is too large for the model's rate limit."
    ),
    "auth": ClientMessage(
        "AuthenticationError", 502, "upstream_error", False, "The model refused the service's credentials."
    ),
    "request": ClientMessage("BadRequestError", 400, "upstream_error", False, "The model refused the request."),
    "interrupted": ClientMessage(
        "APIConnectionError", 502, "stream_interrupted", True, "The answer was interrupted before it was complete."
    ),
}
PASSES_UPSTREAM_MESSAGE = frozenset({"context", "too_large", "request"})
"""Kinds whose upstream message is useful to every client: Chat Nest's events show it too."""
PASSES_UPSTREAM_CODE = frozenset({"quota", "context", "too_large", "auth", "request"})
"""Final kinds, whose code in Chat Nest's events and in records is upstream's, such as `context_length_exceeded`."""
ENDS_WITH_TIME = frozenset({"quota"})
"""Final kinds that end with a window of upstream's, so that its `Retry-After` is passed on."""

_PLAIN_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.\[\]-]{0,63}")
BAD_GATEWAY = 502
ERROR_STATUSES = range(400, 600)
"""Statuses of failures in HTTP. Servers also invent others, which are replaced."""


def error_for_upstream(error: UpstreamError) -> ClientError:
    """Return the error for a failed upstream, by its kind.

    Upstream's own error object is shown on `/v1`. If it is about credentials of the sidecar, neither its text nor its
    status is: clients would take their own key for wrong.  SDKs are told not to retry (`final`) if the sidecar has retried
    to the end, or if no repeat can help.
    """
    known, cause = MESSAGES_BY_KIND.get(error.kind, MESSAGES_BY_KIND["server"]), error.cause
    status, code, message = known.status, known.code, known.message
    if not error.is_private:
        if cause.status_code is not None:
            status = cause.status_code if cause.status_code in ERROR_STATUSES else BAD_GATEWAY
        if error.kind in PASSES_UPSTREAM_CODE and cause.code and _PLAIN_CODE.fullmatch(cause.code):
            code = cause.code
        if error.kind in PASSES_UPSTREAM_MESSAGE:
            message = cause.message or message
    wait = None if error.wait_is_hint else error.retry_after
    useless = error.give_up_reason == "useless"
    return ClientError(
        status=status,
        code=code,
        message=message,
        kind="upstream_error",
        retryable=known.retryable and not useless,
        final=error.give_up_reason != "declined",
        wait=wait if known.retryable or error.kind in ENDS_WITH_TIME else None,
        upstream_object={} if error.is_private else cause.error_fields,
    )


def deadline_passed(seconds: float) -> ClientError:
    """Return the 504 for an answer that took longer than *seconds* in all.  The client may send the call again."""
    known = MESSAGES_BY_KIND["total_timeout"]
    message = known.message.format(seconds=seconds)
    return ClientError(
        status=known.status, code=known.code, message=message, retryable=known.retryable, final=not known.retryable
    )


def output_exhausted(tokens: int) -> ClientError:
    """Return Chat Nest's error for an answer that reached its ceiling, of *tokens* (0: unknown), before any text."""
    message = "The model reached its limit of output tokens before it wrote an answer"
    used = f": all {tokens} tokens were used for reasoning." if tokens else "."
    return ClientError(status=BAD_GATEWAY, code="output_exhausted", message=message + used, kind="upstream_error")


def empty_answer(reason: str = "The model sent an empty answer.") -> ClientError:
    """Return Chat Nest's error for an answer that is complete and has no text, because of *reason*, a sentence."""
    return ClientError(status=BAD_GATEWAY, code="empty_answer", message=reason, kind="upstream_error")
