"""The client's request headers: those that policies see, and those that are forwarded upstream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

FORWARDED_HEADERS = frozenset(
    {"x-request-id", "idempotency-key", "openai-beta", "traceparent", "tracestate", "http-referer", "x-title"}
)
"""Request headers that are always forwarded.  Cookies and all others are not."""
ACCOUNT_HEADERS = frozenset({"authorization", "openai-organization", "openai-project"})
"""Headers that name the account at the upstream: forwarded only where the sidecar has no key of its own."""
_FORWARDABLE_NAMES = frozenset(name.encode() for name in FORWARDED_HEADERS | ACCOUNT_HEADERS)
HIDDEN_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key", "api-key"})
"""Headers that hold credentials: policies identify callers by tenant."""


class ClientHeaders(Mapping[str, str]):
    """A read-only mapping over raw ASGI headers. Names are in lower case; of a repeated header the last value counts.

    Nothing is decoded before it is read: most calls have no policy that looks at headers.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: Mapping[bytes, bytes]) -> None:
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        name = name.lower()
        if name in HIDDEN_HEADERS:
            raise KeyError(name)
        return self._raw[name.encode("latin-1", "replace")].decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        names = (name.decode("latin-1") for name in self._raw)
        return (name for name in names if name not in HIDDEN_HEADERS)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<ClientHeaders: {len(self)} names>"


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
