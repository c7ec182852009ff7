"""Read the body of an error response: its error object, the text to classify it by, and the fields that clients may see."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.wire.error_object import decode_error

from .redact import redact

MAX_CLASSIFIED_BYTES = 4_096
"""Bytes of a body without an error object that are searched for known phrases."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")


def read_error_body(body: bytes) -> tuple[dict[str, Any], str]:
    """Return the error object in *body*, empty without one, and the text by which the failure is classified.

    The text is the object's message.  Without one it is the start of the body, which must not be shown to a client.
    """
    error = decode_error(body) or {}
    return error, error.get("message") or body[:MAX_CLASSIFIED_BYTES].decode("utf-8", "replace")


def public_fields(error: Mapping[str, Any], secrets: Sequence[str]) -> dict[str, str]:
    """Return `code`, `type` and `param` of an error object, each only if it is a plain name and not one of *secrets*."""
    names = {key: str(value) for key in ("code", "type", "param") if isinstance(value := error.get(key), str | int)}
    return {key: name for key, name in names.items() if _PLAIN_NAME.fullmatch(name) and redact(name, secrets) == name}
