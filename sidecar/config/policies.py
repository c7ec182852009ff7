"""`[[policy]]`: the base chain, of built-in policies, installed ones, and classes of modules."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import get_type_hints

import msgspec

from policies.api.match import Match
from policies.api.policy import HOOKS, Policy, RunningPolicy
from policies.builtin.budget import Budget
from policies.builtin.fallback import Fallback
from policies.builtin.max_tokens import MaxTokens
from policies.builtin.rate import Rate
from policies.builtin.retry import RetryClassifier
from policies.builtin.trim import Trim

from .named_objects import ObjectFault, load_object, object_of
from .tables import ConfigFault, to_struct

GROUP = "chatnest_sidecar.policies"
BUILT_IN: Mapping[str, type[Policy]] = {
    "rate": Rate,
    "trim": Trim,
    "max_tokens": MaxTokens,
    "budget": Budget,
    "fallback": Fallback,
    "retry": RetryClassifier,
}
KINDS = f"a built-in policy ({', '.join(BUILT_IN)}), an installed one, or 'module:Class'"
TEMPERATURE = "temperature"


def base_chain(entries: object, folder: Path, faults: list[ConfigFault]) -> tuple[tuple[Policy, ...], frozenset[str]]:
    """Return the policies of `[[policy]]` in their order, and the names of those that have a fault.

    *folder* is where modules are looked for last.
    """
    if not isinstance(entries, list):
        faults.append(ConfigFault("policy", "is no list of tables", "write each policy below a [[policy]]"))
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
            right = "give one of them a `name` of its own"
            faults.append(ConfigFault(path, f"{policy.name!r} is also the name of {seen[policy.name]}", right))
        seen.setdefault(policy.name, path)
        if (judge := _judge_before(policy, policies)) is not None:
            wrong = f"never acts: {judge!r} judges every failure before it"
            faults.append(ConfigFault(path, wrong, f"fallback stands before retry: put it above {seen[judge]}"))
        policies.append(policy)
    return tuple(policies), frozenset(broken)


def _judge_before(policy: Policy, earlier: Sequence[Policy]) -> str | None:
    """Return the name of the `retry` among *earlier* ones that leaves *policy* nothing to decide; None where it is no fallback."""
    if not isinstance(policy, Fallback):
        return None
    judges = (each for each in earlier if type(each) is RetryClassifier)  # one of somebody's own may have no opinion
    return next((judge.name for judge in judges if _covers(judge.only, policy.only)), None)


def _covers(wide: Match, narrow: Match) -> bool:
    """Whether *wide* is sure to cover each call that *narrow* does."""
    return all(getattr(wide, field) in ("*", getattr(narrow, field)) for field in Match.__struct_fields__)


def _names(entry: object) -> set[str]:
    """Return what a policy with a fault may have been meant to be called."""
    table = entry if isinstance(entry, dict) else {}
    said = [name for name in (table.get("name"), table.get("use")) if isinstance(name, str)]
    return {name.rpartition(":")[2] for name in said}


def _policy(entry: object, path: str, folder: Path, faults: list[ConfigFault]) -> Policy | None:
    if not isinstance(entry, dict):
        faults.append(ConfigFault(path, "is no table", "write each policy below a [[policy]]"))
        return None
    if not isinstance(use := entry.get("use"), str) or not use:
        wrong = "does not do" if "use" in entry else "is missing"
        faults.append(ConfigFault(f"{path}.use", wrong, f"name {KINDS}"))
        return None
    try:
        kind = policy_class(use, folder)
    except ObjectFault as error:
        faults.append(ConfigFault(f"{path}.use", f"{use!r} cannot be used: {error.wrong}", error.right))
        return None
    options = {key: value for key, value in entry.items() if key != "use"}
    policy = to_struct(kind, options, path, faults)
    if policy is not None and not policy.name:
        policy = msgspec.structs.replace(policy, name=use.rpartition(":")[2])
    if policy is not None and not _is_name(policy.name):
        right = f"write printable ASCII without quotes, and not {TEMPERATURE!r}: it stands in headers and profiles"
        faults.append(ConfigFault(f"{path}.name", f"{policy.name!r} does not do", right))
        return None
    return policy


def _is_name(name: str) -> bool:
    return name.isascii() and name.isprintable() and not set(name) & set('"\\') and name != TEMPERATURE


def policy_class(use: str, folder: Path) -> type[Policy]:
    """Return the class that `use` names: a built-in, an installed entry point, or "module:Class" (looked for in *folder* last).

    Raises `ObjectFault`.
    """
    if use in BUILT_IN:
        return BUILT_IN[use]
    found = load_object(lambda: _named(use, folder), folder)
    cure = f"derive it from policies.Policy and override one of {', '.join(HOOKS)}"
    if not (isinstance(found, type) and issubclass(found, Policy)):
        raise ObjectFault("it is no Policy", cure)
    if all(getattr(found, hook) is getattr(RunningPolicy, hook) for hook in HOOKS) and found.open is Policy.open:
        raise ObjectFault("it overrides no hook (is one misspelt?)", cure)
    try:
        get_type_hints(found, include_extras=True)
    except NameError as error:
        raise ObjectFault(f"it has a field of an unknown type: {error}", "import it outside of TYPE_CHECKING") from None
    return found


def _named(use: str, folder: Path) -> object:
    module, colon, name = use.partition(":")
    if not colon:
        installed = entry_points(group=GROUP, name=use)
        if not installed:
            names = (*BUILT_IN, *entry_points(group=GROUP).names)
            near = difflib.get_close_matches(use, names, n=1)
            raise ObjectFault("no such policy", f"did you mean {near[0]!r}?" if near else f"name {KINDS}")
        return next(iter(installed)).load()
    return object_of(module, name, folder, kind="class")
