"""What an upstream did, as an error class: body before headers before status."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec

from policies.api.event import Batch
from policies.api.failure_kinds import CLASSES
from policies.api.upstream import UpstreamError
from sidecar.wire.retry_after import wait_asked

from .redact import redact
from .sdk import SERVER, api_error, connection_error, status_error, timeout_error

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
    501: "request",
}
CLIENT, REDIRECT = 400, 300

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
TOO_MANY = 429
PROMPTS = frozenset({400, 413, 422, 500})
QUOTED = 4_096
FAULTS = 5
_CODE = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")


def from_status(
    status: int, headers: httpx.Headers, body: bytes, request: httpx.Request, *, secrets: Sequence[str] = (), now: float
) -> UpstreamError:
    """Return what an answer with another status than 200 means; *body* is its first 64 kB, *now* in seconds since 1970.

    Such an answer did no work.  Its words are passed on where they are an error object's; a page, a text or an answer that
    came under a wrong status are not.
    """
    said = _error_object(body)
    words = _message(said)
    message = redact(words, secrets) or f"The upstream answered with status {status}."
    kind = _kind(said, words or body[:QUOTED].decode("utf-8", "replace"), status)
    if status == httpx.codes.PAYMENT_REQUIRED and _in_flight(said) and "retry-after" in headers:
        kind = "rate"
    return UpstreamError(
        status_error(status, message, headers, _named(said, secrets), request),
        kind,
        retry_after=wait_asked(headers, now, hints=kind == "rate"),
        should_retry={"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower()),
        by_code=status >= CLIENT and bool(_by_code(said)),
    )


def from_object(said: object, request: httpx.Request, *, secrets: Sequence[str] = ()) -> UpstreamError:
    """Return what an error object under a 200 means: it counts like the status that it names."""
    found = said if isinstance(said, dict) else {}
    words = _message(found) or (said if isinstance(said, str) else "")
    message = redact(words, secrets) or "The upstream sent an error."
    code = found.get("code") or found.get("status") or found.get("status_code")
    error = api_error(message, _named(found, secrets), request)
    return UpstreamError(
        error, _kind(found, words, _status(code) or SERVER), worked=False, by_code=bool(_by_code(found))
    )


def from_exception(error: Exception, request: httpx.Request, *, sent: bool) -> UpstreamError:
    """Return what a transport's failure means.

    *sent*: the request may have gone out.  A silent or a cut server may have worked; one that was never reached, or whose
    kept connection had gone stale, did not.
    """
    cause = error.__cause__
    reached = sent and isinstance(error, httpx.ReadTimeout | httpx.ReadError | httpx.RemoteProtocolError | TimeoutError)
    if isinstance(error, httpx.ConnectTimeout):
        return timed_out("connect_timeout", request, worked=False)
    if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout | TimeoutError) or isinstance(cause, TimeoutError):
        return timed_out("head_timeout", request, worked=reached)
    broken = connection_error("The connection to the upstream failed.", request, error)
    return UpstreamError(broken, "connect", worked=reached or not isinstance(error, httpx.HTTPError | OSError))


def timed_out(kind: str, request: httpx.Request, *, worked: bool = True) -> UpstreamError:
    """Return the failure of an upstream that took longer than the limit whose class is *kind*."""
    return UpstreamError(timeout_error(request), kind, worked=worked)


def unavailable(wait: float, request: httpx.Request) -> UpstreamError:
    """Return the failure of an upstream whose breaker is open: nothing was sent; it is probed in *wait* seconds."""
    error = connection_error("The upstream fails, and is not asked.", request)
    return UpstreamError(error, "unavailable", retry_after=wait)


def broken_off(error: Exception, request: httpx.Request) -> UpstreamError:
    """Return what a body means that broke, or just ended, before any output: a server that failed."""
    return UpstreamError(from_exception(error, request, sent=True).cause, "server", worked=True)


def empty(request: httpx.Request, instead: Batch | None) -> UpstreamError:
    """Return the failure of an answer that ended well and had nothing in it; *instead* is that answer."""
    error = api_error("The upstream ended its answer without any output.", {}, request)
    return UpstreamError(error, "empty", worked=True, instead=instead)


def interrupted(request: httpx.Request, reason: str) -> UpstreamError:
    """Return the failure of an answer that broke after its first output."""
    error = connection_error(reason or "The upstream broke off.", request)
    return UpstreamError(error, "interrupted", worked=True)


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
    inner = said.get("error") or said.get("detail") or said
    if isinstance(inner, str):
        return {"message": inner}
    if isinstance(inner, list):
        return {"message": "; ".join(filter(None, map(_fault, inner[:FAULTS])))}
    return inner if isinstance(inner, dict) else {}


def _fault(each: object) -> str:
    """Return one of FastAPI's faults in words, without the input that it quotes."""
    if not isinstance(each, dict) or not isinstance(each.get("msg"), str):
        return ""
    place = each.get("loc")
    return f"{'.'.join(map(str, place))}: {each['msg']}" if isinstance(place, list) and place else str(each["msg"])


def _named(said: dict[str, Any], secrets: Sequence[str]) -> dict[str, Any]:
    """Return the code, type and param of an error object, each only if it is a plain name."""
    named = {key: str(value) for key in ("code", "type", "param") if isinstance(value := said.get(key), str | int)}
    return {key: value for key, value in named.items() if _CODE.fullmatch(value) and redact(value, secrets) == value}


def _status(code: object) -> int:
    """Return the HTTP status that *code* is, 0 for anything else."""
    text = str(code)
    return int(text) if len(text) == len("500") and text.isascii() and text.isdigit() else 0


def _message(said: dict[str, Any]) -> str:
    return next((text for key in ("message", "msg", "detail", "error") if isinstance(text := said.get(key), str)), "")


def _names(said: dict[str, Any]) -> list[str]:
    return [str(name).lower() for key in ("code", "type") if (name := said.get(key)) is not None]


def _by_code(said: dict[str, Any]) -> list[str]:
    return [BY_CODE[name] for name in _names(said) if name in BY_CODE and name not in VAGUE]


def _kind(said: dict[str, Any], words: str, status: int) -> str:
    names = _names(said)
    if known := _by_code(said):
        return next((kind for kind in known if not CLASSES[kind].retry), known[0])
    numbers = [number for name in names if (number := _status(name))]
    told, low = (numbers or [status])[0], words.lower()
    by_text = next((kind for said_so, kind in BY_TEXT if said_so in low and _may_say(kind, told)), None)
    if by_text is not None:
        return by_text
    for number in (*numbers, status):
        if number in BY_STATUS:
            return BY_STATUS[number]
    if any(name in BY_CODE for name in names) and not numbers and status >= SERVER:
        return next(BY_CODE[name] for name in names if name in BY_CODE)
    refused = max(numbers, default=0) < SERVER if numbers else REDIRECT <= status < SERVER
    return "request" if refused else "server"


def _may_say(kind: str, status: int) -> bool:
    """Whether words count under *status*: servers quote what they were sent, and anybody can send these words."""
    return status in PROMPTS if kind == "context" else status == TOO_MANY or status >= SERVER


def _in_flight(said: dict[str, Any]) -> bool:
    metadata = said.get("metadata")
    return isinstance(metadata, dict) and metadata.get("limit_source") == "openrouter_in_flight_budget"
