"""Distinguish a server that lacks a route from one that lacks a model, and log a missing route once."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx

from policies.api.upstream import UpstreamError
from sidecar.upstream.errors.error_body import MAX_CLASSIFIED_BYTES, parse_error_body
from sidecar.upstream.errors.sdk import status_error
from sidecar.wire.operations.chat_completions import CHAT_COMPLETIONS

CHAT_ROUTE = CHAT_COMPLETIONS.upstream_path
MISSING_ROUTE_STATUSES = frozenset({404, 405})
"""Statuses of servers for a path that they do not have: many web pages accept only GET."""
_NAMES_A_MODEL = re.compile(r"\bmodels?\b|deployment|\bengine|endpoints found|\bfunction '", re.IGNORECASE)
"""Words about the model in refusals: OpenAI and most others; Azure; OpenRouter; NVIDIA.

Samples are in the test of this module.
"""
_VERSION_SEGMENT = re.compile(r"/v\d", re.IGNORECASE)


class MissingRoute:
    """Logs once for each path below *base_url* that the upstream *name* lacks.  *warn* writes a line to the log."""

    def __init__(self, name: str, base_url: str, warn: Callable[[str], None]) -> None:
        self._name, self._base_url, self._warn = name, base_url, warn
        self._logged: set[str] = set()

    def note_refusal(self, method: str, path: str, status: int, body: bytes, model: str) -> bool:
        """Note that a request for *model* with *method* to *path* below the base URL got *status* and *body*.

        Return whether the server lacks the path.
        """
        if not lacks_route(status, body, model):
            return False
        if path not in self._logged:
            self._log(method, path, str(status))
        return True

    def note_error(self, message: str) -> None:
        """Note the *message* of an error object under status 200 to a chat request: LM Studio's form for unknown paths."""
        if CHAT_ROUTE not in self._logged and CHAT_ROUTE in message and _NAMES_A_MODEL.search(message) is None:
            self._log("POST", CHAT_ROUTE, "200 with an error")

    def _log(self, method: str, path: str, answer: str) -> None:
        self._logged.add(path)
        has_version = _VERSION_SEGMENT.search(self._base_url.partition("://")[2]) is not None
        cure = "check base_url" if has_version else "does base_url lack '/v1'?"
        if method == "POST" and path != CHAT_ROUTE and has_version:
            cure = "it may not offer this API"
        self._warn(f"upstream {self._name!r}: {method} {self._base_url}{path} answered {answer}; {cure}")


def lacks_route(status: int, body: bytes, model: str) -> bool:
    """Whether *status* and *body* mean that a server lacks the path, rather than that it lacks *model*."""
    if status not in MISSING_ROUTE_STATUSES:
        return False
    error, text = parse_error_body(body[:MAX_CLASSIFIED_BYTES])
    if text.lstrip("\ufeff \t\r\n").startswith("<"):
        return True
    words = " ".join([text, *(str(error[key]) for key in ("code", "type", "param", "detail") if key in error)])
    return not (model and model.lower() in words.lower()) and _NAMES_A_MODEL.search(words) is None


def missing_route(name: str, path: str, status: int, headers: httpx.Headers, request: httpx.Request) -> UpstreamError:
    """Return the failure of a *request* to the upstream *name*, which has no route at *path* and answered *status*.

    Its text is the sidecar's own, so that it is not redacted as the text of an upstream is.
    """
    message = f"The upstream {name!r} has no route for POST {path}: it answered {status}."
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "upstream_route_missing"}
    cause = status_error(httpx.codes.NOT_FOUND, message, headers, error, request)
    return UpstreamError(cause, "request", kind_is_certain=True)
