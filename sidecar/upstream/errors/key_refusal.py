"""Recognise refusals of the API key of a request. They concern the holder of that key: the client, or the sidecar."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx

from .error_body import codes_of

KEY_CODES = frozenset({"invalid_api_key", "authentication_error", "invalid_authentication"})
KEY_STATUSES = frozenset({400, 401, 403})
MAX_KEY_TEXT = 2_000
"""Characters of a message that are searched for a phrase about keys."""
_KEY_TEXT = re.compile(
    r"\bapi[ _-]?key\b.{0,60}\b(?:invalid|not valid|incorrect|expired|missing|revoked|required|permission)\b"
    r"|\b(?:invalid|not valid|valid|incorrect|expired|missing|no|your)\b.{0,40}\bapi[ _-]?key\b",
    re.IGNORECASE,
)
"""Gemini ("API key not valid") and xAI ("Incorrect API key provided") send a status of 400 and a general code."""


def is_about_key(error: Mapping[str, Any], kind: str, status: int) -> bool:
    """Whether a refusal of *kind* is about the key itself, and not about what the key may do or the request contains."""
    if kind == "auth" and (status == httpx.codes.UNAUTHORIZED or not KEY_CODES.isdisjoint(codes_of(error))):
        return True
    text = error.get("message") or ""
    return kind in ("auth", "request") and status in KEY_STATUSES and _KEY_TEXT.search(text[:MAX_KEY_TEXT]) is not None
