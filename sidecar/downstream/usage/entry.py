"""One limit in the answer of `GET /v1/usage`: amounts in requests, tokens or dollars, times in seconds since 1970."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import msgspec

from policies.api.claim import Claim, Unit, identity_names, in_units, is_of_one_tenant
from policies.api.match import Pattern
from policies.api.store import Standing
from policies.api.window import Sliding


class LimitOfProfile(msgspec.Struct, frozen=True):
    """The limit of a counter in one profile, and what it leaves of the counter that all profiles share."""

    limit: float
    left: float

    @classmethod
    def of(cls, unit: str, limit: int, used: int) -> Self:
        """Return the entry for a *limit* of which *used* is spent or reserved; both as the store counts them."""
        return cls(in_units(unit, limit), in_units(unit, max(0, limit - used)))


class LimitEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One counter of one policy.

    *window* is the period of a calendar window, or the seconds of a sliding one. *counts* has the identity that is
    counted, by its kinds. *only* selects the calls that the policy applies to. *spent* and *held* are None for a counter
    that other tenants fill too (*shared*). *profiles* has the limit in each profile that the key may use.
    """

    policy: str
    unit: Unit
    window: str | float
    timezone: str = ""
    counts: dict[str, str]
    only: dict[str, Pattern] = {}
    shared: bool
    limit: float
    spent: float | None
    held: float | None
    left: float
    resets_at: int
    profiles: dict[str, LimitOfProfile] = {}


def entry_of(
    claim: Claim, standing: Standing, only: dict[str, Pattern], profiles: Mapping[str, int], *, hides_shared: bool
) -> LimitEntry:
    """Return the entry of *claim*, whose counter has *standing*; *profiles* has the limits of other chains, as counted.

    With *hides_shared* the use of a shared counter is not divided into spent and held. Its remainder is in the limit
    headers of each answer anyway.
    """
    window, unit = claim.window, claim.unit
    is_shared = not is_of_one_tenant(claim.by)
    hidden = is_shared and hides_shared
    return LimitEntry(
        policy=claim.policy,
        unit=unit,
        window=window.seconds if isinstance(window, Sliding) else window.period,
        timezone="" if isinstance(window, Sliding) else window.timezone,
        counts={} if claim.by is None else identity_names(claim.by, claim.identity),
        only=only,
        shared=is_shared,
        limit=in_units(unit, claim.limit),
        spent=None if hidden else in_units(unit, standing.spent),
        held=None if hidden else in_units(unit, standing.held),
        left=in_units(unit, standing.left),
        resets_at=math.ceil(standing.resets_at),
        profiles={name: LimitOfProfile.of(unit, limit, standing.used) for name, limit in profiles.items()},
    )
