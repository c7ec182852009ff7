"""The client's request headers: those that policies see, and those that are forwarded upstream."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from hashlib import sha256

FORWARDED_HEADERS = frozenset(
    {"x-request-id", "idempotency-key", "openai-beta", "traceparent", "tracestate", "http-referer", "x-title"}
    | {"anthropic-version", "anthropic-beta"}
)
"""Request headers that are always forwarded.  Cookies and all others are not, unless an upstream names them."""
KEY_HEADERS = ("authorization", "api-key", "x-api-key")
"""Headers in which clients send their API key: OpenAI's, Azure's and Anthropic's."""
OTHER_KEY_HEADERS = frozenset(KEY_HEADERS[1:])
ACCOUNT_HEADERS = frozenset({"authorization", "openai-organization", "openai-project"})
"""Headers that name the account at the upstream: forwarded only where the sidecar has no key of its own."""
SECRET_HEADERS = frozenset({*KEY_HEADERS, "proxy-authorization", "cookie", "apikey", "x-goog-api-key", "x-auth-token"})
"""Headers that hold credentials.  Policies do not see them: they identify callers by tenant."""
MAX_FORWARDED_VALUE_LENGTH = 8_192
"""Characters of a header that an upstream names; a longer value is not forwarded."""
MAX_HEADER_NAME_LENGTH = 100
IDEMPOTENCY_SUFFIX = b"idempotency-key"
"""End of the names of headers by which a server recognises a repeated request, such as `X-Idempotency-Key`."""

CONNECTION_HEADER = b"connection"
_PLAIN_CONNECTIONS = frozenset({b"keep-alive", b"close", b"Keep-Alive"})
"""Usual values of `Connection`, which name no header."""
LIST_HEADERS = frozenset({"anthropic-beta"})
"""Headers of `FORWARDED_HEADERS` that are lists: clients may send them several times."""
_FIXED_NAMES = frozenset(
    name.encode() for name in (*(FORWARDED_HEADERS - LIST_HEADERS), *ACCOUNT_HEADERS, *KEY_HEADERS)
)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_NAME = re.compile(
    r"host|accept|accept-encoding|content-.+|expect|connection|keep-alive|te|trailer|transfer-encoding|upgrade"
    r"|proxy-connection|http2-settings|user-agent|x-request-id|x-profile|x-event-schema"
)
"""Headers that the sidecar sets itself or reads, for each request or connection (RFC 9110, 7.6.1 and 8)."""
_ROUTING_NAME = re.compile(
    r"forwarded|via|x-forwarded-.+|x-real-ip|.*client-ip|.*connecting-ip|x-original-.+|x-rewrite-.+|x-(http-)?method(-.+)?"
    r"|range|if-.+|max-forwards"
)
"""Headers that change the address, path or method a server assumes, or that make it answer with a part or nothing."""
_CREDENTIAL_NAME = re.compile(
    r".*(authori[sz]ation|authenticat|cookie|api-?key|-?jwt-?).*"
    r"|(.+-)?(subscription|functions|access|secret|private|master|auth|account)-key"
    r"|(.+-)?(token|secret|password|passwd|credentials?|auth)"
    r"|dpop|x-amzn-oidc-.+|x-ms-token-.+|x-ms-client-principal.*|.*client-cert.*"
)
"""Headers that hold a secret or a proof of identity, those that load balancers add for a user included."""
_CREDENTIAL_PARAMETER = re.compile(r"(.+[-_.])?(key|code|sig|signature|auth)")
"""Parameters of URLs that hold a secret: Gemini's `key`, Azure's `code` and `sig`."""
_ACCOUNT_NAME = re.compile(r"openai-organi[sz]ation|openai-project|x-goog-user-project|chatgpt-account-id")


class ClientHeaders(Mapping[str, str]):
    """A read-only mapping over raw ASGI headers. Names are in lower case; of a repeated header the last value counts.

    Nothing is decoded before it is read: most calls have no policy that looks at headers.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: Mapping[bytes, bytes]) -> None:
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        name = name.lower()
        if name in SECRET_HEADERS:
            raise KeyError(name)
        return self._raw[name.encode("latin-1", "replace")].decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        names = (name.decode("latin-1") for name in self._raw)
        return (name for name in names if name not in SECRET_HEADERS)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<ClientHeaders: {len(self)} names>"


def is_header_name(name: str) -> bool:
    """Whether *name* can be the name of a header (RFC 9110, 5.6.2)."""
    return len(name) <= MAX_HEADER_NAME_LENGTH and _HEADER_NAME.fullmatch(name) is not None


def is_header_value(value: str) -> bool:
    """Whether *value* can be sent as the value of a header: printable ASCII."""
    return value.isascii() and value.isprintable()


def is_credential_name(name: str) -> bool:
    """Whether a header or a parameter of a URL with this *name* holds a secret."""
    canonical = name.lower().replace("_", "-")
    return any(pattern.fullmatch(canonical) for pattern in (_CREDENTIAL_NAME, _CREDENTIAL_PARAMETER))


def forwarding_faults(names: Iterable[str], own: Collection[str]) -> Iterator[str]:
    """Yield why each client header in *names* that must not be forwarded is refused, as `[1]: problem; cure`.

    *own* are the headers that the sidecar sends to the same upstream, in lower case.
    """
    seen = set(own)
    for at, name in enumerate(names):
        fault = _fault_of(name)
        if fault is None and name.lower() in seen:
            fault = f"{name!r} is set twice (header names ignore case); remove one of them"
        if fault is not None:
            yield f"[{at}]: {fault}"
        seen.add(name.lower())


def _fault_of(name: str) -> str | None:
    """Return why no upstream may receive the client's header *name*.

    Underscores count as dashes: CGI and WSGI servers make no difference between them.
    """
    if any(character in name for character in "*?["):
        return f"{name!r} contains a wildcard; name each header"
    if not is_header_name(name):
        return f"{name!r} is not a header name; use letters, digits and dashes"
    canonical = name.lower().replace("_", "-")
    if _OWN_NAME.fullmatch(canonical):
        return f"the sidecar sets or reads {name!r} itself; remove it"
    if _ROUTING_NAME.fullmatch(canonical):
        return f"{name!r} changes how servers route or answer a request; remove it"
    if _ACCOUNT_NAME.fullmatch(canonical):
        return f"{name!r} names the account at the upstream; set it in `headers`, or use pass_authorization"
    if _CREDENTIAL_NAME.fullmatch(canonical):
        return f"{name!r} carries credentials of the client; remove it, and name your own secret in headers_env"
    return None


def forwardable_names(configured: Iterable[str], *, keyed: bool, passes_other_keys: bool) -> frozenset[bytes]:
    """Return the names of all headers that may be forwarded to some upstream, and `Connection`, which may exclude some.

    *configured* are those that upstreams name, in lower case.  *keyed*: clients authenticate at the sidecar, so no header
    with their key is forwarded.  *passes_other_keys*: an upstream takes the clients' keys also from `OTHER_KEY_HEADERS`.
    """
    names = {*FORWARDED_HEADERS, *ACCOUNT_HEADERS, *configured, CONNECTION_HEADER.decode()}
    if passes_other_keys:
        names |= OTHER_KEY_HEADERS
    if keyed:
        names.difference_update(KEY_HEADERS)
    return frozenset(name.encode() for name in names)


def idempotency_names(names: Iterable[bytes]) -> tuple[str, ...]:
    """Return those of *names* whose values `scoped_to_tenant` must change where tenants share an account at the upstream."""
    return tuple(sorted(name.decode() for name in names if name.endswith(IDEMPOTENCY_SUFFIX)))


def scoped_to_tenant(value: str, tenant: str) -> str:
    """Return what an upstream gets for an idempotency key *value* of *tenant*: 64 hexadecimal digits.

    A server answers a repeated key of one account with its earlier answer (draft-ietf-httpapi-idempotency-key-header, 2.3).
    Two tenants may choose the same key, so one would get the answer of the other. The result depends on both and on nothing
    else: it is the same in all processes, and for the sidecar's own retries. No tenant can choose the result of another one.
    """
    return sha256(f"{len(tenant)}:{tenant}:{value}".encode()).hexdigest()


def forwardable_headers(fields: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]) -> dict[str, str]:
    """Return those of the request's header *fields* that are in *names*, in lower case; only printable ASCII values.

    Of a repeated header the last value counts.  If only an upstream names the header, its values are joined (RFC 9110,
    5.3), up to `MAX_FORWARDED_VALUE_LENGTH` characters.  Headers that `Connection` names are dropped (RFC 9110, 7.6.1).
    """
    found: dict[str, str] = {}
    hop_by_hop: list[bytes] = []
    for name, raw in fields:
        if name not in names:
            continue
        if name == CONNECTION_HEADER:
            if raw not in _PLAIN_CONNECTIONS:
                hop_by_hop += raw.lower().split(b",")
            continue
        value = raw.decode("latin-1")
        if not is_header_value(value):
            continue
        key = name.decode()
        if name not in _FIXED_NAMES:
            value = f"{found[key]}, {value}" if key in found else value
            if len(value) > MAX_FORWARDED_VALUE_LENGTH:
                continue
        found[key] = value
    for option in hop_by_hop:
        found.pop(option.strip().decode("latin-1"), None)
    return found
