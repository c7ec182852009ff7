"""The exceptions of openai's SDK, made when somebody looks at them: to load it takes 0.3 s of a start and 16 MB for good."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import httpx

from policies.api.sdk_error import Cause

SERVER = 500
_CLASSES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
}


def load() -> Any:
    """Return the SDK.  Done before the first call where policies of somebody's own may look: no call is to wait for it."""
    import openai  # noqa: PLC0415  # see above

    return openai


def status_error(
    status: int, message: str, headers: httpx.Headers, said: Mapping[str, str], request: httpx.Request
) -> Cause:
    """Stand for the exception of an answer with another status than 200, whose error object *said* this."""
    name = _CLASSES.get(status, "InternalServerError" if status >= SERVER else "APIStatusError")

    def make() -> Exception:
        response = httpx.Response(status, headers=headers, content=b"", request=request)
        return _made(name, message, response=response, body=said or None)

    return Cause(make, name, message, status=status, said=said)


def api_error(message: str, said: Mapping[str, str], request: httpx.Request) -> Cause:
    """Stand for `APIError`: something else that an answer held."""
    make = partial(_made, "APIError", message, request=request, body=said or None)
    return Cause(make, "APIError", message, said=said)


def connection_error(message: str, request: httpx.Request, origin: Exception | None = None) -> Cause:
    """Stand for `APIConnectionError`, which *origin* made."""
    make = partial(_made, "APIConnectionError", message=message, request=request)
    return Cause(make, "APIConnectionError", message, origin=origin)


def timeout_error(request: httpx.Request) -> Cause:
    """Stand for `APITimeoutError`."""
    return Cause(partial(_made, "APITimeoutError", request), "APITimeoutError", "Request timed out.")


def _made(name: str, *given: Any, **named: Any) -> Exception:
    # openai's annotations name httpx2, whose requests and responses it only reads: those of httpx serve as well.
    made: Exception = getattr(load(), name)(*given, **named)
    return made
