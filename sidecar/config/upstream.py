"""Define the settings of `[[upstream]]`: address, credentials, names of models, timeouts and circuit breaker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ssl import SSLContext
from typing import Annotated, Any, Literal

import msgspec

from policies.api.match import longest_match
from policies.builtin.option_checks import raise_faults
from sidecar.wire.request.client_headers import (
    SECRET_HEADERS,
    forwarding_faults,
    is_credential_name,
    is_header_name,
    is_header_value,
)
from sidecar.wire.request.documented_fields import ForwardedFields

from .base_url import base_url_faults, endpoint_of, socket_of
from .proxies import Proxy, has_password, parse_proxy

Seconds = Annotated[float, msgspec.Meta(gt=0, extra={"unit": "seconds"})]
NonNegativeSeconds = Annotated[float, msgspec.Meta(ge=0, extra={"unit": "seconds"})]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Files = Annotated[list[Text], msgspec.Meta(min_length=2, max_length=2)]
"""Two files.  Not a fixed-length tuple: in a union, msgspec 0.22 crashes on a list of another length."""

HeaderNames = Annotated[tuple[Text, ...], msgspec.Meta(max_length=32)]
ServedNames = Annotated[tuple[Text, ...], msgspec.Meta(min_length=1, max_length=1_000)]
Weight = Annotated[float, msgspec.Meta(gt=0, le=1_000_000)]

AUTHORIZATION_HEADER = "authorization"
CONNECTION_HEADERS = frozenset(
    {"host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "keep-alive"}
    | {"te", "trailer", "upgrade", "expect", "accept", "accept-encoding"}
)
"""Headers that the sidecar sets itself for each request or connection (RFC 9110, 7.6.1)."""
MAX_SOCKET_BYTES = 107
"""Longest path of a Unix socket on Linux, in bytes."""


class BreakerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`breaker` of an `[[upstream]]`: the circuit breaker.

    A circuit opens when the share *rate* of its attempts of the last *window* seconds failed, of at least *calls* attempts.
    While it is open, one attempt every *probe* seconds is let through.  With *calls* = 0 none opens.  The upstream and each
    of its models have circuits, see `docs/failures.md`.  The defaults detect outages only: while an upstream serves part of
    the calls, the retry budget limits retries and no call is blocked.
    """

    calls: Annotated[int, msgspec.Meta(ge=0)] = 50
    rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
    window: Annotated[float, msgspec.Meta(ge=0.1, extra={"unit": "seconds"})] = 30.0
    probe: Seconds = 5.0


class UpstreamSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[upstream]]`: an OpenAI-compatible server.

    Timeouts are in seconds: *connect*; *head*, from the request to the response headers of a stream; *first_token*, from
    there to the first output; *idle*, between two outputs; *whole*, for a response that is not a stream.  Keep-alive bytes
    before the first output extend *head*, *first_token* and *whole*, each to at most 12 times its value.

    *base_url* may name a Unix socket, as "http+unix:///run/engine.sock/v1"; with two slashes the path is relative to the
    file.  *ca* is a PEM file of certificate authorities that replaces the system's.  *client_cert* is a PEM file with a
    certificate and its key, or a list of the two files.  *proxy* is the URL of an HTTP proxy; None uses the environment's.
    *transport* is "module:factory" of an httpx transport that replaces the built-in one.

    The key is in the environment variable *api_key_env* or in the file *api_key_file*, which is read at start.

    *models* maps the client's model names, or patterns of them, to the server's.  With *rewrite_answers* the answer to such
    a name has it in its `model` fields.  *serves* are the models, or patterns, that this upstream serves; None for those
    that it lists.  Upstreams that serve the same model share its calls by *weight*.  *limit_field* is the field in which the
    sidecar sets an output ceiling; None detects it.  *pass_authorization* forwards the client's own `Authorization` header;
    where it is set, also `api-key` and `x-api-key`.  *forward_headers* are further headers of clients that are forwarded.
    With *fields* = "known" only documented fields of clients are forwarded to this upstream.
    """

    base_url: str
    name: Text = ""
    api_key_env: Text | None = None
    api_key_file: Text | None = None
    api_key_header: Text = AUTHORIZATION_HEADER
    pass_authorization: bool | None = None
    headers: dict[str, str] = {}
    headers_env: dict[str, str] = {}
    forward_headers: HeaderNames = ()
    query: dict[str, str] = {}
    ca: Text | None = None
    client_cert: Text | Files | None = None
    proxy: Text | None = None
    transport: Text | None = None
    model: Text | None = None
    models: dict[str, str] = {}
    serves: ServedNames | None = None
    weight: Weight = 1.0
    rewrite_answers: bool = True
    fields: ForwardedFields = "any"
    limit_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    connect: Seconds = 10.0
    head: Seconds = 300.0
    first_token: Seconds = 300.0
    idle: Seconds = 300.0
    whole: Seconds = 600.0
    breaker: BreakerSettings = BreakerSettings()

    def __post_init__(self) -> None:
        raise_faults(
            base_url_faults(self.base_url),
            self._tls_faults(),
            self._proxy_faults(),
            self._transport_faults(),
            self._key_faults(),
            self._authorization_faults(),
            self._header_faults(),
            self._environment_header_faults(),
            self._duplicate_header_faults(),
            self._forwarding_faults(),
            self._mapping_faults(),
        )

    def _tls_faults(self) -> Iterator[str]:
        secure = self.base_url.lower().startswith("https:") or any(base_url_faults(self.base_url))
        if self.ca is not None and not secure:
            yield "ca: base_url is not https, so there is no certificate to verify; write https:// in base_url, or remove ca"
        if self.client_cert is not None and not secure:
            yield "client_cert: base_url is not https, so no certificate is sent; write https:// in base_url, or remove client_cert"

    def _proxy_faults(self) -> Iterator[str]:
        if self.proxy is None:
            return
        if has_password(self.proxy):
            yield "proxy: contains a user name or password; set the whole URL in the environment variable HTTPS_PROXY or HTTP_PROXY"
            return
        if self.socket is not None:
            yield "proxy: base_url is a Unix socket, which a proxy cannot reach; remove one of the two"
        try:
            parse_proxy(self.proxy)
        except ValueError as error:
            yield f"proxy: {self.proxy!r} {error}"

    def _transport_faults(self) -> Iterator[str]:
        if self.transport is None:
            return
        for field in ("ca", "client_cert", "proxy"):
            if getattr(self, field) is not None:
                yield f"{field}: has no effect beside `transport`; configure it in the factory, or remove one of the two"
        if self.socket is not None:
            yield "transport: cannot use the Unix socket of base_url; open the socket in the factory, or remove transport"

    def _key_faults(self) -> Iterator[str]:
        if self.api_key_env is not None and self.api_key_file is not None:
            yield "api_key_file: the key is configured twice, also by api_key_env; remove one of the two"
        if self.api_key_env is not None and not self.api_key_env.isidentifier():
            yield "api_key_env: not the name of an environment variable; write the name, never the key itself"
        yield from _header_name_faults("api_key_header", self.api_key_header)
        if not self.has_configured_key and self.api_key_header.lower() != AUTHORIZATION_HEADER:
            cure = "name its environment variable in api_key_env, or its file in api_key_file, or remove api_key_header"
            yield f"api_key_header: no key is configured; {cure}"

    def _authorization_faults(self) -> Iterator[str]:
        if self.pass_authorization and (
            self.has_configured_key or AUTHORIZATION_HEADER in map(str.lower, self.headers_env)
        ):
            yield "pass_authorization: this upstream has a configured key; remove one of the two"

    def _header_faults(self) -> Iterator[str]:
        secret = {*SECRET_HEADERS, self.api_key_header.lower()}
        for header, value in self.headers.items():
            yield from _header_name_faults("headers", header)
            if header.lower() in secret:
                yield f"headers: {header!r} is a secret header; keep secrets out of files: name its environment variable in headers_env"
            elif not is_header_value(value):
                yield f"headers: invalid value for {header!r}; use printable ASCII"

    def _environment_header_faults(self) -> Iterator[str]:
        for header, variable in self.headers_env.items():
            yield from _header_name_faults("headers_env", header)
            if not variable.isidentifier():
                yield f"headers_env: the value for {header!r} is not the name of an environment variable; write the name, never the secret"

    def _duplicate_header_faults(self) -> Iterator[str]:
        seen: set[str] = {self.api_key_header.lower()} if self.has_configured_key else set()
        for field, headers in (("headers", self.headers), ("headers_env", self.headers_env)):
            for header in headers:
                if header.lower() in seen and not (
                    field == "headers" and header.lower() == self.api_key_header.lower()
                ):
                    yield f"{field}: {header!r} is set twice (header names ignore case); remove one of them"
                seen.add(header.lower())

    def _forwarding_faults(self) -> Iterator[str]:
        sent = {name.lower() for name in (*self.headers, *self.headers_env, self.api_key_header)}
        yield from (f"forward_headers{fault}" for fault in forwarding_faults(self.forward_headers, sent))

    def _mapping_faults(self) -> Iterator[str]:
        if "" in self.query:
            yield "query: a parameter has an empty name; write it like `query = { name = 'value' }`"
        if "" in self.models:
            yield "models: the model name '' is empty; to set the model of calls that name none, write `model = 'NAME'`"
        for model, name in self.models.items():
            if not name:
                yield f"models: {model!r} maps to an empty name; write the server's name for it, or remove it"
        for at, name in enumerate(self.serves or ()):
            if name in (self.serves or ())[:at]:
                yield f"serves[{at}]: {name!r} is listed twice; remove one of the two"

    @property
    def has_configured_key(self) -> bool:
        """Whether the sidecar has a key of its own for this upstream."""
        return self.api_key_env is not None or self.api_key_file is not None

    @property
    def socket(self) -> str | None:
        """Path of the Unix socket in *base_url*, as written; None for http:// and https://."""
        return socket_of(self.base_url)

    @property
    def endpoint(self) -> str:
        """URL prefix of requests: *base_url*, or `http://localhost` and the path behind a Unix socket."""
        return endpoint_of(self.base_url)

    def named(self, model: str) -> str:
        """Return the server's name of *model*: the entry of its name, else of the longest matching pattern, else *model*."""
        pattern = self.alias_of(model)
        return model if pattern is None else self.models[pattern]

    def alias_of(self, model: str) -> str | None:
        """Return the name or the longest pattern in `models` that matches *model*; None without one."""
        return longest_match(model, self.models) if self.models and model else None

    @property
    def exact_aliases(self) -> dict[str, str]:
        """The entries of `models` for whole names, not patterns, that differ from the server's name."""
        return {alias: name for alias, name in self.models.items() if alias != name and not _is_pattern(alias)}


class ResolvedUpstream(UpstreamSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An upstream with the secrets read from the environment: its *key*, and *secret_headers*, the values of `headers_env`."""

    key: str | None = None
    secret_headers: Mapping[str, str] = {}
    trust: SSLContext | None = None
    """TLS context of *ca* and *client_cert*; None for the system's certificate authorities."""
    via: Proxy | None = None
    """Proxy of the setting or of the environment; None for a direct connection."""
    uds: str | None = None
    """Absolute path of the Unix socket; None for TCP."""
    pass_key_headers: bool = False
    """Whether the client's key is also forwarded in the headers `api-key` and `x-api-key`."""
    make_transport: Callable[[], Any] | None = None
    """Factory of an httpx transport; None for the built-in one."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Secret values to redact."""
        proxy = (self.via.password, self.via.authorization) if self.via else ()
        named = (value for name, value in (*self.headers.items(), *self.query.items()) if is_credential_name(name))
        return tuple(secret for secret in (self.key, *proxy, *self.secret_headers.values(), *named) if secret)

    def __repr__(self) -> str:
        return f"ResolvedUpstream({self.base_url!r}, model={self.model!r}, key={'set' if self.key else None})"


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")


def _header_name_faults(field: str, header: str) -> Iterator[str]:
    if not is_header_name(header):
        yield f"{field}: {header!r} is not a header name; use letters, digits and dashes"
    elif header.lower() in CONNECTION_HEADERS:
        yield f"{field}: the sidecar sets {header!r} itself; remove it"
