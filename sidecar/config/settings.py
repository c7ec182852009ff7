"""What the program is told: the file, the environment and the flags, checked and brought together.

Flags win over the environment, which wins over the file, which wins over the shipped defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from policies.stores.opening import StoreUrl

from .access import Access, Profile
from .upstream import ResolvedUpstream, Seconds, Text, parts_of

Bytes = Annotated[int, msgspec.Meta(ge=1)]
Role = Literal["user", "assistant", "system", "developer"]

DEFAULT_TENANT = "default"


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[server]`: times are in seconds, sizes in bytes."""

    host: Text = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8787
    heartbeat: Seconds = 15.0
    max_body: Bytes = 16_777_216
    chat_max_body: Bytes = 1_048_576
    drain: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    deadline: Annotated[float, msgspec.Meta(ge=0)] = 3600.0
    chat_deadline: Annotated[float, msgspec.Meta(ge=0)] = 28.0
    chat_roles: Annotated[tuple[Role, ...], msgspec.Meta(min_length=1)] = ("user", "assistant")
    chat_system_prompt: Literal["ignore", "use"] = "ignore"
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    proxy_header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"

    def __post_init__(self) -> None:
        for at, network in enumerate(self.trusted_proxies):
            if not _is_network(network):
                right = "write an address like '10.0.0.7' or a network like '10.0.0.0/8'"
                msg = f"trusted_proxies[{at}]: {network!r} is no network; {right}"
                raise ValueError(msg)
        for at, origin in enumerate(self.cors_origins):
            if origin != "*" and not _is_origin(origin):
                right = "write it like 'https://app.example.org' or 'http://localhost:5173', or '*'"
                msg = f"cors_origins[{at}]: {origin!r} is no origin; {right}"
                raise ValueError(msg)


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[store]`: where limits are counted."""

    url: str = "sqlite:///sidecar.db"

    def __post_init__(self) -> None:
        try:
            StoreUrl.parse(self.url)
        except ValueError as error:
            msg = f"url: {error}"
            raise ValueError(msg) from None

    @property
    def location(self) -> StoreUrl:
        """The URL and what it says."""
        return StoreUrl.parse(self.url)


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says; None where it says nothing."""

    upstream: str | None = None
    model: str | None = None
    host: str | None = None
    port: int | None = None
    workers: int = 1


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a process needs to know."""

    server: ServerSettings
    store: StoreSettings
    upstreams: tuple[ResolvedUpstream, ...]
    base: Profile
    profiles: Mapping[str, Profile]
    folder: Path
    keys: tuple[Access, ...] = ()
    workers: int = 1

    @property
    def everybody(self) -> Access:
        """What all callers may use where there are no keys."""
        return Access(tenant=DEFAULT_TENANT, base=self.base, profiles=self.profiles)

    @property
    def accesses(self) -> tuple[Access, ...]:
        """What each key opens, or what is open to everybody."""
        return self.keys or (self.everybody,)


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _is_origin(text: str) -> bool:
    parts = parts_of(text)
    return parts is not None and parts.username is None and f"{parts.scheme}://{parts.netloc}" == text
