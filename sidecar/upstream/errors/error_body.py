"""Read the body of an error response: its error object, and the text by which the failure is classified."""

from __future__ import annotations

from typing import Any

from sidecar.wire.error_object import decode_error

MAX_CLASSIFIED_BYTES = 4_096
"""Bytes of a body without an error object that are searched for known phrases."""


def parse_error_body(body: bytes) -> tuple[dict[str, Any], str]:
    """Return the error object in *body*, empty without one, and the text by which the failure is classified.

    The text is the object's message.  Without one it is the start of the body, which must not be shown to a client.
    """
    error = decode_error(body) or {}
    return error, error.get("message") or body[:MAX_CLASSIFIED_BYTES].decode("utf-8", "replace")
