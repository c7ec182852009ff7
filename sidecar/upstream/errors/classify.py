"""Classify failures of an upstream: the error object decides before headers, and headers before the status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from policies.api.event import Batch
from policies.api.failure_kinds import FAILURE_CLASSES
from policies.api.upstream import UpstreamError
from sidecar.wire.error_object import MODEL_FAILED, MalformedAnswer, error_object
from sidecar.wire.retry_after import wait_asked, wait_in_error

from .error_body import codes_of, full_text, parse_error_body, provider_error
from .final_refusals import has_no_credit, kind_of_code, kind_of_limit
from .key_refusal import is_about_key
from .public_object import public_object
from .redact import redact
from .sdk import FIRST_SERVER_ERROR, api_error, connection_error, status_error, timeout_error
from .secret_values import NO_SECRETS, Secrets
from .token_limits import TokenLimits

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
    "capacity_exceeded": "overloaded",
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
"""`error.code` or `error.type`, in lower case → failure kind, whatever the status."""

MISSING_MODEL_CODES = frozenset({"model_not_found", "deploymentnotfound"})
VAGUE_CODES = frozenset(
    {"invalid_request_error", "badrequesterror", "server_error", "api_error", "internal_server_error"}
)
"""General types, after which the status or a known phrase decides."""

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
    501: "request",
}
FIRST_CLIENT_ERROR, FIRST_REDIRECT = 400, 300
WAITING_KINDS = frozenset({"rate", "overloaded"})
"""Kinds for which a wait in the words of an error counts."""

BY_TEXT = (
    ("maximum pending requests exceeded", "overloaded"),
    ("timed out waiting for a concurrent request slot", "overloaded"),
    ("loading model", "overloaded"),
)
"""Phrases of servers that send no code → failure kind."""
TOO_MANY_REQUESTS = 429
CONTEXT_STATUSES = frozenset({400, 413, 422, 500})
"""Statuses under which a text about the context is believed."""
LIMIT_STATUSES = frozenset({413, 429})
"""Statuses under which a text about the limit of an account is believed."""
CREDIT_STATUSES = frozenset({400, 403, 429})
"""Statuses under which a text about an account without credit is believed."""


def from_status(
    status: int,
    headers: httpx.Headers,
    body: bytes,
    request: httpx.Request,
    *,
    secrets: Secrets = NO_SECRETS,
    own_key: bool = False,
    now: float,
) -> UpstreamError:
    """Return the failure of an answer with another status than 200.

    *body* is its first 64 kB, *now* in seconds since 1970.  Such an answer did no work.  Only an error object reaches
    clients: an HTML page, plain text and an answer under a wrong status do not.  *own_key*: the request had the sidecar's
    key, so a refusal of it is not the client's concern.
    """
    error, text = parse_error_body(body)
    shown = public_object(error, secrets)
    message = shown.get("message") or redact(error.get("message") or "", secrets)
    message = message or f"The upstream answered with status {status}."
    kind, is_certain = _kind(error, text, status)
    if status == httpx.codes.PAYMENT_REQUIRED and _is_in_flight_limit(error) and "retry-after" in headers:
        kind = "rate"
    about_key = is_about_key(error, kind, status)
    if about_key:
        kind = "auth"
    wait = wait_asked(headers, now, hints=False) or _wait_in(error, text, kind, now)
    hint = None if wait or kind != "rate" else wait_asked(headers, now, hints=True)
    return UpstreamError(
        status_error(status, message, headers, shown, request, holds_secret=secrets.may_be_in),
        _unless_daily(kind, wait or hint, error, text),
        retry_after=wait or hint,
        wait_is_hint=hint is not None,
        should_retry={"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower()),
        kind_is_certain=status >= FIRST_CLIENT_ERROR and is_certain,
        is_private=own_key and about_key,
    )


def is_missing_model(error: UpstreamError) -> bool:
    """Whether *error* means that the upstream does not have the requested model."""
    return error.cause.status_code == httpx.codes.NOT_FOUND or str(error.cause.code).lower() in MISSING_MODEL_CODES


def from_object(
    error: object,
    request: httpx.Request,
    *,
    secrets: Secrets = NO_SECRETS,
    own_key: bool = False,
    worked: bool = False,
    now: float = 0.0,
) -> UpstreamError:
    """Return the failure of an answer under status 200 that is an *error* object: it counts like the status that it names.

    *error* may also be a `MalformedAnswer`, whose text becomes the message, or any other decoded JSON.  An error object did
    no work, unless output or usage came before it (*worked*); a malformed answer may have.  *own_key* as in `from_status`,
    *now* in seconds since 1970.
    """
    is_malformed = isinstance(error, MalformedAnswer)
    found = {"message": str(error)} if is_malformed else error_object(error)
    text = found.get("message") or ""
    shown = {} if is_malformed or error is MODEL_FAILED else public_object(found, secrets)
    message = shown.get("message") or redact(text, secrets) or "The upstream sent an error."
    status = _status(found.get("code") or found.get("status") or found.get("status_code")) or FIRST_SERVER_ERROR
    text = full_text(found)
    kind, is_certain = _kind(found, text, status)
    about_key = is_about_key(found, kind, status)
    if about_key:
        kind = "auth"
    wait = _wait_in(found, text, kind, now)
    return UpstreamError(
        api_error(message, shown, request),
        _unless_daily(kind, wait, found, text),
        retry_after=wait,
        worked=worked or is_malformed,
        kind_is_certain=is_certain,
        is_private=own_key and about_key,
    )


def from_exception(error: Exception, request: httpx.Request, *, sent: bool) -> UpstreamError:
    """Return the failure of a transport that raised *error*.

    *sent*: the request may have gone out.  A server that sent nothing or cut the connection may have worked; one that was
    never reached, or whose kept connection was stale, did not.  *error* loses its traceback: its frames refer to a response,
    and a broken response to *error*, so each failed call would leave a reference cycle.
    """
    error.__traceback__ = None
    cause = error.__cause__
    reached = sent and isinstance(error, httpx.ReadTimeout | httpx.ReadError | httpx.RemoteProtocolError | TimeoutError)
    if isinstance(error, httpx.ConnectTimeout):
        return timed_out("connect_timeout", request, worked=False)
    if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout | TimeoutError) or isinstance(cause, TimeoutError):
        return timed_out("head_timeout", request, worked=reached)
    broken = connection_error("The connection to the upstream failed.", request, error)
    return UpstreamError(broken, "connect", worked=reached or not isinstance(error, httpx.HTTPError | OSError))


def timed_out(kind: str, request: httpx.Request, *, worked: bool = True) -> UpstreamError:
    """Return the failure of an upstream that exceeded the time limit of the failure kind *kind*."""
    return UpstreamError(timeout_error(request), kind, worked=worked)


def unavailable(wait: float, request: httpx.Request) -> UpstreamError:
    """Return the failure of an upstream whose circuit breaker is open: nothing was sent; the next probe is in *wait* seconds."""
    error = connection_error("The circuit breaker of the upstream is open.", request)
    return UpstreamError(error, "unavailable", retry_after=wait)


def broken_off(error: Exception, request: httpx.Request) -> UpstreamError:
    """Return the failure of an answer whose body broke or ended before any output."""
    return UpstreamError(from_exception(error, request, sent=True).cause, "server", worked=True)


def empty(request: httpx.Request, instead: Batch | None) -> UpstreamError:
    """Return the failure of a complete answer without output; *instead* is that answer."""
    error = api_error("The upstream ended its answer without any output.", {}, request)
    return UpstreamError(error, "empty", worked=True, instead=instead)


def interrupted(request: httpx.Request, reason: str, secrets: Secrets = NO_SECRETS) -> UpstreamError:
    """Return the failure of an answer that broke after its first output; *reason* may name hosts and hold *secrets*."""
    error = connection_error(redact(reason, secrets) or "The upstream cut its answer.", request)
    return UpstreamError(error, "interrupted", worked=True)


def _status(code: object) -> int:
    """Return the HTTP status that *code* is, 0 for anything else."""
    text = str(code)
    return int(text) if len(text) == len("500") and text.isascii() and text.isdigit() else 0


def _kinds_by_code(error: Mapping[str, Any]) -> list[str]:
    """Return the kinds of the specific codes in *error*, and in that of the provider behind it."""
    found = []
    for each in (error, provider_error(error)):
        codes = [code for code in codes_of(each) if code not in VAGUE_CODES]
        found += [kind for code in codes if (kind := BY_CODE.get(code) or kind_of_code(code, each)) is not None]
    return found


def _kind(error: Mapping[str, Any], text: str, status: int) -> tuple[str, bool]:
    """Return the failure kind, and whether it follows from a code or from numbers.

    A limit that this request alone exceeds comes first, then a specific code, a known text, a status (named or real), and a
    general code.
    """
    codes = codes_of(error)
    named = [number for code in codes if (number := _status(code))]
    meant = (named or [status])[0]
    certain = _kinds_by_code(error)
    final = next((kind for kind in certain if not FAILURE_CLASSES[kind].retry), None)
    if final is not None:
        return final, True
    if meant in LIMIT_STATUSES:
        limit = kind_of_limit(error, TokenLimits(text), is_rate=meant == TOO_MANY_REQUESTS)
        if limit is not None:
            return limit, True
    if meant in CREDIT_STATUSES and has_no_credit(text, meant):
        return "quota", True
    if certain:
        return certain[0], True
    lowered = text.lower()
    for phrase, kind in BY_TEXT:
        if phrase in lowered and (meant == TOO_MANY_REQUESTS or meant >= FIRST_SERVER_ERROR):
            return kind, False
    if meant in CONTEXT_STATUSES and TokenLimits(text).is_overflow:
        return "context", False
    return _kind_by_status(codes, named, status), False


def _kind_by_status(codes: Sequence[str], named: Sequence[int], status: int) -> str:
    """Return the kind of a status that is *named* in the error object, else of a real one, else of a general code."""
    for number in (*named, status):
        if number in BY_STATUS:
            return BY_STATUS[number]
    if not named and status >= FIRST_SERVER_ERROR and (general := [BY_CODE[code] for code in codes if code in BY_CODE]):
        return general[0]
    is_refusal = max(named) < FIRST_SERVER_ERROR if named else FIRST_REDIRECT <= status < FIRST_SERVER_ERROR
    return "request" if is_refusal else "server"


def _wait_in(error: Mapping[str, Any], text: str, kind: str, now: float) -> float | None:
    """Return the wait in seconds that the error object asks for; None without quota, where Google's is too short."""
    if kind == "quota":
        return None
    return wait_in_error(error, text if kind in WAITING_KINDS else "", now)


def _unless_daily(kind: str, wait: float | None, error: Mapping[str, Any], text: str) -> str:
    """Return *kind*, or `quota` for a rate per day that names no *wait*: a call cannot wait for its end."""
    if kind != "rate" or wait is not None:
        return kind
    metadata = error.get("metadata")
    source = metadata.get("limit_source") if isinstance(metadata, dict) else None
    return "quota" if TokenLimits(f"{text} {source or ''}").is_per_day else kind


def _is_in_flight_limit(error: Mapping[str, Any]) -> bool:
    metadata = error.get("metadata")
    return isinstance(metadata, dict) and metadata.get("limit_source") == "openrouter_in_flight_budget"
