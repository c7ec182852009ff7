"""What a caller may use: the chains of its tenant, and the models."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import msgspec

from policies.api.call import Call
from policies.api.policy import Policy

LEGACY = {"budget": "constrained", "moderate": "balanced", "free": "expanded"}
BALANCED = "balanced"


class Forbidden(Exception):
    """The caller is known, and may not use this."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.message, self.param = message, param


class Profile(msgspec.Struct, frozen=True):
    """One chain: the base chain (named ''), or the base chain tightened; *owner* is the key whose own limits it has."""

    name: str
    policies: tuple[Policy, ...]
    temperature: float | None = None
    owner: str = ""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What a key opens: its tenant, and the chains that its calls go through."""

    tenant: str
    digest: bytes = b""
    base: Profile
    profiles: Mapping[str, Profile]
    allowed: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None

    def profile(self, name: str) -> Profile:
        """Return the profile that a header names, case and spaces ignored; one without a table is the base chain.

        Without a name it is the first that the key may use.  Raises `Forbidden` for one that it may not.
        """
        wanted = name.strip().lower()
        if not wanted and self.allowed is not None:
            wanted = self.allowed[0]
        return self._may(wanted, self.profiles.get(wanted, self.base))

    def chat_profile(self, name: str | None) -> Profile:
        """Return the profile of a Chat Nest call, which always has one: unknown or missing means `balanced`.

        Missing means the key's first one where it may not use every profile.  Raises `Forbidden`.
        """
        wanted = (name or "").strip().lower()
        if not wanted and self.allowed is not None:
            wanted = self.allowed[0]
        wanted = wanted if wanted in self.profiles else LEGACY.get(wanted, wanted)
        wanted = wanted if wanted in self.profiles else BALANCED
        return self._may(wanted, self.profiles.get(wanted, self.base))

    def _may(self, wanted: str, profile: Profile) -> Profile:
        if self.allowed is None or profile.name in self.allowed:
            return profile
        raise Forbidden(f"This key may not use the profile {wanted[:100]!r}.", "profile")

    def check(self, call: Call) -> None:
        """Raise `Forbidden` unless the key may use every model that may serve *call*."""
        if self.models is None or call.operation == "models":
            return
        for model in call.models:
            if not any(fnmatchcase(model, pattern) for pattern in self.models):
                what = f"the model {model[:100]!r}" if model else "a model that the call does not name"
                raise Forbidden(f"This key may not use {what}.", "model")
