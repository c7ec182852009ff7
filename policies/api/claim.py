"""What one call takes from one limit."""

from __future__ import annotations

import functools
from typing import Literal, TypeAlias

import msgspec

from .window import Window

Unit: TypeAlias = Literal["tokens", "requests", "usd"]


KEY_SEPARATOR = "\x1f"


OVERFLOW_SUFFIX = "\x1dothers"
"""The end of a shared bucket's identity; no name that a client chooses has such a character."""


MILLION = 1_000_000


TOKEN_SCALES: dict[str, int] = {"usd": MILLION}
"""How many of a claim's `per_token` make one unit, where that is not one: prices are per million tokens."""


@functools.lru_cache(1024)
def counter_key(policy: str, identity: str, unit: Unit, window: Window) -> str:
    """Return the name of a counter; remembered, since every call asks for those of its claims."""
    return KEY_SEPARATOR.join((policy, identity, unit, window.key))


class Claim(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one call takes from one limit.

    It costs `base`, and `per_token` for each token of the longest answer that it may get (of `per_token`, `scale` make one
    unit). The store may lower the call's ceiling, down to `floor`, to make the claim fit. Units are tokens, requests, or
    micro-dollars.

    `max_identities` bounds identities that clients can make up: in each `identity_group` (the part of the identity that no
    client can make up) that many get a counter of their own, and all others share one overflow counter. A counter that
    is open never moves there. 0 is no bound.
    """

    policy: str
    identity: str
    unit: Unit
    limit: int
    window: Window
    base: int
    per_token: int = 0
    floor: int = 0
    max_identities: int = 0
    identity_group: str = ""

    @property
    def scale(self) -> int:
        """How many of `each` make one unit."""
        return TOKEN_SCALES.get(self.unit, 1)

    def needs(self, ceiling: int) -> int:
        """Return what the call takes with *ceiling* tokens for each answer."""
        return (
            self.base - (-self.per_token * ceiling // TOKEN_SCALES.get(self.unit, 1)) if self.per_token else self.base
        )

    @property
    def key(self) -> str:
        """The counter's name: one per policy, identity, unit and window, whatever the profile and its limit."""
        return counter_key(self.policy, self.identity, self.unit, self.window)

    @property
    def overflow_key(self) -> str:
        """The name of the counter that the identities beyond `max_identities` share."""
        return KEY_SEPARATOR.join((self.policy, self.identity_group + OVERFLOW_SUFFIX, self.unit, self.window.key))

    @property
    def group_key(self) -> str:
        """The name of its group of identities."""
        return KEY_SEPARATOR.join((self.policy, self.identity_group, self.unit, self.window.key))
