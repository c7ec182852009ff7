"""`[[policy]]` and `[profile.*]`: the base chain, and the chains that tighten it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec

from policies.base import HOOKS, Hooks, Policy
from policies.budget import Budget
from policies.max_tokens import MaxTokens
from policies.rate import Rate
from policies.retry import RetryClassifier
from policies.trim import Trim

from .settings import Profile
from .tables import ConfigFault, struct_from, unknown, value_of

GROUP = "chatnest_sidecar.policies"
BUILT_IN: Mapping[str, type[Policy]] = {
    "rate": Rate,
    "trim": Trim,
    "max_tokens": MaxTokens,
    "budget": Budget,
    "retry": RetryClassifier,
}
Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]


def base_chain(entries: object, folder: Path, faults: list[ConfigFault]) -> tuple[Policy, ...]:
    """Return the policies of `[[policy]]`, in their order; *folder* is where modules are looked for last."""
    if not isinstance(entries, list):
        faults.append(ConfigFault("policy", "is no list of tables", "write each policy below a [[policy]]"))
        return ()
    policies: list[Policy] = []
    seen: dict[str, str] = {}
    for at, entry in enumerate(entries):
        path = f"policy[{at}]"
        policy = _policy(entry, path, folder, faults)
        if policy is None:
            continue
        if policy.name in seen:
            right = "give one of them a `name` of its own"
            faults.append(ConfigFault(path, f"{policy.name!r} is also the name of {seen[policy.name]}", right))
        seen.setdefault(policy.name, path)
        policies.append(policy)
    return tuple(policies)


def _policy(entry: object, path: str, folder: Path, faults: list[ConfigFault]) -> Policy | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("use"), str):
        right = f"name a built-in policy ({', '.join(BUILT_IN)}), an installed one, or 'module:Class'"
        faults.append(ConfigFault(f"{path}.use", "is missing", right))
        return None
    use = entry["use"]
    try:
        kind = policy_class(use, folder)
    except (ImportError, TypeError, AttributeError, LookupError) as error:
        faults.append(ConfigFault(f"{path}.use", f"{use!r} cannot be used: {error}", _CURES[type(error)]))
        return None
    options = {key: value for key, value in entry.items() if key != "use"}
    policy = struct_from(kind, options, path, faults)
    if policy is None or policy.name:
        return policy
    return msgspec.structs.replace(policy, name=use.rpartition(":")[2])


class _Cures(dict[type[BaseException], str]):
    def __missing__(self, kind: type[BaseException]) -> str:
        return "look at the message; the module is looked for beside the configuration file, last"


_CURES = _Cures(
    {
        LookupError: f"use a built-in policy ({', '.join(BUILT_IN)}), an installed one, or 'module:Class'",
        AttributeError: "name a class that the module has",
        TypeError: f"derive it from policies.Policy and override one of {', '.join(HOOKS)}",
    }
)


def policy_class(use: str, folder: Path) -> type[Policy]:
    """Return the class that `use` names: a built-in, an installed entry point, or "module:Class".

    Raises LookupError, ImportError, AttributeError or TypeError with words for people.
    """
    if use in BUILT_IN:
        return BUILT_IN[use]
    module, colon, name = use.partition(":")
    if colon:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
        found: Any = getattr(importlib.import_module(module), name)
    else:
        installed = entry_points(group=GROUP, name=use)
        if not installed:
            msg = "no such policy"
            raise LookupError(msg)
        found = next(iter(installed)).load()
    if not (isinstance(found, type) and issubclass(found, Policy)):
        msg = "it is no Policy"
        raise TypeError(msg)
    if all(getattr(found, hook) is getattr(Hooks, hook) for hook in HOOKS) and found.open is Policy.open:
        msg = "it overrides no hook (is one misspelt?)"
        raise TypeError(msg)
    return found


def profiles(tables: object, base: tuple[Policy, ...], faults: list[ConfigFault]) -> dict[str, Profile]:
    """Return the chains of `[profile.*]` by name in lower case: the base chain with some limits lowered."""
    if not isinstance(tables, dict):
        faults.append(ConfigFault("profile", "is no table", "write each profile below a [profile.NAME]"))
        return {}
    return {
        name.strip().lower(): _profile(name.strip().lower(), table, base, f"profile.{name}", faults)
        for name, table in tables.items()
    }


def _profile(name: str, table: object, base: tuple[Policy, ...], path: str, faults: list[ConfigFault]) -> Profile:
    chain = {policy.name: policy for policy in base}
    temperature = None
    if not isinstance(table, dict):
        faults.append(ConfigFault(path, "is no table", "write its overrides below it"))
        table = {}
    for key, value in table.items():
        if key == "temperature":
            temperature = value_of(Temperature, value, f"{path}.temperature", faults)
        elif key not in chain:
            faults.append(unknown(f"{path}.{key}", key, [*chain, "temperature"]))
        elif not isinstance(value, dict):
            faults.append(ConfigFault(f"{path}.{key}", "is no table", f"write {{ field = value }} for {key!r}"))
        else:
            chain[key] = _tightened(chain[key], value, f"{path}.{key}", faults)
    return Profile(name, tuple(chain.values()), temperature)


def _tightened(policy: Policy, overrides: dict[str, Any], path: str, faults: list[ConfigFault]) -> Policy:
    hints = get_type_hints(type(policy), include_extras=True)
    known = set(policy.__struct_fields__)
    changed: dict[str, Any] = {}
    for field, value in overrides.items():
        where = f"{path}.{field}"
        if field not in known:
            faults.append(unknown(where, field, known - set(policy.pinned)))
        elif field in policy.pinned:
            faults.append(
                ConfigFault(where, "cannot differ between profiles", "they share one counter: set it in [[policy]]")
            )
        else:
            before = len(faults)
            changed[field] = value_of(hints[field], value, where, faults)
            limit = getattr(policy, field)
            if len(faults) == before and field in policy.lowers and _looser(changed[field], limit):
                right = f"a profile only tightens it: at most {limit}"
                faults.append(ConfigFault(where, f"{changed[field]} is looser than the base chain", right))
    try:
        return msgspec.structs.replace(policy, **changed)
    except (ValueError, TypeError) as error:
        faults.append(ConfigFault(path, str(error), "see `sidecar config` for an example"))
        return policy


def _looser(value: Any, limit: Any) -> bool:
    return limit is not None and (value is None or value > limit)
