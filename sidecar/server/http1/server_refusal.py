"""Write the answer to a request that the server refuses by itself, before or instead of its route."""

from __future__ import annotations

from sidecar.downstream.client_errors import ClientError, openai_body

from .request_cycle import STATUS_LINES


def refusal_bytes(error: ClientError, name: str) -> bytes:
    """Return the whole response for *error*, in OpenAI's format; *name* is its request id. It closes the connection."""
    body = openai_body(error)
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", name.encode()),
        *error.headers,
        (b"connection", b"close"),
    ]
    return b"\r\n".join((STATUS_LINES[error.status], *map(b": ".join, fields), b"", body))
