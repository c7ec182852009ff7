"""What one call takes from one limit."""

from __future__ import annotations

import functools
from typing import Literal, TypeAlias

import msgspec

from .window import Window

Unit: TypeAlias = Literal["tokens", "requests", "usd"]


SEPARATOR = "\x1f"


OTHERS = "\x1dothers"
"""The end of a shared bucket's identity; no name that a client chooses has such a character."""


MILLION = 1_000_000


SCALE: dict[str, int] = {"usd": MILLION}
"""How many of a claim's `each` make one unit, where that is not one: prices are per million tokens."""


@functools.lru_cache(1024)
def counter_key(policy: str, identity: str, unit: Unit, window: Window) -> str:
    """Return the name of a counter; remembered, since every call asks for those of its claims."""
    return SEPARATOR.join((policy, identity, unit, window.key))


class Claim(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one call takes from one limit.

    It costs `base` and, for each token of the highest answer that it may get, `each` (of which `scale` make a unit): the
    store may lower the call's ceiling, down to `floor`, to make the claim fit.  Units are tokens, requests, or
    micro-dollars.

    An identity that clients can make up has a `bound`: of those that share one `crowd` (the part of the identity that
    nobody can make up), so many are counted apart; any further one is counted in one bucket with all that came too late.
    A counter that is open never moves there.
    """

    policy: str
    identity: str
    unit: Unit
    limit: int
    window: Window
    base: int
    each: int = 0
    floor: int = 0
    bound: int = 0
    crowd: str = ""

    @property
    def scale(self) -> int:
        """How many of `each` make one unit."""
        return SCALE.get(self.unit, 1)

    def needs(self, ceiling: int) -> int:
        """Return what the call takes with *ceiling* tokens for each answer."""
        return self.base - (-self.each * ceiling // SCALE.get(self.unit, 1)) if self.each else self.base

    @property
    def key(self) -> str:
        """The counter's name: one per policy, identity, unit and window, whatever the profile and its limit."""
        return counter_key(self.policy, self.identity, self.unit, self.window)

    @property
    def shared_key(self) -> str:
        """The name of the bucket that the late ones of its crowd share."""
        return SEPARATOR.join((self.policy, self.crowd + OTHERS, self.unit, self.window.key))

    @property
    def crowd_key(self) -> str:
        """The name of its crowd."""
        return SEPARATOR.join((self.policy, self.crowd, self.unit, self.window.key))
