"""Errors as clients receive them, and those of the sidecar itself. `upstream_failures` has those for failed upstreams."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from policies.api.rejection import Rejection
from sidecar.wire.limit_headers import Header
from sidecar.wire.sse_writer import error_event, openai_error_body
from sidecar.wire.stored.references import CONVERSATION_FIELD, INPUT_FIELD, PREVIOUS_FIELD, StoredKind

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
COUNT_WAIT_SECONDS = 0.25
"""Seconds after which a client may repeat a request for a number of tokens."""
METHOD_NOT_ALLOWED, FIRST_SERVER_ERROR = 405, 500
CLIENT_ERROR_STATUSES = range(400, 500)


class ClientError(msgspec.Struct, frozen=True, kw_only=True):
    """One error response, or the error event of a stream.

    *kind* is OpenAI's error type; empty stands for the type of the status. *retryable* is the field of Chat Nest's
    `error` event. *final* sends `x-should-retry: false`. *wait* is `Retry-After` in seconds, None where waiting does
    not help. *detail* is the precise text where *message* is a fixed one. *details* are further fields of the error object.
    *upstream_object* is upstream's own error object, which `/v1` shows in place of the fields that it has. *allow* and
    *challenge* are the headers `Allow` and `WWW-Authenticate`; *closes* ends the connection behind the response.
    """

    status: int
    code: str
    message: str
    kind: str = ""
    param: str | None = None
    retryable: bool = False
    final: bool = True
    wait: float | None = None
    detail: str = ""
    details: dict[str, Any] = {}
    upstream_object: Mapping[str, object] = {}
    allow: str = ""
    challenge: str = ""
    closes: bool = False

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
        if self.closes:
            headers.append((b"connection", b"close"))
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


def invalid_request(message: str, param: str | None, detail: str = "") -> ClientError:
    """Return the 400 for a body that does not follow the schema; *param* names the field."""
    return ClientError(status=400, code="invalid_request", message=message, param=param, detail=detail)


def unauthorized(*, ambiguous: bool = False, expired: bool = False) -> ClientError:
    """Return the 401 for a missing or unknown API key; *ambiguous*: for two different ones; *expired*: for an old one."""
    message = (
        "The API key is missing or unknown. Send it as 'Authorization: Bearer KEY', 'api-key: KEY' or 'x-api-key: KEY'."
    )
    if ambiguous:
        message = "The headers carry different API keys. Send one key."
    if expired:
        message = "The API key has expired. Ask the operator of this service for a new one."
    return ClientError(status=401, code="unauthorized", message=message, challenge="Bearer")


def forbidden(message: str, param: str | None) -> ClientError:
    """Return the 403 for a key that does not permit the request; *param* names the field."""
    return ClientError(status=403, code="forbidden", message=message, param=param)


def host_not_allowed(host: str) -> ClientError:
    """Return the 403 for a request to a *host* name that is not the sidecar's, of which 100 characters are quoted."""
    message = (
        f"The host {host[:100]!r} is not allowed: a web page could reach the sidecar under such a name (DNS rebinding). "
        "Use an IP address or 'localhost', or add the name to 'allowed_hosts' in [server]."
    )
    return ClientError(status=403, code="host_not_allowed", message=message)


def cross_site(origin: str) -> ClientError:
    """Return the 403 for a request of a web page that may not call. *origin* is the page's; empty if it is unknown."""
    source, cure = f"the origin {origin[:100]!r}", "Add it to 'cors_origins' in [server] to allow it."
    if origin == "null":
        cure = (
            "A local file or a sandboxed frame has no other: serve the page from a web server, and add that origin to "
        )
        cure += "'cors_origins' in [server]. Only '*' there allows 'null'."
    elif not origin:
        source = "a page of another origin"
        cure = "Add that origin to 'cors_origins' in [server], and let the page send the request with CORS."
    message = f"The request comes from {source}, which may not call. {cure}"
    return ClientError(status=403, code="cross_site", message=message)


def not_found(path: str, advice: str = ".") -> ClientError:
    """Return the 404 for *path*, of which at most 100 characters are quoted; *advice* is the rest of the message."""
    return ClientError(status=404, code="not_found", message=f"Nothing is served at {path[:100]!r}{advice}")


def unknown_reference(kind: StoredKind, stored_id: str) -> ClientError:
    """Return the error for a body that refers to a stored object which its tenant does not have, with OpenAI's text.

    For an earlier response that is a 400 (lmstudio-ai/lmstudio-bug-tracker#1188, maximhq/bifrost#2441). An object of another
    tenant is refused as an unknown one.
    """
    if kind == "response":
        message = f"Previous response with id '{stored_id}' not found."
        return ClientError(status=400, code="previous_response_not_found", message=message, param=PREVIOUS_FIELD)
    return unknown_object(kind, stored_id, CONVERSATION_FIELD if kind == "conversation" else INPUT_FIELD)


def unknown_object(kind: StoredKind, stored_id: str, param: str | None = None) -> ClientError:
    """Return the 404 for a path whose stored object the tenant does not have."""
    message = f"{kind.capitalize()} with id '{stored_id}' not found."
    return ClientError(status=404, code="not_found", message=message, param=param)


def owners_unavailable() -> ClientError:
    """Return the 503 for a request that refers to a stored object while the store does not answer."""
    message = "The owner of the stored object cannot be checked just now. Please try again in a moment."
    return ClientError(status=503, code="store_unavailable", message=message, retryable=True, final=False, wait=1.0)


def compaction_refused() -> ClientError:
    """Return the 404 for `POST /v1/responses/compact`."""
    message = (
        "Compaction is not served here: it generates an answer whose length no field limits, so that no budget could "
        "bound it. Send a shorter input, or let the server drop old items with 'truncation': 'auto'."
    )
    return ClientError(status=404, code="not_found", message=message)


def method_not_allowed(allow: str) -> ClientError:
    """Return the 405 that names the methods in *allow*."""
    return ClientError(
        status=METHOD_NOT_ALLOWED, code="method_not_allowed", message=f"Use {allow} for this path.", allow=allow
    )


def body_too_large(limit: int) -> ClientError:
    """Return the 413 for a body of more than *limit* bytes."""
    message = f"The body is larger than {limit} bytes (server.max_body, and server.chat_max_body on /api/chat)."
    return ClientError(status=413, code="body_too_large", message=message)


def overloaded(message: str) -> ClientError:
    """Return the 503 for a request that this process has no room for; *message* names the limit and its setting."""
    return ClientError(status=503, code="overloaded", message=message, retryable=True, final=False, wait=1.0)


def unread_requests_full() -> ClientError:
    """Return the 503 for a request that would exceed `server.max_buffered`."""
    return overloaded("The sidecar holds too many bytes of unread requests (server.max_buffered). Try again later.")


def too_many_counts(limit: int) -> ClientError:
    """Return the 429 for a request for a number of tokens while *limit* others of the tenant, or too many in all, run."""
    message = f"Too many counts of tokens run at the same time: at most {limit} for each tenant. Try again in a moment."
    return ClientError(
        status=429, code="too_many_counts", message=message, retryable=True, final=False, wait=COUNT_WAIT_SECONDS
    )


def unsupported_media_type() -> ClientError:
    """Return the 415 for a body that is not declared as JSON in UTF-8."""
    message = "Send JSON in UTF-8 with the header 'content-type: application/json'."
    return ClientError(status=415, code="unsupported_media_type", message=message)


def unsupported_encoding() -> ClientError:
    """Return the 415 for a body in an unknown content encoding, or in several."""
    message = "Send the body uncompressed, or with the header 'content-encoding: gzip' or 'deflate'."
    return ClientError(status=415, code="unsupported_media_type", message=message)


def internal_error() -> ClientError:
    """Return the 500 for a fault of the sidecar or of a policy; details are in the log only."""
    return ClientError(status=500, code="internal_error", message="AI request failed", retryable=True, final=False)


def store_unavailable() -> ClientError:
    """Return the 503 for a request that needs the store while it is down; a client can retry after a second."""
    message = "The limits cannot be read just now. Please try again in a moment."
    return ClientError(status=503, code="store_unavailable", message=message, retryable=True, final=False, wait=1.0)


def draining() -> ClientError:
    """Return the 503 of a process that is shutting down; a client can retry after a second."""
    message = "The service is restarting. Please try again in a moment."
    return ClientError(status=503, code="draining", message=message, retryable=True, final=False, wait=1.0)


def chat_body(fault: ClientError) -> bytes:
    """Return the JSON body of a refusal on `/api/chat`; `detail` is the precise text if `error` is a fixed one."""
    body = {"error": fault.message, "code": fault.code, **fault.details}
    detail = fault.detail
    if (fixed := CHAT_MESSAGES.get(fault.code)) is not None:
        body["error"], detail = fixed[1], fault.message
    if detail:
        body["detail"] = detail
    return msgspec.json.encode(body)


def chat_status(fault: ClientError) -> int:
    """Return the status of a refusal on `/api/chat`."""
    return CHAT_MESSAGES.get(fault.code, (fault.status, ""))[0]


def openai_error(fault: ClientError) -> dict[str, Any]:
    """Return the error object that OpenAI's SDKs read."""
    kind = fault.kind or ERROR_TYPES_BY_STATUS.get(
        fault.status, "server_error" if fault.status >= FIRST_SERVER_ERROR else "invalid_request_error"
    )
    ours = {"message": fault.message, "type": kind, "param": fault.param, "code": fault.code, **fault.details}
    if not (shown := fault.upstream_object):
        return ours
    return {**shown, **{name: value for name, value in ours.items() if name not in shown}}


def openai_body(fault: ClientError) -> bytes:
    """Return the JSON body of a refusal on `/v1`."""
    return openai_error_body(openai_error(fault))


def chat_event(fault: ClientError) -> bytes:
    """Return the `error` event that ends a Chat Nest stream, with the precise message: the client shows it."""
    return error_event(fault.detail or fault.message, fault.code, retryable=fault.retryable, details=fault.details)


def chat_refusal_event(fault: ClientError) -> bytes:
    """Return the `error` event of a refused call; `retry_after` is its wait in seconds, in place of the header."""
    if fault.wait is None:
        return chat_event(fault)
    details = {"retry_after": math.ceil(fault.wait * 1000) / 1000, **fault.details}
    return chat_event(msgspec.structs.replace(fault, details=details))
