"""Read the body of an error response: its error object, and the text by which the failure is classified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sidecar.wire.error_object import decode_error

MAX_CLASSIFIED_BYTES = 4_096
"""Bytes of a body without an error object that are searched for known phrases."""
MAX_COUNT_FIELDS = 8
"""Numbers beside the message of an error object that are read, such as llama.cpp's `n_ctx`."""


def parse_error_body(body: bytes) -> tuple[dict[str, Any], str]:
    """Return the error object in *body*, empty without one, and the text by which the failure is classified.

    Without an error object the text is the start of the body, which must not be shown to a client.  Else see `full_text`.
    """
    error = decode_error(body) or {}
    return error, full_text(error) or body[:MAX_CLASSIFIED_BYTES].decode("utf-8", "replace")


def full_text(error: Mapping[str, Any]) -> str:
    """Return the message of the object *error*, its provider's message, and its counts; empty without a message."""
    message = error.get("message") or ""
    inner = provider_error(error).get("message") or ""
    if not message and not inner:
        return ""
    counts = (f"{name}: {value}." for name, value in error.items() if name.startswith("n_") and type(value) is int)
    texts = [message, inner, *list(counts)[:MAX_COUNT_FIELDS]]
    return " ".join(f"{text.rstrip('. ')}." for text in texts if text)


def codes_of(error: Mapping[str, Any]) -> list[str]:
    """Return `code` and `type` of the object *error* in lower case, without those that it lacks."""
    return [str(code).lower() for key in ("code", "type") if (code := error.get(key)) is not None]


def provider_error(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return the error object of the provider behind a router (`metadata.raw` of OpenRouter); empty without one."""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    if isinstance(raw, dict):
        raw = raw.get("error", raw)
        return raw if isinstance(raw, dict) and isinstance(raw.get("message"), str) else {}
    if not isinstance(raw, str):
        return {}
    found = decode_error(raw[: 4 * MAX_CLASSIFIED_BYTES].encode("utf-8", "replace"))
    return {"message": raw[:MAX_CLASSIFIED_BYTES]} if found is None else found


def refusal_text(body: bytes) -> str:
    """Return the text by which a refused field is found: that of the failure, and the name of the parameter."""
    error, text = parse_error_body(body)
    param = error.get("param")
    return f"{text} {param[:MAX_CLASSIFIED_BYTES]}." if isinstance(param, str) and param else text
