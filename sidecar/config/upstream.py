"""Define the settings of `[[upstream]]`: address, credentials, names of models, timeouts and circuit breaker."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ssl import SSLContext
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from policies.api.match import longest_match
from sidecar.wire.request.client_headers import SECRET_HEADERS, forwarding_fault, is_header_name, is_header_value

from .proxies import Proxy, has_password, parse_proxy

Seconds = Annotated[float, msgspec.Meta(gt=0, extra={"unit": "seconds"})]
NonNegativeSeconds = Annotated[float, msgspec.Meta(ge=0, extra={"unit": "seconds"})]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Files = Annotated[list[Text], msgspec.Meta(min_length=2, max_length=2)]
"""Two files.  Not a fixed-length tuple: in a union, msgspec 0.22 crashes on a list of another length."""

HeaderNames = Annotated[tuple[Text, ...], msgspec.Meta(max_length=32)]

AUTHORIZATION_HEADER = "authorization"
CONNECTION_HEADERS = frozenset(
    {"host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "keep-alive"}
    | {"te", "trailer", "upgrade", "expect", "accept", "accept-encoding"}
)
"""Headers that the sidecar sets itself for each request or connection (RFC 9110, 7.6.1)."""
SOCKET_SCHEME = "http+unix://"
"""Prefix of a `base_url` that names a Unix socket."""
ENDPOINT_PATH = re.compile(
    r"(?P<native>/api/(?:chat|generate|tags|embed|embeddings))/*$"
    r"|(?P<added>/(?:(?:chat/)?completions|responses|embeddings|messages|moderations|rerank|realtime|(?:images|audio)/\w+))/*$"
    r"|/v\d\w*(?P<listed>/models)/*$",
    re.IGNORECASE,
)
"""Paths of endpoints at the end of a `base_url`.  `/models` alone is the base of Azure's `…services.ai.azure.com/models`."""
MAX_SOCKET_BYTES = 107
"""Longest path of a Unix socket on Linux, in bytes."""
_SOCKET_URL = re.compile(r"http\+unix://(.+?\.sock(?:et)?)(/[^?#]*)?")


class BreakerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`breaker` of an `[[upstream]]`: the circuit breaker.

    It opens when the share *rate* of the attempts of the last *window* seconds failed, of at least *calls* attempts.  While
    it is open, one attempt every *probe* seconds is let through.  With *calls* = 0 it never opens.  The defaults detect
    outages only: while an upstream serves part of its calls, the retry budget limits retries and no call is blocked.
    """

    calls: Annotated[int, msgspec.Meta(ge=0)] = 50
    rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
    window: Annotated[float, msgspec.Meta(ge=0.1, extra={"unit": "seconds"})] = 30.0
    probe: Seconds = 5.0


class UpstreamSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[upstream]]`: an OpenAI-compatible server.

    Timeouts are in seconds: *connect*; *head*, from the request to the response headers of a stream; *first_token*, from
    there to the first output; *idle*, between two outputs; *whole*, for a response that is not a stream.  Keep-alive bytes
    of the server before its first output extend these waits, except *connect*, up to twelvefold.

    *base_url* may name a Unix socket, as "http+unix:///run/engine.sock/v1"; with two slashes the path is relative to the
    file.  *ca* is a PEM file of certificate authorities that replaces the system's.  *client_cert* is a PEM file with a
    certificate and its key, or a list of the two files.  *proxy* is the URL of an HTTP proxy; None uses the environment's.
    *transport* is "module:factory" of an httpx transport that replaces the built-in one.

    *models* maps the client's model names, or patterns of them, to the server's.  *limit_field* is the field in which the
    sidecar sets an output ceiling; None detects it.  *pass_authorization* forwards the client's own `Authorization` header;
    where it is set, also `api-key` and `x-api-key`.  *forward_headers* are further headers of clients that are forwarded.
    """

    base_url: str
    name: Text = ""
    api_key_env: Text | None = None
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
    limit_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    connect: Seconds = 10.0
    head: Seconds = 300.0
    first_token: Seconds = 300.0
    idle: Seconds = 300.0
    whole: Seconds = 600.0
    breaker: BreakerSettings = BreakerSettings()

    def __post_init__(self) -> None:
        self._check_url()
        self._check_connection()
        if self.api_key_env is not None and not self.api_key_env.isidentifier():
            msg = "api_key_env: not the name of an environment variable; write the name, never the key itself"
            raise ValueError(msg)
        own = self.api_key_env is not None or AUTHORIZATION_HEADER in map(str.lower, self.headers_env)
        if self.pass_authorization and own:
            msg = "pass_authorization: this upstream has a configured key; remove one of the two"
            raise ValueError(msg)
        _check_header("api_key_header", self.api_key_header)
        for header, value in self.headers.items():
            _check_header("headers", header)
            if header.lower() in {*SECRET_HEADERS, self.api_key_header.lower()}:
                msg = f"headers: {header!r} is a secret header; keep secrets out of files: name its environment variable in headers_env"
                raise ValueError(msg)
            if not is_header_value(value):
                msg = f"headers: invalid value for {header!r}; use printable ASCII"
                raise ValueError(msg)
        for header, variable in self.headers_env.items():
            _check_header("headers_env", header)
            if not variable.isidentifier():
                msg = f"headers_env: the value for {header!r} is not the name of an environment variable; write the name, never the secret"
                raise ValueError(msg)
        self._check_duplicate_headers()
        if self.api_key_env is None and self.api_key_header.lower() != AUTHORIZATION_HEADER:
            msg = "api_key_header: no key is configured; name its environment variable in api_key_env, or remove api_key_header"
            raise ValueError(msg)
        sent = {name.lower() for name in (*self.headers, *self.headers_env, self.api_key_header)}
        if (forwarding := forwarding_fault(self.forward_headers, sent)) is not None:
            msg = f"forward_headers{forwarding}"
            raise ValueError(msg)
        self._check_names_of_mappings()

    def _check_url(self) -> None:
        problems: list[str] = []
        cures: list[str] = []
        if self.base_url.startswith(SOCKET_SCHEME):
            self._check_socket()
            path = urlsplit(self.endpoint).path
        else:
            parts = parts_of(self.base_url)
            if parts is None or parts.scheme not in ("http", "https"):
                cure = "write it like 'http://127.0.0.1:11434/v1'"
                shown = re.sub("//[^/]*@", "//", self.base_url.partition("?")[0])
                msg = f"base_url: {shown!r} is not an http:// or https:// URL; {cure}"
                raise ValueError(msg)
            if parts.username is not None:
                msg = "base_url: contains a user name or password; name the environment variable of the key in api_key_env"
                raise ValueError(msg)
            path = parts.path
            if parts.query or parts.fragment:
                problems.append("contains a query or a fragment")
                cures.append('put parameters into `query = { name = "value" }`')
        if (found := ENDPOINT_PATH.search(path)) is not None:
            ending = found["native"] or found["added"] or found["listed"]
            problems.append(f"ends in {ending!r}, the path of one endpoint")
            cures.append(f"write '/v1' instead of {ending!r}" if found["native"] else f"remove {ending!r}")
        if problems:
            msg = f"base_url: {' and '.join(problems)}; {', and '.join(cures)}"
            raise ValueError(msg)

    def _check_socket(self) -> None:
        url = self.base_url
        if _SOCKET_URL.fullmatch(url) is None or not (url.isascii() and url.isprintable()) or " " in url:
            msg = f"base_url: {url!r} is not the URL of a Unix socket; write it like 'http+unix:///run/engine.sock/v1'"
            raise ValueError(msg)

    def _check_connection(self) -> None:
        secure = self.base_url.lower().startswith("https:")
        if self.ca is not None and not secure:
            msg = "ca: base_url is not https, so there is no certificate to verify; write https:// in base_url, or remove ca"
            raise ValueError(msg)
        if self.client_cert is not None and not secure:
            msg = "client_cert: base_url is not https, so no certificate is sent; write https:// in base_url, or remove client_cert"
            raise ValueError(msg)
        if self.proxy is not None:
            self._check_proxy(self.proxy)
        if self.transport is None:
            return
        for field in ("ca", "client_cert", "proxy"):
            if getattr(self, field) is not None:
                msg = (
                    f"{field}: has no effect beside `transport`; configure it in the factory, or remove one of the two"
                )
                raise ValueError(msg)
        if self.socket is not None:
            msg = (
                "transport: cannot use the Unix socket of base_url; open the socket in the factory, or remove transport"
            )
            raise ValueError(msg)

    def _check_proxy(self, proxy: str) -> None:
        if has_password(proxy):
            msg = "proxy: contains a user name or password; set the whole URL in the environment variable HTTPS_PROXY or HTTP_PROXY"
            raise ValueError(msg)
        if self.socket is not None:
            msg = "proxy: base_url is a Unix socket, which a proxy cannot reach; remove one of the two"
            raise ValueError(msg)
        try:
            parse_proxy(proxy)
        except ValueError as error:
            msg = f"proxy: {proxy!r} {error}"
            raise ValueError(msg) from None

    @property
    def socket(self) -> str | None:
        """Path of the Unix socket in *base_url*, as written; None for http:// and https://."""
        found = _SOCKET_URL.fullmatch(self.base_url)
        return None if found is None else unquote(found[1])

    @property
    def endpoint(self) -> str:
        """URL prefix of requests: *base_url*, or `http://localhost` and the path behind a Unix socket."""
        found = _SOCKET_URL.fullmatch(self.base_url)
        return self.base_url if found is None else f"http://localhost{found[2] or ''}"

    def _check_duplicate_headers(self) -> None:
        seen: set[str] = set() if self.api_key_env is None else {self.api_key_header.lower()}
        for field, headers in (("headers", self.headers), ("headers_env", self.headers_env)):
            for header in headers:
                if header.lower() in seen:
                    msg = f"{field}: {header!r} is set twice (header names ignore case); remove one of them"
                    raise ValueError(msg)
                seen.add(header.lower())

    def _check_names_of_mappings(self) -> None:
        if "" in self.query:
            msg = "query: a parameter has an empty name; write it like `query = { name = 'value' }`"
            raise ValueError(msg)
        if "" in self.models:
            msg = "models: the model name '' is empty; to set the model of calls that name none, write `model = 'NAME'`"
            raise ValueError(msg)
        if unnamed := [model for model, name in self.models.items() if not name]:
            msg = f"models: {unnamed[0]!r} maps to an empty name; write the server's name for it, or remove it"
            raise ValueError(msg)

    def named(self, model: str) -> str:
        """Return the server's name of *model*: the entry of its name, else of the longest matching pattern, else *model*."""
        pattern = longest_match(model, self.models) if self.models and model else None
        return model if pattern is None else self.models[pattern]


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
        proxy = self.via and self.via.password
        return tuple(secret for secret in (self.key, proxy, *self.secret_headers.values()) if secret)

    def __repr__(self) -> str:
        return f"ResolvedUpstream({self.base_url!r}, model={self.model!r}, key={'set' if self.key else None})"


def parts_of(url: str) -> SplitResult | None:
    """Return the parts of *url*; None if it has no host, an invalid port, or characters that a URL must escape."""
    if not (url.isascii() and url.isprintable()) or " " in url:
        return None
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def _check_header(field: str, header: str) -> None:
    if not is_header_name(header):
        msg = f"{field}: {header!r} is not a header name; use letters, digits and dashes"
        raise ValueError(msg)
    if header.lower() in CONNECTION_HEADERS:
        msg = f"{field}: the sidecar sets {header!r} itself; remove it"
        raise ValueError(msg)
