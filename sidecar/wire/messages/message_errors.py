"""Anthropic's error objects: `{"type": "error", "error": {"type", "message", …}, "request_id"}`.

Sources: `types/shared/error_type.py` of anthropic 2.14, and Anthropic's documentation of errors for `request_too_large`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

REQUEST_ID_FIELD = "request_id"
ERROR_TYPES: Mapping[int, str] = MappingProxyType(
    {
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        408: "timeout_error",
        409: "conflict_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
        529: "overloaded_error",
    }
)
"""The type of an error by its status; `invalid_request_error` and `api_error` for all others."""
SPECIFIC_TYPES = frozenset(ERROR_TYPES.values())
FIRST_SERVER_ERROR = 500


def message_error(status: int, error: Mapping[str, Any]) -> bytes:
    """Return the body of an error response with *status*; *error* is OpenAI's error object, with all of its fields.

    A type that Anthropic does not have, or that several statuses have, is replaced by that of the status.
    """
    fields = {name: value for name, value in error.items() if name != REQUEST_ID_FIELD and value is not None}
    general = "api_error" if status >= FIRST_SERVER_ERROR else "invalid_request_error"
    kind = fields.get("type")
    fields["type"] = kind if isinstance(kind, str) and kind in SPECIFIC_TYPES else ERROR_TYPES.get(status, general)
    body: dict[str, Any] = {"type": "error", "error": fields}
    if request_id := error.get(REQUEST_ID_FIELD):
        body[REQUEST_ID_FIELD] = request_id
    return msgspec.json.encode(body)
