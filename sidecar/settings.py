"""What the program is told: the file, the environment and the flags, checked and brought together.

Flags win over the environment, which wins over the file, which wins over the shipped defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from policies.base import Policy

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Bytes = Annotated[int, msgspec.Meta(ge=1)]

LEGACY = {"budget": "constrained", "moderate": "balanced", "free": "expanded"}
BALANCED = "balanced"
OPENAI_HOST = "api.openai.com"


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[server]`: times are in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8787
    heartbeat: Seconds = 15.0
    max_body: Bytes = 16_777_216
    chat_max_body: Bytes = 1_048_576
    drain: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    chat_deadline: Annotated[float, msgspec.Meta(ge=0)] = 28.0
    chat_roles: tuple[Literal["user", "assistant", "system", "developer"], ...] = ("user", "assistant")
    chat_system_prompt: Literal["ignore", "use"] = "ignore"
    cors_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for origin in self.cors_origins:
            parts = urlsplit(origin)
            if origin != "*" and (not parts.netloc or f"{parts.scheme}://{parts.netloc}" != origin):
                msg = f"cors_origins: {origin!r} is no origin; write it like 'https://app.example.org', or '*'"
                raise ValueError(msg)


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[store]`: where limits are counted."""

    url: str = "sqlite:///sidecar.db"

    def __post_init__(self) -> None:
        if self.url.startswith("redis://"):
            msg = "url: this version has no Redis store; write 'sqlite:///FILE', or 'memory://' for a trial"
            raise ValueError(msg)
        if self.url != "memory://" and not (self.url.startswith("sqlite:///") and len(self.url) > len("sqlite:///")):
            msg = f"url: {self.url!r} is no store; write 'sqlite:///FILE', or 'memory://' for a trial"
            raise ValueError(msg)


class UpstreamSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[upstream]]`: an OpenAI-compatible server; `connect` and `idle` (between two reads) are in seconds."""

    base_url: str
    name: str = ""
    api_key_env: str | None = None
    model: str | None = None
    connect: Seconds = 10.0
    idle: Seconds = 300.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            msg = f"base_url: {self.base_url!r} is no address of an API; write it like 'http://127.0.0.1:11434/v1'"
            raise ValueError(msg)


class UpstreamChoice(UpstreamSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An upstream with its key.  Without a key of ours the client's own `Authorization` goes through."""

    key: str | None = None

    @property
    def pass_authorization(self) -> bool:
        """Whether the caller pays at the upstream itself."""
        return self.key is None

    def __repr__(self) -> str:
        return f"UpstreamChoice({self.base_url!r}, model={self.model!r}, key={'set' if self.key else None})"


class Profile(msgspec.Struct, frozen=True):
    """One chain: the base chain (named ''), or the base chain tightened."""

    name: str
    policies: tuple[Policy, ...]
    temperature: float | None = None


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
    upstreams: tuple[UpstreamChoice, ...]
    base: Profile
    profiles: Mapping[str, Profile]
    folder: Path
    workers: int = 1

    def profile(self, name: str) -> Profile:
        """Return the profile that a header names, case and spaces ignored; one without a table is the base chain."""
        return self.profiles.get(name.strip().lower(), self.base)

    def chat_profile(self, name: str | None) -> Profile:
        """Return the profile of a Chat Nest call, which always has one: unknown or missing means `balanced`."""
        wanted = (name or "").strip().lower()
        wanted = wanted if wanted in self.profiles else LEGACY.get(wanted, wanted)
        return self.profiles.get(wanted) or self.profiles.get(BALANCED, self.base)
