"""`[profile.*]`: the chains that tighten the base chain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_type_hints

import msgspec

from policies.api.policy import Policy

from .access import Profile
from .policies import TEMPERATURE
from .tables import ConfigFault, said, to_value, unknown

Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]


def profiles(
    tables: object,
    inherited: Mapping[str, object],
    base: tuple[Policy, ...],
    broken: frozenset[str],
    faults: list[ConfigFault],
) -> dict[str, Profile]:
    """Return the chains of `[profile.*]` by name in lower case: the base chain with some limits lowered.

    Those of *inherited* whose names *tables* does not have come first.  Overrides of *broken* policies, whose own fault
    is known, are left unchecked.
    """
    if not isinstance(tables, dict):
        faults.append(ConfigFault("profile", "is no table", "write each profile below a [profile.NAME]"))
        return {}
    chosen: dict[str, tuple[str, object]] = {}
    for key, table in tables.items():
        name, path = key.strip().lower(), f"profile.{key}"
        if not name:
            faults.append(ConfigFault("profile", f"{key!r} is no name", "calls without a profile have the base chain"))
        elif name in chosen:
            wrong = f"is the same as {chosen[name][0]}"
            faults.append(ConfigFault(path, wrong, "case and spaces are ignored: give one of them another name"))
        else:
            chosen[name] = (path, table)
    merged = {name: (f"profile.{name}", table) for name, table in inherited.items()} | chosen
    return {
        name: _profile(name, table, base, broken=broken, path=path, faults=faults)
        for name, (path, table) in merged.items()
    }


def _profile(
    name: str,
    table: object,
    base: tuple[Policy, ...],
    *,
    broken: frozenset[str],
    path: str,
    faults: list[ConfigFault],
) -> Profile:
    chain = {policy.name: policy for policy in base}
    temperature = None
    if not isinstance(table, dict):
        faults.append(ConfigFault(path, "is no table", f"write its overrides below a [{path}]"))
        table = {}
    for key, value in table.items():
        where = f"{path}.{key}"
        if key == TEMPERATURE:
            temperature = to_value(Temperature, value, where, faults)
        elif key in chain and isinstance(value, dict):
            chain[key] = _tightened(chain[key], value, where, faults)
        elif key in chain:
            faults.append(ConfigFault(where, "is no table", f"write {{ field = value }} for {key!r}"))
        elif key not in broken:
            faults.append(unknown(where, key, [*chain, TEMPERATURE]))
    return Profile(name, tuple(chain.values()), temperature)


def limited(
    profile: Profile,
    base: Profile,
    limits: Mapping[str, object],
    path: str,
    *,
    broken: frozenset[str],
    faults: list[ConfigFault],
) -> Profile:
    """Return *profile* with the *limits* of one key over those of the *base* chain, where the profile has none of its own.

    A key's limits may be higher than those of the base chain; a profile still only tightens them.
    """
    chain = {policy.name: policy for policy in base.policies}
    own = {policy.name: policy for policy in profile.policies}
    for name, overrides in limits.items():
        where = f"{path}.limits.{name}"
        if name in broken:
            continue
        if name not in chain:
            faults.append(unknown(where, name, chain))
        elif not isinstance(overrides, dict):
            faults.append(ConfigFault(where, "is no table", f"write {{ field = value }} for {name!r}"))
        else:
            mine = _tightened(chain[name], overrides, where, faults, may_loosen=True)
            own[name] = _merged(own[name], chain[name], mine, overrides)
    if not limits:
        return profile
    return msgspec.structs.replace(profile, policies=tuple(own.values()), owner=path)


def _merged(profile: Policy, base: Policy, mine: Policy, fields: Mapping[str, object]) -> Policy:
    changed: dict[str, Any] = {}
    for field in fields.keys() & set(base.__struct_fields__):
        of_base, of_profile, of_mine = (getattr(policy, field) for policy in (base, profile, mine))
        if of_profile == of_base or (field in base.lowers and _looser(of_profile, of_mine)):
            changed[field] = of_mine
    return msgspec.structs.replace(profile, **changed)


def _tightened(
    policy: Policy, overrides: Mapping[str, Any], path: str, faults: list[ConfigFault], *, may_loosen: bool = False
) -> Policy:
    hints = get_type_hints(type(policy), include_extras=True)
    known = set(policy.__struct_fields__)
    changed: dict[str, Any] = {}
    before = len(faults)
    for field, value in overrides.items():
        where = f"{path}.{field}"
        if field not in known:
            faults.append(unknown(where, field, known - set(policy.pinned)))
        elif field in policy.pinned:
            right = "they share one counter: set it in [[policy]]"
            faults.append(ConfigFault(where, f"cannot differ between {'keys' if may_loosen else 'profiles'}", right))
        else:
            found = len(faults)
            changed[field] = to_value(hints[field], value, where, faults)
            limit = getattr(policy, field)
            if len(faults) == found and not may_loosen and field in policy.lowers and _looser(changed[field], limit):
                right = f"a profile only tightens it: at most {limit}"
                faults.append(ConfigFault(where, f"{changed[field]} is looser than the base chain", right))
    if len(faults) > before:
        return policy
    try:
        return msgspec.structs.replace(policy, **changed)
    except (ValueError, TypeError) as error:
        faults.append(said(error, path, known))
        return policy


def _looser(value: Any, limit: Any) -> bool:
    return limit is not None and (value is None or value > limit)
