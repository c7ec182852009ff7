"""Choose the client's request headers that are forwarded upstream."""

from __future__ import annotations

from collections.abc import Mapping

FORWARDED_HEADERS = frozenset(
    {"x-request-id", "idempotency-key", "openai-beta", "traceparent", "tracestate", "http-referer", "x-title"}
)
"""Request headers that are always forwarded.  Cookies and all others are not."""
ACCOUNT_HEADERS = frozenset({"authorization", "openai-organization", "openai-project"})
"""Headers that name the account at the upstream: forwarded only where the sidecar has no key of its own."""
_FORWARDABLE_NAMES = frozenset(name.encode() for name in FORWARDED_HEADERS | ACCOUNT_HEADERS)


def forwardable_headers(headers: Mapping[bytes, bytes], *, keyed: bool) -> dict[str, str]:
    """Return the request *headers* that may be forwarded, names in lower case; only printable ASCII values.

    *keyed*: clients authenticate at the sidecar, so their `authorization` is not forwarded.
    """
    found = {}
    for name, raw in headers.items():
        if name not in _FORWARDABLE_NAMES or (keyed and name == b"authorization"):
            continue
        value = raw.decode("latin-1")
        if value.isascii() and value.isprintable():
            found[name.decode()] = value
    return found
