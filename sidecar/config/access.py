"""Permissions of a caller: the chains of its tenant, and the models."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from policies.api.call import Call
from policies.api.match import matches_any
from policies.api.policy import Policy

LEGACY_PROFILES = {"budget": "constrained", "moderate": "balanced", "free": "expanded"}
DEFAULT_CHAT_PROFILE = "balanced"
MAX_PROFILE_NAME = 256
"""Characters of a profile's name; a longer one is unknown, whatever the time to convert its case."""


class Forbidden(Exception):
    """Refusal of a profile or model that the caller's key may not use; sent as 403."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.message, self.param = message, param


class Profile(msgspec.Struct, frozen=True):
    """One chain of policies: the base chain (named ''), or a profile that tightens it.

    *owner* is the key path of the `[[key]]` whose limits the chain has; empty for the chains of the file.
    """

    name: str
    policies: tuple[Policy, ...]
    temperature: float | None = None
    owner: str = ""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Permissions of one key: its tenant, its chains, and the profiles and models that it may use (None: all).

    *digest* is the SHA-256 of the key; empty where the file has no keys.
    """

    tenant: str
    digest: bytes = b""
    base: Profile
    profiles: Mapping[str, Profile]
    allowed: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None

    def profile(self, name: str) -> Profile:
        """Return the profile named by the header `x-profile`; case and surrounding spaces are ignored.

        A name without a table is the base chain.  An empty name is the first profile that the key may use, or the base
        chain where the key may use all.  Raises `Forbidden` for a profile that the key may not use.
        """
        wanted = name.strip().lower()
        if not wanted and self.allowed is not None:
            wanted = self.allowed[0]
        return self._permitted(wanted, self.profiles.get(wanted, self.base))

    def chat_profile(self, name: str | None) -> Profile:
        """Return the profile of a Chat Nest call; an unknown or missing name means `balanced`.

        For a key that is restricted to some profiles, a missing name means the first of them.  Raises `Forbidden`.
        """
        wanted = (name or "").strip()
        wanted = wanted.lower() if len(wanted) <= MAX_PROFILE_NAME else DEFAULT_CHAT_PROFILE
        if not wanted and self.allowed is not None:
            wanted = self.allowed[0]
        wanted = wanted if wanted in self.profiles else LEGACY_PROFILES.get(wanted, wanted)
        wanted = wanted if wanted in self.profiles else DEFAULT_CHAT_PROFILE
        return self._permitted(wanted, self.profiles.get(wanted, self.base))

    def _permitted(self, wanted: str, profile: Profile) -> Profile:
        if self.allowed is None or profile.name in self.allowed:
            return profile
        raise Forbidden(f"This key may not use the profile {wanted[:100]!r}.", "profile")

    def check(self, call: Call) -> None:
        """Raise `Forbidden` unless the key may use every candidate model of *call*, fallbacks included.

        A list of models names none: it is reduced to those that the key may use.
        """
        if self.models is None or (call.operation == "models" and not call.model):
            return
        for model in call.candidate_models:
            if not matches_any(model, self.models):
                what = f"the model {model[:100]!r}" if model else "a model that the call does not name"
                raise Forbidden(f"This key may not use {what}.", "model")
