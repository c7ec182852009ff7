"""Choose the client's headers that are forwarded upstream."""

from __future__ import annotations

from collections.abc import Mapping

CROSSING = frozenset(
    {"x-request-id", "idempotency-key", "openai-beta", "traceparent", "tracestate", "http-referer", "x-title"}
)
"""Request headers that go upstream; cookies and all others stay here."""


ACCOUNT = frozenset({"authorization", "openai-organization", "openai-project"})
"""Those that say who pays upstream: they only go where the sidecar has no key of its own."""


MAY_CROSS = frozenset(name.encode() for name in CROSSING | ACCOUNT)


def forwardable_headers(headers: Mapping[bytes, bytes], *, keyed: bool) -> dict[str, str]:
    """Return those of a caller's request headers that may go upstream, names in lower case; none that is not plain ASCII.

    Where callers have keys of ours (*keyed*) theirs stays here.
    """
    found = {}
    for name, said in headers.items():
        if name not in MAY_CROSS or (keyed and name == b"authorization"):
            continue
        value = said.decode("latin-1")
        if value.isascii() and value.isprintable():
            found[name.decode()] = value
    return found
