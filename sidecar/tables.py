"""TOML tables to settings objects, key by key, so that every fault is found and named by its path."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

T = TypeVar("T")

_PATH = re.compile(r" - at `\$(.*)`$")
_EXPECTED = re.compile(r"Expected `(.+?)`, got `(.+?)`")
_BOUND = re.compile(r"Expected `(\w+)`( matching.*| [<>=].*| of length.*)")
_NAMES = {"int": "a whole number", "float": "a number", "str": "a string", "bool": "true or false", "array": "a list"}
_NAMES |= {"object": "a table", "null": "nothing"}


class ConfigFault(msgspec.Struct, frozen=True):
    """One thing that is wrong in a configuration: where, what, and what would be right."""

    path: str
    wrong: str
    right: str

    def line(self, source: str) -> str:
        """Return the fault as one line of `sidecar check`."""
        return f"{source}: {self.path}: {self.wrong}, {self.right}"


class ConfigError(Exception):
    """A configuration that cannot be used; *faults* are all that was found."""

    def __init__(self, source: str, faults: Iterable[ConfigFault]) -> None:
        self.source, self.faults = source, list(faults)
        super().__init__("\n".join(fault.line(source) for fault in self.faults))


def struct_from(kind: type[T], table: object, path: str, faults: list[ConfigFault]) -> T | None:
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
        converted = value_of(hints[fields[key].name], value, f"{path}.{key}", faults)
        values[key] = converted
    for name, field in fields.items():
        if field.required and name not in table:
            faults.append(
                ConfigFault(f"{path}.{name}", "is missing", f"it must be given: {_wanted(hints[field.name])}")
            )
    if len(faults) > before:
        return None
    try:
        return kind(**values)
    except ValueError as error:
        faults.append(ConfigFault(path, str(error), "see `sidecar config` for an example"))
        return None


def value_of(kind: Any, value: object, path: str, faults: list[ConfigFault]) -> Any:
    """Return *value* as a *kind*; on a fault, which is added to *faults*, None."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        return struct_from(kind, value, path, faults)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message = str(error)
        inner = _PATH.search(message)
        where = path + (inner[1].replace("[...]", "") if inner else "")
        choices = _choices(kind)
        right = f"one of {', '.join(choices)}" if choices and "enum" in message else _explained(message)
        faults.append(ConfigFault(where, f"{_shown(value)} does not do", f"it must be {right}"))
        return None


def unknown(path: str, key: str, known: Iterable[str]) -> ConfigFault:
    """Return the fault of a key that nobody reads, with the nearest one that somebody does."""
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1)
    right = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(names) or 'nothing'}"
    return ConfigFault(path, "is not known", right)


def _choices(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(each) for each in get_args(kind)]
    return list(dict.fromkeys(name for inner in get_args(kind) for name in _choices(inner)))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004  # a line stays readable


def _explained(message: str) -> str:
    message = _PATH.sub("", message)
    if match := _EXPECTED.search(message):
        kinds = [_NAMES.get(kind.strip(), kind.strip()) for kind in match[1].split("|")]
        return " or ".join(kinds)
    if match := _BOUND.search(message):
        return _NAMES.get(match[1], match[1]) + match[2]
    return message[0].lower() + message[1:]


def _wanted(kind: Any) -> str:
    base = getattr(kind, "__origin__", kind)
    return _NAMES.get(getattr(base, "__name__", str(base)), str(base))
