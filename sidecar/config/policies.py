"""Read `[[policy]]`: the base chain of built-in policies, installed entry points, and classes of modules."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple, get_type_hints

import msgspec

from policies.api.hooks import HookError
from policies.api.match import Match, matches_any
from policies.api.policy import CALL_HOOKS, Policy, RunningPolicy, check_policy
from policies.builtin.budget import Budget
from policies.builtin.fallback import Fallback
from policies.builtin.max_tokens import MaxTokens
from policies.builtin.params import Params
from policies.builtin.rate import Rate
from policies.builtin.retry import RetryClassifier
from policies.builtin.trim import Trim
from sidecar.wire.operations.responses import RESPONSES_API
from sidecar.wire.request.documented_fields import DOCUMENTED_FIELDS, FieldKind
from sidecar.wire.request.responses_request import has_server_tools

from .named_objects import ObjectFault, load_object, object_of
from .tables import ConfigFault, to_struct

ENTRY_POINT_GROUP = "chatnest_sidecar.policies"
BUILT_IN: Mapping[str, type[Policy]] = {
    "rate": Rate,
    "params": Params,
    "trim": Trim,
    "max_tokens": MaxTokens,
    "budget": Budget,
    "fallback": Fallback,
    "retry": RetryClassifier,
}
DEFAULTS_USE = "defaults"
"""Value of `use` that stands for the shipped chain."""
CHANGE_DEFAULTS_CURE = "to change a shipped policy, write the chain that `sidecar config` prints instead"
POLICY_SOURCES = f"a built-in policy ({', '.join(BUILT_IN)}), an installed one, or 'module:Class'"
TEMPERATURE_KEY = "temperature"
RESPONSES_PATH, TOOL_CALLS_FIELD = RESPONSES_API.path, RESPONSES_API.request.turns_field


class BaseChain(msgspec.Struct, frozen=True):
    """The policies of `[[policy]]` in file order.

    *paths* maps their names to key paths.  *broken* maps each possible name of a faulty policy to its class, None if that
    is unknown.
    """

    policies: tuple[Policy, ...]
    paths: Mapping[str, str]
    broken: Mapping[str, type[Policy] | None]


def uses_defaults(entries: object) -> bool:
    """Return whether `[[policy]]`, as in the file, keeps the shipped chain and profiles."""
    return not isinstance(entries, list) or any(map(_is_defaults, entries))


def base_chain(entries: object, shipped: Sequence[object], folder: Path, faults: list[ConfigFault]) -> BaseChain:
    """Return the policies of `[[policy]]`; an entry `use = "defaults"` stands for the *shipped* ones.

    *folder* is appended to the import path.
    """
    policies: list[Policy] = []
    broken: dict[str, type[Policy] | None] = {}
    doubled: dict[str, type[Policy] | None] = {}
    placed: dict[str, _Place] = {}
    for place, entry in _placed(entries, shipped, faults):
        name, kind, policy = _policy(entry, place.path, folder, faults)
        if name in placed:
            faults.append(_duplicate(name, placed[name], place))
            doubled[name] = kind
        elif name:
            placed[name] = place
        if policy is None:
            broken |= dict.fromkeys(_names(entry), kind)
            continue
        if (judge := _judge_before(policy, policies)) is not None:
            wrong = f"has no effect: the earlier policy {judge!r} decides every failure"
            right = f"move the fallback above {placed[judge].path}"
            if place.is_shipped:
                right = f'move {placed[judge].path} below `use = "defaults"`, whose fallback it precedes'
            faults.append(ConfigFault(place.path, wrong, right))
        policies.append(policy)
    # A profile may mean either of two policies with one name, so neither is compared with it.
    sound = tuple(policy for policy in policies if policy.name not in doubled)
    return BaseChain(sound, {name: place.path for name, place in placed.items()}, broken | doubled)


class _Place(NamedTuple):
    path: str
    is_shipped: bool


def _placed(entries: object, shipped: Sequence[object], faults: list[ConfigFault]) -> Iterator[tuple[_Place, object]]:
    """Yield each entry with its place; the shipped ones in place of `use = "defaults"`."""
    if not isinstance(entries, list):
        faults.append(ConfigFault("policy", "expected a list of tables", "write each policy below [[policy]]"))
        entries = [{"use": DEFAULTS_USE}]
    kept = ""
    for at, entry in enumerate(entries):
        path = f"policy[{at}]"
        if not _is_defaults(entry):
            yield _Place(path, is_shipped=False), entry
            continue
        for key in (each for each in entry if each != "use"):
            problem = 'cannot be set beside `use = "defaults"`, which stands for several policies'
            faults.append(ConfigFault(f"{path}.{key}", problem, f"remove it; {CHANGE_DEFAULTS_CURE}"))
        if kept:
            faults.append(ConfigFault(path, f'`use = "defaults"` is already at {kept}', "remove one of the two"))
            continue
        kept = path
        yield from ((_Place(path, is_shipped=True), each) for each in shipped)


def _is_defaults(entry: object) -> bool:
    return isinstance(entry, dict) and entry.get("use") == DEFAULTS_USE


def _duplicate(name: str, first: _Place, second: _Place) -> ConfigFault:
    """Return the fault of two policies with the same *name*."""
    if first.is_shipped == second.is_shipped:
        problem = f"{name!r} is already the name of {first.path}"
        return ConfigFault(second.path, problem, "set a different `name` on one of them")
    own, shipped = (second, first) if first.is_shipped else (first, second)
    problem = f'{name!r} is already the name of a shipped policy, which {shipped.path} (`use = "defaults"`) adds'
    return ConfigFault(own.path, problem, f"set a different `name`; {CHANGE_DEFAULTS_CURE}")


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
    """Return the names that a faulty `[[policy]]` may have; profiles may override these without a further fault."""
    table = entry if isinstance(entry, dict) else {}
    names = [name for name in (table.get("name"), table.get("use")) if isinstance(name, str)]
    meant = difflib.get_close_matches(names[-1], BUILT_IN, n=1) if len(names) == 1 else []
    return {name.rpartition(":")[2] for name in [*names, *meant]}


def _policy(
    entry: object, path: str, folder: Path, faults: list[ConfigFault]
) -> tuple[str, type[Policy] | None, Policy | None]:
    """Return name, class and policy of *entry*; an empty name or None for each that is unknown because of a fault."""
    if not isinstance(entry, dict):
        faults.append(ConfigFault(path, "expected a table", "write each policy below [[policy]]"))
        return "", None, None
    kind, use, name = None, entry.get("use"), entry.get("name", "")
    if not isinstance(use, str) or not use:
        wrong = "expected a non-empty string" if "use" in entry else "required key is missing"
        faults.append(ConfigFault(f"{path}.use", wrong, f"use {POLICY_SOURCES}"))
    else:
        try:
            kind = policy_class(use, folder)
        except ObjectFault as error:
            faults.append(ConfigFault(f"{path}.use", f"cannot use {use!r}: {error.problem}", error.cure))
        name = name or use.rpartition(":")[2]
    before = len(faults)
    policy = None
    if kind is not None:
        policy = to_struct(kind, {key: value for key, value in entry.items() if key != "use"}, path, faults)
    if isinstance(policy, Params):
        faults += (*_rename_faults(policy, f"{path}.rename"), *_tools_faults(policy, path))
    if not isinstance(name, str):
        return "", kind, None  # its type is a fault already, unless the class is not known
    if policy is not None:
        name = policy.name or name  # a class of the deployment may have a default of its own
    if name and not _is_name(name):
        right = (
            f"use printable ASCII without quotes, and not {TEMPERATURE_KEY!r}: headers and profiles contain the name"
        )
        faults.append(ConfigFault(f"{path}.name", f"invalid name {name!r}", right))
    if policy is None or len(faults) > before:
        return name, kind, None
    return name, kind, msgspec.structs.replace(policy, name=name)


def _rename_faults(policy: Params, path: str) -> Iterator[ConfigFault]:
    """Yield a fault for each field that clients' values would get whose meaning is not known: it could choose a model.

    The fields of a call are checked under the client's names, before the chain.
    """
    for old, new in policy.rename.items():
        if DOCUMENTED_FIELDS.get(new) is not FieldKind.SETTING:
            right = "use a documented one (docs/configuration.md) that holds a number, a word or a switch"
            yield ConfigFault(f"{path}.{old}", f"a client's value cannot get the name {new!r}", right)


def _tools_faults(policy: Params, path: str) -> Iterator[ConfigFault]:
    """Yield a fault for tools that the server runs in a Responses call without a bound of `max_tool_calls`.

    The bound of clients' requests is set before the chain. Budgets reserve the prompt once for each of these calls.
    """
    may_apply = matches_any(
        RESPONSES_PATH, [policy.match.path] if isinstance(policy.match.path, str) else policy.match.path
    )
    if not may_apply or TOOL_CALLS_FIELD in policy.set or TOOL_CALLS_FIELD in policy.default:
        return
    for option, values in (("set", policy.set), ("default", policy.default)):
        if has_server_tools(values):
            right = f"add {TOOL_CALLS_FIELD!r} to `set`, or select other paths by `only`"
            yield ConfigFault(
                f"{path}.{option}.tools",
                f"the server may call its own tools on {RESPONSES_PATH} without a bound",
                right,
            )


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
            names = (*BUILT_IN, DEFAULTS_USE, *entry_points(group=ENTRY_POINT_GROUP).names)
            near = difflib.get_close_matches(use, names, n=1)
            raise ObjectFault("unknown policy", f"did you mean {near[0]!r}?" if near else f"use {POLICY_SOURCES}")
        return next(iter(installed)).load()
    return object_of(module, name, folder, kind="class")
