"""TOML tables to settings objects, key by key, so that every fault is found and named by its path."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

T = TypeVar("T")

LARGEST = 2**53 - 1
"""Whole numbers beyond this one do not come through JSON and the stores unharmed."""
EXAMPLE = "see `sidecar config` for an example"

_PATH = re.compile(r" - at `\$(.*)`$")
_EXPECTED = re.compile(r"^Expected `(.+?)`(?:, got `.+`|( .+))$")
_FIELD = re.compile(r"^(\w+)((?:\[\d+\])*): (.+)$", re.DOTALL)
_NAMES = {"int": "a whole number", "float": "a number", "str": "a string", "bool": "true or false", "array": "a list"}
_NAMES |= {"object": "a table", "list": "a list", "tuple": "a list", "dict": "a table"}


class ConfigFault(msgspec.Struct, frozen=True):
    """One thing that is wrong in a configuration: where, what, and what would be right."""

    path: str
    wrong: str
    right: str

    def line(self, source: str) -> str:
        """Return the fault as one line of `sidecar check`."""
        return " ".join(f"{source}: {self.path}: {self.wrong}, {self.right}".split())


class ConfigError(Exception):
    """A configuration that cannot be used; *faults* are all that was found."""

    def __init__(self, source: str, faults: Iterable[ConfigFault]) -> None:
        self.source, self.faults = source, list(faults)
        super().__init__("\n".join(fault.line(source) for fault in self.faults))


def to_struct(kind: type[T], table: object, path: str, faults: list[ConfigFault]) -> T | None:
    """Return *table* as a *kind* (a struct); on faults, which are added to *faults*, None."""
    if not isinstance(table, dict):
        faults.append(ConfigFault(path, f"{_shown(table)} is no table", "write its keys below a [table] of that name"))
        return None
    before = len(faults)
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind, include_extras=True)
    values = {}
    for key, value in table.items():
        if key not in fields:
            faults.append(unknown(f"{path}.{key}", key, fields))
            continue
        values[fields[key].name] = to_value(hints[fields[key].name], value, f"{path}.{key}", faults)
    for key, field in fields.items():
        if field.required and key not in table:
            faults.append(
                ConfigFault(f"{path}.{key}", "is missing", f"it must be given: {_described(hints[field.name])}")
            )
    if len(faults) > before:
        return None
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        faults.append(said(error, path, fields))
        return None


def single_field(kind: type[T], field: str, value: str, path: str, faults: list[ConfigFault]) -> T | None:
    """Return a *kind* of which *value*, from the variable or flag *path*, is the one *field*; on faults, None."""
    found: list[ConfigFault] = []
    struct = to_struct(kind, {field: value}, path, found)
    faults += [msgspec.structs.replace(fault, path=path) for fault in found]
    return struct


def to_value(kind: Any, value: object, path: str, faults: list[ConfigFault]) -> Any:
    """Return *value* as a *kind*; on a fault, which is added to *faults*, None."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return to_struct(kind, value, path, faults)
    if (strange := _strange(value, path)) is not None:
        faults.append(strange)
        return None
    if isinstance(value, dict) and get_origin(kind) is dict:
        # msgspec says that a value of a mapping is wrong, but not which.
        before = len(faults)
        for key, each in value.items():
            to_value(get_args(kind)[1], each, f"{path}.{key}", faults)
        if len(faults) > before:
            return None
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, TypeError) as error:
        message = str(error)
        inner = _PATH.search(message)
        where, message = (inner[1], message[: inner.start()]) if inner else ("", message)
        right = f"it must be {_explained(message, kind)}"
        faults.append(ConfigFault(path + where, f"{_shown(_at(value, where))} does not do", right))
        return None


def unknown(path: str, key: str, known: Iterable[str]) -> ConfigFault:
    """Return the fault of a key that nobody reads, with the nearest one that somebody does."""
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1)
    right = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(names) or 'nothing'}"
    return ConfigFault(path, "is not known", right)


def said(error: Exception, path: str, fields: Iterable[str]) -> ConfigFault:
    """Return the fault that a settings object found in itself: `wrong; right`, behind `field: ` if one is to blame."""
    words = str(error) or type(error).__name__
    if (match := _FIELD.match(words)) and match[1] in fields:
        path, words = f"{path}.{match[1]}{match[2]}", match[3]
    wrong, _, right = words.partition("; ")
    return ConfigFault(path, wrong, right or EXAMPLE)


def _strange(value: object, path: str) -> ConfigFault | None:
    if isinstance(value, float) and not math.isfinite(value):
        return ConfigFault(path, f"{value} does not do", "it must be a finite number")
    if isinstance(value, int) and abs(value) > LARGEST:
        return ConfigFault(path, f"{_shown(value)} does not do", f"it must be at most {LARGEST}")
    return None


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004  # a line stays readable


def _at(value: Any, where: str) -> Any:
    for index in re.findall(r"\[(\d+)\]", where):
        value = value[int(index)]
    return value


def _explained(message: str, kind: Any) -> str:
    if message.startswith("Invalid enum value") and (options := list(_options(kind))):
        return f"one of {', '.join(options)}"
    if match := _EXPECTED.search(message):
        kinds = [name for name in match[1].split(" | ") if name != "null"]
        return " or ".join(_NAMES.get(name, name) for name in kinds) + (match[2] or "")
    return f"of another kind ({message})"


def _options(kind: Any) -> Iterable[str]:
    if get_origin(kind) is Literal:
        return dict.fromkeys(map(str, get_args(kind)))
    return dict.fromkeys(option for inner in get_args(kind) for option in _options(inner))


def _described(kind: Any) -> str:
    base = get_origin(kind) or kind
    if isinstance(getattr(kind, "__metadata__", None), tuple):
        base = get_args(kind)[0] if get_args(kind) else kind.__origin__
    name = getattr(base, "__name__", str(base))
    return _NAMES.get(name, name)
