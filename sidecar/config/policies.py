"""Read `[[policy]]`: the base chain of built-in policies, installed entry points, and classes of modules."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import get_type_hints

import msgspec

from policies.api.hooks import HookError
from policies.api.match import Match
from policies.api.policy import CALL_HOOKS, Policy, RunningPolicy, check_policy
from policies.builtin.budget import Budget
from policies.builtin.fallback import Fallback
from policies.builtin.max_tokens import MaxTokens
from policies.builtin.rate import Rate
from policies.builtin.retry import RetryClassifier
from policies.builtin.trim import Trim

from .named_objects import ObjectFault, load_object, object_of
from .tables import ConfigFault, to_struct

ENTRY_POINT_GROUP = "chatnest_sidecar.policies"
BUILT_IN: Mapping[str, type[Policy]] = {
    "rate": Rate,
    "trim": Trim,
    "max_tokens": MaxTokens,
    "budget": Budget,
    "fallback": Fallback,
    "retry": RetryClassifier,
}
POLICY_SOURCES = f"a built-in policy ({', '.join(BUILT_IN)}), an installed one, or 'module:Class'"
TEMPERATURE_KEY = "temperature"


def base_chain(entries: object, folder: Path, faults: list[ConfigFault]) -> tuple[tuple[Policy, ...], frozenset[str]]:
    """Return the policies of `[[policy]]` in file order, and the names of those that have a fault.

    *folder* is appended to the import path.
    """
    if not isinstance(entries, list):
        faults.append(ConfigFault("policy", "expected a list of tables", "write each policy below [[policy]]"))
        return (), frozenset()
    policies: list[Policy] = []
    broken: set[str] = set()
    seen: dict[str, str] = {}
    for at, entry in enumerate(entries):
        path = f"policy[{at}]"
        policy = _policy(entry, path, folder, faults)
        if policy is None:
            broken |= _names(entry)
            continue
        if policy.name in seen:
            right = "set a different `name` on one of them"
            faults.append(ConfigFault(path, f"{policy.name!r} is already the name of {seen[policy.name]}", right))
        seen.setdefault(policy.name, path)
        if (judge := _judge_before(policy, policies)) is not None:
            wrong = f"has no effect: the earlier policy {judge!r} decides every failure"
            faults.append(ConfigFault(path, wrong, f"move the fallback above {seen[judge]}"))
        policies.append(policy)
    return tuple(policies), frozenset(broken)


def _judge_before(policy: Policy, earlier: Sequence[Policy]) -> str | None:
    """Return the name of the *earlier* `retry` that decides every failure that the fallback *policy* could decide, if any."""
    if not isinstance(policy, Fallback):
        return None
    judges = (each for each in earlier if type(each) is RetryClassifier)  # a subclass may leave failures to others
    return next((judge.name for judge in judges if _covers(judge.match, policy.match)), None)


def _covers(wide: Match, narrow: Match) -> bool:
    """Return whether *wide* certainly matches every call that *narrow* matches."""
    return all(getattr(wide, field) in ("*", getattr(narrow, field)) for field in Match.__struct_fields__)


def _names(entry: object) -> set[str]:
    """Return the names that a faulty `[[policy]]` may have: overrides of these in profiles are not reported again."""
    table = entry if isinstance(entry, dict) else {}
    names = [name for name in (table.get("name"), table.get("use")) if isinstance(name, str)]
    return {name.rpartition(":")[2] for name in names}


def _policy(entry: object, path: str, folder: Path, faults: list[ConfigFault]) -> Policy | None:
    if not isinstance(entry, dict):
        faults.append(ConfigFault(path, "expected a table", "write each policy below [[policy]]"))
        return None
    if not isinstance(use := entry.get("use"), str) or not use:
        wrong = "expected a non-empty string" if "use" in entry else "required key is missing"
        faults.append(ConfigFault(f"{path}.use", wrong, f"use {POLICY_SOURCES}"))
        return None
    try:
        kind = policy_class(use, folder)
    except ObjectFault as error:
        faults.append(ConfigFault(f"{path}.use", f"cannot use {use!r}: {error.problem}", error.cure))
        return None
    options = {key: value for key, value in entry.items() if key != "use"}
    policy = to_struct(kind, options, path, faults)
    if policy is not None and not policy.name:
        policy = msgspec.structs.replace(policy, name=use.rpartition(":")[2])
    if policy is not None and not _is_name(policy.name):
        right = (
            f"use printable ASCII without quotes, and not {TEMPERATURE_KEY!r}: headers and profiles contain the name"
        )
        faults.append(ConfigFault(f"{path}.name", f"invalid name {policy.name!r}", right))
        return None
    return policy


def _is_name(name: str) -> bool:
    return name.isascii() and name.isprintable() and not set(name) & set('"\\') and name != TEMPERATURE_KEY


def policy_class(use: str, folder: Path) -> type[Policy]:
    """Return the class that *use* names: a built-in, an installed entry point, or "module:Class".

    *folder* is appended to the import path, so that installed modules take precedence.

    Raises `ObjectFault`.
    """
    if use in BUILT_IN:
        return BUILT_IN[use]
    found = load_object(lambda: _named(use, folder), folder)
    cure = f"derive the class from policies.Policy and override one of {', '.join(CALL_HOOKS)}"
    if not (isinstance(found, type) and issubclass(found, Policy)):
        raise ObjectFault("not a subclass of policies.Policy", cure)
    if all(getattr(found, hook) is getattr(RunningPolicy, hook) for hook in CALL_HOOKS) and found.start is Policy.start:
        raise ObjectFault("the class overrides no hook", cure)
    try:
        get_type_hints(found, include_extras=True)
    except NameError as error:
        raise ObjectFault(f"a field has an unknown type: {error}", "import it outside of TYPE_CHECKING") from None
    return found


def _named(use: str, folder: Path) -> object:
    try:
        found = _imported(use, folder)
        if isinstance(found, type) and issubclass(found, Policy):
            check_policy(found)  # a base class may not have called `super().__init_subclass__()`
        return found
    except HookError as error:
        raise ObjectFault(error.problem, error.cure) from None


def _imported(use: str, folder: Path) -> object:
    module, colon, name = use.partition(":")
    if not colon:
        installed = entry_points(group=ENTRY_POINT_GROUP, name=use)
        if not installed:
            names = (*BUILT_IN, *entry_points(group=ENTRY_POINT_GROUP).names)
            near = difflib.get_close_matches(use, names, n=1)
            raise ObjectFault("unknown policy", f"did you mean {near[0]!r}?" if near else f"use {POLICY_SOURCES}")
        return next(iter(installed)).load()
    return object_of(module, name, folder, kind="class")
