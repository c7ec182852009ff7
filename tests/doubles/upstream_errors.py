"""Error responses of an upstream, as the classification of errors reads them."""

from __future__ import annotations

import json
from typing import Any

import httpx

from policies.api.upstream import UpstreamError
from sidecar.upstream.errors.classify import from_status

REQUEST = httpx.Request("POST", "http://up.example/v1/chat/completions")
NOW = 1_800_000_000.0


def classified(status: int, body: Any = b"", headers: dict[str, str] | None = None) -> UpstreamError:
    """Return the error for a response of upstream with *status*, *body* and *headers*."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return from_status(status, httpx.Headers(headers or {}), raw, REQUEST, now=NOW)


def error_body(**fields: Any) -> dict[str, Any]:
    """Return an OpenAI error object with *fields*."""
    return {"error": {"message": "m", **fields}}
