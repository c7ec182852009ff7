"""Read `[profile.*]` and the limits of keys: overrides of the base chain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_type_hints

import msgspec

from policies.api.policy import Policy, is_shared

from .access import Profile
from .policies import TEMPERATURE_KEY
from .tables import ConfigFault, faults_from_error, to_value, unknown_key

Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]


def read_profiles(
    tables: object,
    inherited: Mapping[str, object],
    base: tuple[Policy, ...],
    broken: Mapping[str, type[Policy] | None],
    faults: list[ConfigFault],
) -> dict[str, Profile]:
    """Return the chains of `[profile.*]` by name in lower case: copies of the base chain with tighter limits.

    Profiles of *inherited* come first, unless *tables* has one of the same name.  The policies in *broken* have a fault of
    their own: only names and types of their overrides are checked, by their class.
    """
    if not isinstance(tables, dict):
        faults.append(ConfigFault("profile", "expected a table", "write each profile below [profile.NAME]"))
        return {}
    chosen: dict[str, tuple[str, object]] = {}
    for key, table in tables.items():
        name, path = key.strip().lower(), f"profile.{key}"
        if not name:
            faults.append(ConfigFault("profile", f"invalid name {key!r}", "use a name that is not blank"))
        elif name in chosen:
            wrong = f"duplicate of {chosen[name][0]} (names ignore case and spaces)"
            faults.append(ConfigFault(path, wrong, "rename one of them"))
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
    broken: Mapping[str, type[Policy] | None],
    path: str,
    faults: list[ConfigFault],
) -> Profile:
    chain = {policy.name: policy for policy in base}
    temperature = None
    if not isinstance(table, dict):
        faults.append(ConfigFault(path, "expected a table", f"write its overrides below [{path}]"))
        table = {}
    for key, value in table.items():
        where = f"{path}.{key}"
        if key == TEMPERATURE_KEY:
            temperature = to_value(Temperature, value, where, faults)
        elif key in chain and isinstance(value, dict):
            chain[key] = _tightened(chain[key], value, where, faults)
        elif key in chain:
            faults.append(ConfigFault(where, "expected a table", f"write {key} = {{ field = value }}"))
        elif key not in broken:
            faults.append(unknown_key(where, key, [*chain, TEMPERATURE_KEY]))
        elif (kind := broken[key]) is not None and isinstance(value, dict):
            _converted(kind, value, where, faults)
    return Profile(name, tuple(chain.values()), temperature)


def apply_key_limits(
    profile: Profile,
    base: Profile,
    limits: Mapping[str, object],
    path: str,
    *,
    broken: Mapping[str, type[Policy] | None],
    faults: list[ConfigFault],
) -> Profile:
    """Return *profile* with the *limits* of one key in place of the *base* chain's; the profile's own tighter limits stay.

    A key's limits may be higher or lower than those of the base chain.
    """
    chain = {policy.name: policy for policy in base.policies}
    own = {policy.name: policy for policy in profile.policies}
    for name, overrides in limits.items():
        where = f"{path}.limits.{name}"
        if name in broken and name not in chain:
            if (kind := broken[name]) is not None and isinstance(overrides, dict):
                _converted(kind, overrides, where, faults, may_loosen=True)
        elif name not in chain:
            faults.append(unknown_key(where, name, chain))
        elif not isinstance(overrides, dict):
            faults.append(ConfigFault(where, "expected a table", f"write {name} = {{ field = value }}"))
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
        if of_profile == of_base or (field in base.tightened_by_profiles and _looser(of_profile, of_mine)):
            changed[field] = of_mine
    return msgspec.structs.replace(profile, **changed)


def _tightened(
    policy: Policy, overrides: Mapping[str, Any], path: str, faults: list[ConfigFault], *, may_loosen: bool = False
) -> Policy:
    before = len(faults)
    changed = _converted(type(policy), overrides, path, faults, may_loosen=may_loosen)
    names = dict(zip(policy.__struct_fields__, policy.__struct_encode_fields__, strict=True))
    for field, value in changed.items():
        limit = getattr(policy, field)
        if field in policy.tightened_by_profiles and not may_loosen and _looser(value, limit):
            right = f"profiles can only tighten a limit: use at most {limit}"
            faults.append(ConfigFault(f"{path}.{names[field]}", f"{value} is looser than the base chain", right))
    if len(faults) > before:
        return policy
    try:
        return msgspec.structs.replace(policy, **changed)
    except (ValueError, TypeError) as error:
        faults += faults_from_error(error, path, names.values())
        return policy


def _converted(
    kind: type[Policy],
    overrides: Mapping[str, Any],
    path: str,
    faults: list[ConfigFault],
    *,
    may_loosen: bool = False,
) -> dict[str, Any]:
    """Return the *overrides* without a fault, by field of *kind*; add the faults of the others."""
    hints = get_type_hints(kind, include_extras=True)
    known = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
    fixed = {key for key, field in known.items() if is_shared(kind) or field in kind.fixed_in_profiles}
    changed: dict[str, Any] = {}
    for key, value in overrides.items():
        where, found = f"{path}.{key}", len(faults)
        if key not in known:
            faults.append(unknown_key(where, key, known.keys() - fixed))
        elif key in fixed:
            right = kind.fixed_because
            if is_shared(kind):
                cure = f"set it in [[policy]] instead, or give {kind.__name__} runs_once = False"
                right = f"they share one running object: {cure}"
            faults.append(ConfigFault(where, f"cannot differ between {'keys' if may_loosen else 'profiles'}", right))
        else:
            converted = to_value(hints[known[key]], value, where, faults)
            if len(faults) == found:
                changed[known[key]] = converted
    return changed


def _looser(value: Any, limit: Any) -> bool:
    return limit is not None and (value is None or value > limit)
