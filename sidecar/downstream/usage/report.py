"""Build the answer of `GET /v1/usage` from what the policies of a caller's chains report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import msgspec

from policies.api.claim import Claim

from .entry import LimitEntry, entry_of

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.api.match import Match
    from policies.api.store import Standing
    from policies.engine.chain import Chain

    from .selection import Selection

MAX_LISTED_LIMITS = 256
"""Most limits in one answer; further ones are counted in `left_out`."""

CallOf: TypeAlias = "Callable[[str, str], Call]"
"""Returns a call like those of the caller, for a profile and a model."""


class UsageReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: the limits of the chain of *profile* (empty: the base chain), and of the other profiles of the key.

    *models* are those for which limits that count by model are listed. *left_out* is how many models and limits are not
    listed because there are too many. *unlisted* are policies of the deployment that may refuse calls of
    the caller, and report no limits.
    """

    object: Literal["usage"] = "usage"
    tenant: str
    profile: str
    limits: list[LimitEntry]
    models: Sequence[str]
    left_out: int
    unlisted: list[str]


class ReportedLimit(NamedTuple):
    """One limit of the caller: a claim on its counter, the calls it applies to, and its limit in each profile."""

    claim: Claim
    match: Match
    profiles: dict[str, int]


def limits_of(
    chains: Mapping[str, Chain], selected: str, models: Sequence[str], call_of: CallOf, selection: Selection
) -> list[ReportedLimit]:
    """Return the limits of the *selected* one of *chains*, by their profiles; then those that only others have.

    Limits that count by model are returned for each of *models*.
    Raises what a policy raises.
    """
    first = models[0] if models else ""
    by_profile = {name: dict(_reported(chain, call_of(name, first), selection)) for name, chain in chains.items()}
    found = dict(by_profile[selected])
    for model in models[1:]:
        found |= {
            key: limit
            for key, limit in _reported(chains[selected], call_of(selected, model), selection)
            if key not in found
        }
    for others in by_profile.values():
        found |= {key: limit for key, limit in others.items() if key not in found}
    limits = {name: {_kind(each.claim): each.claim.limit for each in own.values()} for name, own in by_profile.items()}
    for limit in found.values():
        kind = _kind(limit.claim)
        limit.profiles.update({name: its[kind] for name, its in limits.items() if name and kind in its})
    return list(found.values())


def _reported(chain: Chain, call: Call, selection: Selection) -> Iterator[tuple[str, ReportedLimit]]:
    for listed in chain.limits_for(call):
        if selection.covers(listed.match):
            for claim in listed.claims:
                yield claim.key, ReportedLimit(claim, listed.match, {})


def _kind(claim: Claim) -> tuple[str, str, str]:
    """Return what the claims of one limit have in common, for all identities that they count."""
    return claim.policy, claim.unit, claim.window.key


def entries_of(
    limits: Sequence[ReportedLimit], standings: Sequence[Standing], selection: Selection, *, hides_shared: bool
) -> list[LimitEntry]:
    """Return the entry of each of *limits*; *standings* are in their order."""
    return [
        entry_of(limit.claim, standing, selection.shown(limit.match), limit.profiles, hides_shared=hides_shared)
        for limit, standing in zip(limits, standings, strict=True)
    ]
