"""Exceptions of the OpenAI SDK, built on first use: importing the SDK takes 0.3 s and 16 MB."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import httpx

from policies.api.failure import Cause

FIRST_SERVER_ERROR = 500
_CLASS_BY_STATUS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
}


def load() -> Any:
    """Import and return the SDK.  Called before the first call if a policy of a third party may use its exceptions."""
    import openai  # noqa: PLC0415  # see the module's docstring

    return openai


def status_error(
    status: int,
    message: str,
    headers: httpx.Headers,
    error_fields: Mapping[str, object],
    request: httpx.Request,
    *,
    holds_secret: Callable[[str], bool] | None = None,
) -> Cause:
    """Return the cause of an answer with another status than 200; *error_fields* is its error object for clients.

    The exception has those of *headers* for which *holds_secret* is false.
    """
    name = _CLASS_BY_STATUS.get(status, "InternalServerError" if status >= FIRST_SERVER_ERROR else "APIStatusError")

    def make() -> Exception:
        # As bytes: httpx cannot encode again what it has decoded from a value that is not ASCII.
        fields = [
            (field, value)
            for field, value in headers.raw
            if holds_secret is None or not holds_secret(value.decode("latin-1"))
        ]
        response = httpx.Response(status, headers=fields, content=b"", request=request)
        return _exception(name, message, response=response, body=error_fields or None)

    return Cause(make, name, message, status=status, error_fields=error_fields)


def api_error(message: str, error_fields: Mapping[str, object], request: httpx.Request) -> Cause:
    """Return the cause `APIError`: an answer under status 200 that is an error; *error_fields* as in `status_error`."""
    make = partial(_exception, "APIError", message, request=request, body=error_fields or None)
    return Cause(make, "APIError", message, error_fields=error_fields)


def connection_error(message: str, request: httpx.Request, origin: Exception | None = None) -> Cause:
    """Return the cause `APIConnectionError`, raised from *origin*."""
    make = partial(_exception, "APIConnectionError", message=message, request=request)
    return Cause(make, "APIConnectionError", message, origin=origin)


def timeout_error(request: httpx.Request) -> Cause:
    """Return the cause `APITimeoutError`."""
    return Cause(partial(_exception, "APITimeoutError", request), "APITimeoutError", "Request timed out.")


def _exception(name: str, *args: Any, **kwargs: Any) -> Exception:
    # The SDK's annotations name httpx2, but it only reads requests and responses, so httpx objects work too.
    error: Exception = getattr(load(), name)(*args, **kwargs)
    return error
