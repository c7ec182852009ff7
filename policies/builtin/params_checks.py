"""Check the options of the policy `params` at start: which fields it may change, and the values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from policies.api.call import LIMIT_FIELDS, MANY_FIELDS

MAX_CHANGED_FIELDS = 64
"""Fields that one policy changes, in all options together."""
MAX_VALUE_BYTES = 16_384
"""Size of all values of one policy as JSON: they are copied into each request."""
MAX_COPIED_VALUES = 1_000
"""Values in all lists and tables of one policy. Measured: 0.5 to 1 us to copy one."""
MAX_VALUE_LEVELS = 32
"""Levels of lists and tables in one value."""
MAX_EXACT_INTEGER = 2**53 - 1
"""JSON readers represent larger whole numbers inexactly."""
CEILING_FIELDS = frozenset(LIMIT_FIELDS)
"""Fields for the ceiling of an answer. A call has one ceiling; these are its names."""
LOWERED_FIELDS = frozenset({"max_tool_calls"})
"""Further ceilings that a client may set. `set` only lowers them."""
_IN_OTHER_POLICY = "change it in a policy of your own"
_BY_CLIENT = "remove it: the client alone sets it"
GOVERNED_FIELDS = {
    **dict.fromkeys(("model", "models"), "use `models` of the [[upstream]] to send another name"),
    **dict.fromkeys(("messages", "prompt", "input", "system", "instructions", "suffix"), _IN_OTHER_POLICY),
    **dict.fromkeys(MANY_FIELDS, _IN_OTHER_POLICY),
    **dict.fromkeys(("stream", "stream_options", "background", "previous_response_id", "conversation"), _BY_CLIENT),
}
"""Fields that no option may change, with the cure: limits, allow-lists and prices read them, or they belong to a tenant."""
MOVED_CEILING_CURE = "use `set` to lower it, or `limit_field` of the [[upstream]] for its name"
FIXED_NAMES = {
    **dict.fromkeys((*CEILING_FIELDS, *LOWERED_FIELDS), MOVED_CEILING_CURE),
    **dict.fromkeys(("service_tier", "store", "user"), "use `set`, `default` or `drop` for it"),
}
"""Fields that `rename` may not have on either side: ceilings, and fields whose values are checked before the chain."""
_LOWERED_ONLY = CEILING_FIELDS | LOWERED_FIELDS
_CHECKED_NAMES = frozenset((*GOVERNED_FIELDS, *FIXED_NAMES))
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
PLAIN_TYPES = (str, int, float, type(None))
"""Types of values that are numbers, strings, switches or null."""


class FieldChanges(Protocol):
    """The options that are checked."""

    @property
    def default(self) -> Mapping[str, Any]:
        """Values of fields that are absent or null."""
        ...

    @property
    def set(self) -> Mapping[str, Any]:
        """Values of fields that replace the client's."""
        ...

    @property
    def drop(self) -> Sequence[str]:
        """Fields that are removed."""
        ...

    @property
    def rename(self) -> Mapping[str, str]:
        """New names by old ones."""
        ...


def change_faults(changes: FieldChanges) -> Iterator[Iterator[str]]:
    """Yield the faults of *changes* by kind, each as `option.field: problem; cure`."""
    yield from (
        check(changes) for check in (_size_faults, _name_faults, _rename_faults, _value_faults, _ceiling_faults)
    )


def _size_faults(changes: FieldChanges) -> Iterator[str]:
    changed = len(changes.default) + len(changes.set) + len(changes.drop) + len(changes.rename)
    if not changed:
        yield "the policy changes no field; add `default`, `set`, `drop` or `rename`"
    if changed > MAX_CHANGED_FIELDS:
        yield f"{changed} fields are too many; list at most {MAX_CHANGED_FIELDS}, or use several policies"


def _name_faults(changes: FieldChanges) -> Iterator[str]:
    """Yield a fault for each name that may not be changed, or that two options change."""
    seen: dict[str, str] = {}
    for place, name in _names(changes):
        fault = _name_fault(name) or _cannot_change(name)
        if fault is None and name in seen:
            fault = f"{name!r} is already changed by {seen[name]}; keep one of the two"
        if fault is None and name in _LOWERED_ONLY and place.startswith("drop"):
            fault = f"{name!r} is a ceiling, which may only be lowered; {MOVED_CEILING_CURE}"
        if fault is not None:
            yield f"{place}: {fault}"
        if not (name in _LOWERED_ONLY and place.startswith("set")):  # a ceiling may have a default too
            seen.setdefault(name, place)


def _names(changes: FieldChanges) -> Iterator[tuple[str, str]]:
    """Yield the place and the name of each field that is set, dropped or moved away."""
    for option, names in (("rename", changes.rename), ("set", changes.set), ("default", changes.default)):
        yield from ((_place(option, name), name) for name in names)
    yield from ((f"drop[{at}]", name) for at, name in enumerate(changes.drop))


def _rename_faults(changes: FieldChanges) -> Iterator[str]:
    """Yield the faults of the names on both sides of `rename`, beyond those of `_name_faults`."""
    for old, new in changes.rename.items():
        fault = _name_fault(new) or _cannot_change(new)
        if fault is None:
            fault = next((_not_renamed(name) for name in (old, new) if name in FIXED_NAMES), None)
        if fault is None and (new in changes.rename or new in changes.set or new in changes.drop):
            fault = f"{new!r} is changed by another option too; keep one of the two"
        if fault is not None:
            yield f"{_place('rename', old)}: {fault}"


def _value_faults(changes: FieldChanges) -> Iterator[str]:
    is_json = True
    for option, table in (("default", changes.default), ("set", changes.set)):
        for name, value in table.items():
            fault = _ceiling_fault(value) if name in _LOWERED_ONLY else _value_fault(value)
            if fault is not None:
                is_json = False
                yield f"{_place(option, name)}: {fault}"
    if not is_json:
        return
    if (size := len(msgspec.json.encode([changes.default, changes.set]))) > MAX_VALUE_BYTES:
        yield f"the values have {size} bytes as JSON; use at most {MAX_VALUE_BYTES}"
    elif (count := sum(map(_count, (*changes.default.values(), *changes.set.values())))) > MAX_COPIED_VALUES:
        yield f"the lists and tables have {count} values; use at most {MAX_COPIED_VALUES}"


def _count(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return len(inner) + sum(map(_count, inner))


def _ceiling_faults(changes: FieldChanges) -> Iterator[str]:
    """Yield a fault for a second ceiling in one table, and for a default above the ceiling that `set` sets."""
    first: dict[str, str] = {}
    for option, table in (("default", changes.default), ("set", changes.set)):
        for name in filter(CEILING_FIELDS.__contains__, table):
            if option in first:
                yield f"{_place(option, name)}: the ceiling is already set by {first[option]!r}; keep one of them"
            first.setdefault(option, name)
    pairs = [(name, name) for name in LOWERED_FIELDS if name in changes.default and name in changes.set]
    pairs += [(first["default"], first["set"])] if len(first) > 1 else []
    for usual, most in pairs:
        low, high = changes.default[usual], changes.set[most]
        if type(low) is int and type(high) is int and low > high:
            yield f"default.{usual}: {low} is above the {high} of `set`; lower it"


def _place(option: str, name: str) -> str:
    """Return the place of *name* in the table *option*; the table itself for a name that is no plain key."""
    return f"{option}.{name}" if _FIELD_NAME.fullmatch(name) else option


def _name_fault(name: str) -> str | None:
    if not _FIELD_NAME.fullmatch(name):
        right = "use the name of a field at the top level of the body: 1 to 64 letters, digits, '_' and '-'"
        return f"invalid name {name[:60]!r}; {right}"
    if name not in _CHECKED_NAMES and name.lower() in _CHECKED_NAMES:
        return f"must be spelt {name.lower()!r}, because some servers read both as one field; correct the name"
    return None


def _cannot_change(name: str) -> str | None:
    cure = GOVERNED_FIELDS.get(name)
    return None if cure is None else f"{name!r} cannot be changed, because limits depend on it; {cure}"


def _not_renamed(name: str) -> str:
    return f"{name!r} cannot be renamed, and no field can get its name; {FIXED_NAMES[name]}"


def _ceiling_fault(value: object) -> str | None:
    if type(value) is int and 1 <= value <= MAX_EXACT_INTEGER:
        return None
    return f"invalid value {str(value)[:60]}: expected a whole number >= 1; correct or remove it"


def _value_fault(value: object) -> str | None:
    """Return why *value* cannot be sent as JSON; None if it can."""
    level = [value]
    for _ in range(MAX_VALUE_LEVELS + 1):
        for each in level:
            if isinstance(each, int) and abs(each) > MAX_EXACT_INTEGER:
                return f"{each} is too large for JSON; use at most {MAX_EXACT_INTEGER}"
            if isinstance(each, float) and not math.isfinite(each):
                return f"{each} does not exist in JSON; use a finite number"
            if not isinstance(each, (*PLAIN_TYPES, list, dict)):
                return f"a {type(each).__name__} does not exist in JSON; write it as a string"
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return None
    return f"the value is nested too deeply; use at most {MAX_VALUE_LEVELS} levels"
