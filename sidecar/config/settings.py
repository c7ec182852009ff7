"""Define the validated settings of the process.

Flags override the environment, which overrides the file, which overrides the shipped defaults.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from policies.builtin.option_checks import raise_faults
from policies.records.observer import Observer
from policies.stores.opening import StoreUrl

from .access import Access, Profile
from .base_url import parts_of
from .log import LogSettings
from .relay.passthrough import Passthrough
from .upstream import NonNegativeSeconds, ResolvedUpstream, Seconds, Text

Bytes = Annotated[int, msgspec.Meta(ge=1, extra={"unit": "bytes"})]
Role = Literal["user", "assistant", "system", "developer"]

DEFAULT_TENANT = "default"
MAX_SOCKET_PATH_BYTES = 107
"""Bytes that Linux allows for the path of a Unix socket."""

MAX_HOST_LENGTH = 253
"""Characters of a host name in DNS."""
_HOST_PATTERN = re.compile(r"(\*\.)?([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
"""A host name, or `*.` and the name that all its subdomains share."""
ORIGIN_WITHOUT_HOST = "file://"
"""What WebViews send as the origin of a page in a local file; browsers send `null`."""


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[server]`: times are in seconds, sizes in bytes.

    A *deadline* of 0 means no deadline; a *port* of 0 picks a free one.  The entries of *passthrough* are read by
    `relay.passthrough`.
    """

    host: Text = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8787
    uds: str = ""
    heartbeat: Seconds = 15.0
    max_body: Bytes = 16_777_216
    chat_max_body: Bytes = 1_048_576
    max_buffered: Bytes = 268_435_456
    max_connections: Annotated[int, msgspec.Meta(ge=1)] = 8_192
    body_timeout: Seconds = 30.0
    drain: NonNegativeSeconds = 30.0
    deadline: NonNegativeSeconds = 3600.0
    chat_deadline: NonNegativeSeconds = 28.0
    chat_roles: Annotated[tuple[Role, ...], msgspec.Meta(min_length=1)] = ("user", "assistant")
    chat_system_prompt: Literal["ignore", "use"] = "ignore"
    chat_refusals: Literal["status", "event"] = "status"
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    proxy_header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"
    passthrough: tuple[str | dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        raise_faults(self._socket_faults(), self._proxy_faults(), self._origin_faults(), self._host_faults())

    def _socket_faults(self) -> Iterator[str]:
        if "\0" in self.uds or len(self.uds.encode()) > MAX_SOCKET_PATH_BYTES:
            right = (
                f"a Unix socket has a path of at most {MAX_SOCKET_PATH_BYTES} bytes; write one like '/run/sidecar.sock'"
            )
            yield f"uds: {self.uds[:60]!r} cannot be listened on; {right}"

    def _proxy_faults(self) -> Iterator[str]:
        for at, network in enumerate(self.trusted_proxies):
            if not _is_network(network):
                cure = "write an address like '10.0.0.7' or a network like '10.0.0.0/8'"
                yield f"trusted_proxies[{at}]: {network!r} is not an IP network; {cure}"

    def _origin_faults(self) -> Iterator[str]:
        for at, origin in enumerate(self.cors_origins):
            if origin != "*" and not _is_origin(origin):
                cure = "write it like 'https://app.example.org' or 'http://localhost:5173', or '*' for any"
                if origin == "null":
                    cure = "every sandboxed page has it: allow all with '*', or serve the page from a web server"
                yield f"cors_origins[{at}]: {origin!r} is not an origin; {cure}"

    def _host_faults(self) -> Iterator[str]:
        for at, host in enumerate(self.allowed_hosts):
            if host != "*" and not (len(host) <= MAX_HOST_LENGTH and _HOST_PATTERN.fullmatch(host)):
                cure = "write it like 'sidecar.example.org' or '*.example.org', without scheme and port, or '*' for any"
                yield f"allowed_hosts[{at}]: {host[:60]!r} is not a host name; {cure}"


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[store]`: the URL of the database that holds the counters of all limits."""

    url: str = "sqlite:///sidecar.db"

    def __post_init__(self) -> None:
        try:
            StoreUrl.parse(self.url)
        except ValueError as error:
            msg = f"url: {error}"
            raise ValueError(msg) from None

    @property
    def location(self) -> StoreUrl:
        """The parsed `url`."""
        return StoreUrl.parse(self.url)

    def __repr__(self) -> str:
        return f"StoreSettings({self.location.redacted!r})"


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """Command-line flags; None for a flag that was not given."""

    upstream: str | None = None
    model: str | None = None
    host: str | None = None
    port: int | None = None
    store: str | None = None
    workers: int = 1


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The merged, validated settings of a process."""

    server: ServerSettings
    store: StoreSettings
    upstreams: tuple[ResolvedUpstream, ...]
    base: Profile
    profiles: Mapping[str, Profile]
    folder: Path
    log: LogSettings = LogSettings()
    observers: tuple[Observer, ...] = ()
    keys: tuple[Access, ...] = ()
    passthrough: tuple[Passthrough, ...] = ()
    workers: int = 1

    @property
    def forward_headers(self) -> frozenset[str]:
        """Client headers that at least one upstream names in its `forward_headers`."""
        return frozenset(name for upstream in self.upstreams for name in upstream.forward_headers)

    @property
    def known_upstreams(self) -> bool | None:
        """Whether the upstreams receive only documented fields of clients: True for all, None for some of them."""
        known = [upstream.fields == "known" for upstream in self.upstreams]
        return True if known and all(known) else None if any(known) else False

    @property
    def default_access(self) -> Access:
        """Permissions of every client when there are no keys."""
        return Access(tenant=DEFAULT_TENANT, base=self.base, profiles=self.profiles)

    @property
    def accesses(self) -> tuple[Access, ...]:
        """Permissions of each key, or of every client when there are no keys."""
        return self.keys or (self.default_access,)


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _is_origin(text: str) -> bool:
    if text == ORIGIN_WITHOUT_HOST:
        return True
    parts = parts_of(text)
    return parts is not None and parts.username is None and f"{parts.scheme}://{parts.netloc}" == text
