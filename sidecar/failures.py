"""What an upstream did, as an error class: body before headers before status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import aiohttp
import httpx
import msgspec
import openai

from policies.event import Batch
from policies.upstream import UpstreamError

from .redact import redact
from .waits import wait_asked

BY_CODE = {
    "insufficient_quota": "quota",
    "credit_balance_exhausted": "quota",
    "organization_spend_limit_exceeded": "quota",
    "project_spend_limit_exceeded": "quota",
    "organization_usage_limit_exceeded": "quota",
    "billing_hard_limit_reached": "quota",
    "context_length_exceeded": "context",
    "exceed_context_size_error": "context",
    "rate_limit_exceeded": "rate",
    "rate_limit_error": "rate",
    "slow_down": "overloaded",
    "server_is_overloaded": "overloaded",
    "overloaded_error": "overloaded",
    "unavailable_error": "overloaded",
    "server_error": "server",
    "api_error": "server",
    "internal_server_error": "server",
    "internalservererror": "server",
    "invalid_api_key": "auth",
    "authentication_error": "auth",
    "permission_error": "auth",
    "content_filter": "request",
    "invalid_request_error": "request",
    "badrequesterror": "request",
    "notfounderror": "request",
    "not_found_error": "request",
    "model_not_found": "request",
    "deploymentnotfound": "request",
}
"""`error.code` or `error.type`, in lower case → class, whatever the status."""

VAGUE = frozenset({"invalid_request_error", "badrequesterror", "server_error", "api_error", "internal_server_error"})
"""Types so general that a status or a known text says more."""

BY_STATUS = {
    401: "auth",
    402: "quota",
    403: "auth",
    408: "timeout",
    409: "overloaded",
    429: "rate",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}
SERVER, CLIENT = 500, 400

BY_TEXT = (
    ("maximum context length", "context"),
    ("exceed context window", "context"),
    ("context window of", "context"),
    ("exceeds the available context size", "context"),
    ("maximum pending requests exceeded", "overloaded"),
    ("timed out waiting for a concurrent request slot", "overloaded"),
    ("loading model", "overloaded"),
)
"""The last resort: words of servers that send no code."""

_CLASSES: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
}


def from_status(
    status: int, headers: httpx.Headers, body: bytes, request: httpx.Request, *, secrets: Sequence[str] = (), now: float
) -> UpstreamError:
    """Return what an answer with another status than 200 means; *body* is its first 64 kB, *now* in seconds since 1970.

    Such an answer did no work, except a time-out's: a gateway in between gave up while the server went on.
    """
    said = _error_object(body)
    message = redact(_message(said) or body.decode("utf-8", "replace"), secrets) or f"upstream answered {status}"
    response = httpx.Response(status, headers=headers, content=b"", request=request)
    kind = _kind(said, message, status) if status >= CLIENT else "request"
    if status == httpx.codes.PAYMENT_REQUIRED and _in_flight(said) and "retry-after" in headers:
        kind = "rate"
    return UpstreamError(
        _status_error(status, message, response, said),
        kind,
        retry_after=wait_asked(headers, now),
        should_retry={"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower()),
        worked=kind == "timeout",
    )


def from_object(said: object, request: httpx.Request, *, secrets: Sequence[str] = ()) -> UpstreamError:
    """Return what an error object under a 200 means: it counts like the status that it names."""
    found = said if isinstance(said, dict) else {}
    message = redact(_message(found) or (said if isinstance(said, str) else ""), secrets) or "upstream sent an error"
    code = found.get("code") or found.get("status") or found.get("status_code")
    status = int(code) if isinstance(code, int | str) and str(code).isdigit() and len(str(code)) == len("500") else 0
    error = openai.APIError(message, _typed(request), body=found or None)
    return UpstreamError(error, _kind(found, message, status or SERVER), worked=False)


def from_exception(error: Exception, request: httpx.Request, *, sent: bool) -> UpstreamError:
    """Return what a transport's failure means.

    *sent*: the request may have gone out.  A silent or a cut server may have worked; one that was never reached, or that
    closed before the head (an idle connection that went stale), did not.
    """
    cause = error.__cause__
    reached = sent and isinstance(error, httpx.ReadTimeout | httpx.ReadError | httpx.RemoteProtocolError | TimeoutError)
    if isinstance(cause, aiohttp.ConnectionTimeoutError) or (isinstance(error, httpx.ConnectTimeout) and cause is None):
        return timed_out("connect_timeout", request, worked=False)
    if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout | TimeoutError) or isinstance(cause, TimeoutError):
        return timed_out("head_timeout", request, worked=reached)
    broken = openai.APIConnectionError(message="The connection to the upstream failed.", request=_typed(request))
    broken.__cause__ = error
    return UpstreamError(broken, "connect", worked=reached or not isinstance(error, httpx.HTTPError | OSError))


def timed_out(kind: str, request: httpx.Request, *, worked: bool = True) -> UpstreamError:
    """Return the failure of an upstream that took longer than the limit whose class is *kind*."""
    return UpstreamError(openai.APITimeoutError(_typed(request)), kind, worked=worked)


def unavailable(wait: float, request: httpx.Request) -> UpstreamError:
    """Return the failure of an upstream whose breaker is open: nothing was sent; it is probed in *wait* seconds."""
    error = openai.APIConnectionError(message="The upstream fails, and is not asked.", request=_typed(request))
    return UpstreamError(error, "unavailable", retry_after=wait)


def broken_off(error: Exception, request: httpx.Request) -> UpstreamError:
    """Return what a body means that broke, or just ended, before any output: a server that failed."""
    return UpstreamError(from_exception(error, request, sent=True).error, "server", worked=True)


def empty(request: httpx.Request, instead: Batch | None) -> UpstreamError:
    """Return the failure of an answer that ended well and had nothing in it; *instead* is that answer."""
    error = openai.APIError("The upstream ended its answer without any output.", _typed(request), body=None)
    return UpstreamError(error, "empty", worked=True, instead=instead)


def interrupted(request: httpx.Request, reason: str) -> UpstreamError:
    """Return the failure of an answer that broke after its first output."""
    error = openai.APIConnectionError(message=reason or "The upstream broke off.", request=_typed(request))
    return UpstreamError(error, "interrupted", worked=True)


def _typed(request: httpx.Request) -> Any:
    # openai's annotations name httpx2, whose requests and responses it only reads: those of httpx serve as well.
    return cast("Any", request)


def _status_error(status: int, message: str, response: httpx.Response, said: dict[str, Any]) -> openai.APIStatusError:
    default = openai.InternalServerError if status >= SERVER else openai.APIStatusError
    return _CLASSES.get(status, default)(message, response=cast("Any", response), body=said or None)


def _error_object(body: bytes) -> dict[str, Any]:
    """Return the innermost error object of *body*: `{"error": {...}}`, `{"error": "text"}`, `{"detail": ...}`, or itself."""
    try:
        said: object = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    if isinstance(said, list) and said:
        said = said[0]
    if not isinstance(said, dict):
        return {}
    inner = said.get("error", said.get("detail", said))
    if isinstance(inner, str):
        return {"message": inner}
    return inner if isinstance(inner, dict) else {}


def _message(said: dict[str, Any]) -> str:
    return next((text for key in ("message", "msg", "detail", "error") if isinstance(text := said.get(key), str)), "")


def _kind(said: dict[str, Any], message: str, status: int) -> str:
    names = [str(name).lower() for key in ("code", "type") if (name := said.get(key)) is not None]
    known = [BY_CODE[name] for name in names if name in BY_CODE and name not in VAGUE]
    if known:
        return known[0]
    low = message.lower()
    by_text = next((kind for words, kind in BY_TEXT if words in low), None)
    if by_text is not None:
        return by_text
    numbers = [int(name) for name in names if name.isdigit() and len(name) == len("500")]
    for number in (*numbers, status):
        if number in BY_STATUS:
            return BY_STATUS[number]
    if any(name in BY_CODE for name in names) and not numbers and status >= SERVER:
        return next(BY_CODE[name] for name in names if name in BY_CODE)
    return "server" if max((*numbers, 0)) >= SERVER or (not numbers and not CLIENT <= status < SERVER) else "request"


def _in_flight(said: dict[str, Any]) -> bool:
    metadata = said.get("metadata")
    return isinstance(metadata, dict) and metadata.get("limit_source") == "openrouter_in_flight_budget"
