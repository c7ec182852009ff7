"""Failures as the chain passes them to policies."""

from __future__ import annotations

from typing import Any, cast

import httpx
import openai

from policies.api.failure import Failure
from policies.api.upstream import UpstreamError

REQUEST = httpx.Request("POST", "http://h/v1")


def failure_of(kind: str, *tried: str, status: int = 0, code: str = "") -> Failure:
    """Return the failure of the last of *tried* upstreams, by default of `a`, with *status* and *code*."""
    error: Exception = openai.OpenAIError(kind)
    if status:
        body = {"message": "no", "code": code} if code else None
        answer = cast("Any", httpx.Response(status, request=REQUEST))
        error = openai.APIStatusError("no", response=answer, body=body)
    tried = tried or ("a",)
    return UpstreamError(error, kind).failure(attempt=len(tried), upstream=tried[-1], tried=tried)
