"""`[[upstream]]`: where a server is, how it is asked, and how long it is waited for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from ssl import SSLContext
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from .proxies import Proxy, has_password, parse_proxy

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Files = Annotated[list[Text], msgspec.Meta(min_length=2, max_length=2)]
"""Two files.  Not a fixed-length tuple: in a union, msgspec 0.22 crashes on a list of another length."""

AUTHORIZATION = "authorization"
SECRET = frozenset(
    {AUTHORIZATION, "proxy-authorization", "cookie", "api-key", "x-api-key", "apikey", "x-goog-api-key", "x-auth-token"}
)
"""Headers whose value is a secret: it comes from the environment, never from the file."""
OURS = frozenset(
    {"host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "keep-alive"}
    | {"te", "trailer", "upgrade", "expect", "accept", "accept-encoding"}
)
"""Headers that frame a request: each connection has its own (RFC 9110, 7.6.1)."""
SOCKET = "http+unix://"
"""What a `base_url` begins with that names a Unix socket."""
MAX_SOCKET_BYTES = 107
"""Bytes of a Unix socket's path, on Linux."""
_SOCKET = re.compile(r"http\+unix://(.+?\.sock(?:et)?)(/[^?#]*)?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class BreakerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`breaker` of an `[[upstream]]`: open when a share `rate` of at least `calls` attempts in `window` seconds failed.

    It is probed every `probe` seconds.  `calls = 0` is a breaker that never opens.  The defaults are for outages: at an
    upstream that still serves some of its calls, closing the door on all of them does more harm than the retry budget.
    """

    calls: Annotated[int, msgspec.Meta(ge=0)] = 50
    rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
    window: Annotated[float, msgspec.Meta(ge=0.1)] = 30.0
    probe: Annotated[float, msgspec.Meta(gt=0)] = 5.0


class UpstreamSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[upstream]]`: an OpenAI-compatible server.

    Times are in seconds: to connect, to the head, to the first output, between outputs; `whole` is for an answer that is
    no stream, from the request to its last byte.  `ca` is a PEM file of the authorities that the server's certificate may
    come from, instead of the system's.  `client_cert` is a PEM file with a certificate and its key, or the two files, for a
    server that asks for one.  `proxy` is the URL of an HTTP proxy; without it, that of the environment.  `transport` is
    "module:factory" of an httpx transport that makes the connections instead.  `base_url` may name a Unix socket,
    as "http+unix:///run/engine.sock/v1"; a path without the third slash is relative to the file.  `models` are other names that the server has for models, by the client's name or
    a pattern of it.  `limit_field` is the field for an answer's ceiling where the client set none; without it, it is learnt.
    `pass_authorization`: the caller pays at the upstream itself, by its own `Authorization`.
    """

    base_url: str
    name: Text = ""
    api_key_env: Text | None = None
    api_key_header: Text = AUTHORIZATION
    pass_authorization: bool | None = None
    headers: dict[str, str] = {}
    headers_env: dict[str, str] = {}
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
            msg = "api_key_env: it is no name of a variable; write the name, never the key itself"
            raise ValueError(msg)
        own = self.api_key_env is not None or AUTHORIZATION in map(str.lower, self.headers_env)
        if self.pass_authorization and own:
            msg = "pass_authorization: this upstream has a key of its own; leave one of them out"
            raise ValueError(msg)
        _check_header("api_key_header", self.api_key_header)
        for header, value in self.headers.items():
            _check_header("headers", header)
            if header.lower() in {*SECRET, self.api_key_header.lower()}:
                msg = f"headers: {header!r} is a secret; a file is no place for it: name its variable in headers_env"
                raise ValueError(msg)
            if not fits_header(value):
                msg = f"headers: the value of {header!r} fits into no header; it must be printable ASCII"
                raise ValueError(msg)
        for header, variable in self.headers_env.items():
            _check_header("headers_env", header)
            if not variable.isidentifier():
                msg = f"headers_env: the value of {header!r} is no name of a variable; write the name, never the secret"
                raise ValueError(msg)
        self._check_twice()
        if self.api_key_env is None and self.api_key_header.lower() != AUTHORIZATION:
            msg = "api_key_header: there is no key to send; name its variable in api_key_env, or leave it out"
            raise ValueError(msg)
        self._check_names()

    def _check_url(self) -> None:
        if self.base_url.startswith(SOCKET):
            self._check_socket()
            return
        parts = parts_of(self.base_url)
        if parts is not None and (parts.query or parts.fragment):
            msg = 'base_url: it has a query or a fragment; write its parameters into `query = { name = "value" }`'
            raise ValueError(msg)
        if parts is None or parts.scheme not in ("http", "https"):
            right = "write it like 'http://127.0.0.1:11434/v1'"
            msg = f"base_url: {self.base_url!r} is no address of an API; {right}"
            raise ValueError(msg)
        if parts.username is not None:
            msg = "base_url: it holds a name or a password; keys come from the environment, name one in api_key_env"
            raise ValueError(msg)

    def _check_socket(self) -> None:
        url = self.base_url
        if _SOCKET.fullmatch(url) is None or not (url.isascii() and url.isprintable()) or " " in url:
            msg = f"base_url: {url!r} names no Unix socket; write it like 'http+unix:///run/engine.sock/v1'"
            raise ValueError(msg)

    def _check_connection(self) -> None:
        secure = self.base_url.lower().startswith("https:")
        if self.ca is not None and not secure:
            msg = "ca: there is no certificate to check; write https:// in base_url, or leave ca out"
            raise ValueError(msg)
        if self.client_cert is not None and not secure:
            msg = "client_cert: no server asks for it without TLS; write https:// in base_url, or leave client_cert out"
            raise ValueError(msg)
        if self.proxy is not None:
            self._check_proxy(self.proxy)
        if self.transport is None:
            return
        for field in ("ca", "client_cert", "proxy"):
            if getattr(self, field) is not None:
                msg = (
                    f"{field}: `transport` makes the connections of this upstream; configure it there, or leave one out"
                )
                raise ValueError(msg)
        if self.socket is not None:
            msg = (
                "transport: it cannot use the Unix socket of base_url; open the socket in the factory, or leave it out"
            )
            raise ValueError(msg)

    def _check_proxy(self, proxy: str) -> None:
        if has_password(proxy):
            msg = "proxy: it holds a user or a password; put the whole URL into the environment, as HTTPS_PROXY or HTTP_PROXY"
            raise ValueError(msg)
        if self.socket is not None:
            msg = "proxy: base_url is a Unix socket, which no proxy reaches; leave one of them out"
            raise ValueError(msg)
        try:
            parse_proxy(proxy)
        except ValueError as error:
            msg = f"proxy: {proxy!r} {error}"
            raise ValueError(msg) from None

    @property
    def socket(self) -> str | None:
        """The path of the Unix socket in `base_url`, as written; None for a URL of TCP."""
        found = _SOCKET.fullmatch(self.base_url)
        return None if found is None else unquote(found[1])

    @property
    def endpoint(self) -> str:
        """The URL that requests begin with: `base_url`, or that of the server behind the Unix socket."""
        found = _SOCKET.fullmatch(self.base_url)
        return self.base_url if found is None else f"http://localhost{found[2] or ''}"

    def _check_twice(self) -> None:
        seen: set[str] = set() if self.api_key_env is None else {self.api_key_header.lower()}
        for field, headers in (("headers", self.headers), ("headers_env", self.headers_env)):
            for header in headers:
                if header.lower() in seen:
                    msg = f"{field}: {header!r} is given twice; case is ignored: leave one of them out"
                    raise ValueError(msg)
                seen.add(header.lower())

    def _check_names(self) -> None:
        if "" in self.query:
            msg = "query: a parameter has no name; write it like `query = { name = 'value' }`"
            raise ValueError(msg)
        if "" in self.models:
            msg = "models: '' is the name of no model; for calls that name none write `model = 'NAME'`"
            raise ValueError(msg)
        if unnamed := [model for model, name in self.models.items() if not name]:
            msg = f"models: {unnamed[0]!r} has no name there; write what the server calls it, or leave it out"
            raise ValueError(msg)

    def named(self, model: str) -> str:
        """Return what the server calls *model*: by its name, else by the longest pattern that it fits, else the same."""
        if not self.models or not model:
            return model
        if (own := self.models.get(model)) is not None:
            return own
        fitting = [pattern for pattern in self.models if fnmatchcase(model, pattern)]
        return self.models[max(fitting, key=len)] if fitting else model


class ResolvedUpstream(UpstreamSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An upstream with its secrets: its key, and the values of `headers_env` by header."""

    key: str | None = None
    secret_headers: Mapping[str, str] = {}
    trust: SSLContext | None = None
    """What `ca` and `client_cert` say; None for the system's authorities."""
    via: Proxy | None = None
    """The proxy of the setting or of the environment."""
    uds: str | None = None
    """The absolute path of the Unix socket."""
    make_transport: Callable[[], Any] | None = None
    """What returns an httpx transport, where `transport` names one."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be seen by anybody."""
        proxy = self.via and self.via.password
        return tuple(secret for secret in (self.key, proxy, *self.secret_headers.values()) if secret)

    def __repr__(self) -> str:
        return f"ResolvedUpstream({self.base_url!r}, model={self.model!r}, key={'set' if self.key else None})"


def parts_of(url: str) -> SplitResult | None:
    """Return the parts of *url*; None where it has no host, a port that is none, or characters that no URL has."""
    if not (url.isascii() and url.isprintable()) or " " in url:
        return None
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def fits_header(value: str) -> bool:
    """Whether *value* can be sent as the value of a header."""
    return value.isascii() and value.isprintable()


def _check_header(field: str, header: str) -> None:
    if not _NAME.fullmatch(header):
        msg = f"{field}: {header!r} is no name of a header; write letters, digits and dashes"
        raise ValueError(msg)
    if header.lower() in OURS:
        msg = f"{field}: {header!r} belongs to each connection; leave it out"
        raise ValueError(msg)
