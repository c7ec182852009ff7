"""Convert TOML tables to settings objects key by key, so that every fault is reported with its key path."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from policies.builtin.option_checks import UnknownValue

_T = TypeVar("_T")

MAX_WHOLE_NUMBER = 2**53 - 1
"""JSON readers and the stores represent larger whole numbers inexactly."""
SEE_EXAMPLE = "see `sidecar config` for an example"

_MESSAGE_PATH = re.compile(r" - at `\$(.*)`$")
_EXPECTED_MESSAGE = re.compile(r"^Expected `(.+?)`(?:, got `.+`|( .+))$")
_FIELD_MESSAGE = re.compile(r"^(\w+)((?:\[\d+\]|\.[\w-]+)*): (.+)$", re.DOTALL)
_URL_CREDENTIALS = re.compile("//.*@", re.DOTALL)
"""A user name and a password in a URL; a password may contain an unquoted `/` or `@`."""
_TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
}
_TYPE_NAMES |= {"object": "a table", "list": "a list", "tuple": "a list", "dict": "a table"}
_NOT_EMPTY = {"a string of length >= 1": "a non-empty string", "a list of length >= 1": "a non-empty list"}


class _Unknown:
    """Placeholder for the value of a faulty option while the others are checked. Any use of it raises `UnknownValue`."""

    def _refuse(self, *_: object) -> NoReturn:
        raise UnknownValue

    __getattr__ = __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = __call__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _refuse
    __str__ = __repr__ = __format__ = __int__ = __float__ = __index__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse


_UNKNOWN_VALUE = _Unknown()


class ConfigFault(msgspec.Struct, frozen=True):
    """One fault of a configuration: the key path, the problem and the cure."""

    path: str
    problem: str
    cure: str

    def line(self, source: str) -> str:
        """Return the fault as one line of `sidecar check`: `source: path: problem; cure`."""
        return " ".join(f"{source}: {self.path}: {self.problem}; {self.cure}".split())


class ConfigError(Exception):
    """Refusal of a configuration; *faults* lists every fault that was found."""

    def __init__(self, source: str, faults: Iterable[ConfigFault]) -> None:
        self.source, self.faults = source, list(faults)
        super().__init__("\n".join(fault.line(source) for fault in self.faults))


def to_struct(kind: type[_T], table: object, path: str, faults: list[ConfigFault]) -> _T | None:
    """Return *table* as an instance of the struct *kind*; add faults to *faults* and return None if there are any."""
    if not isinstance(table, dict):
        cure = "write it as { key = value }" if "[" in path or "." in path else f"write its keys below [{path}]"
        faults.append(ConfigFault(path, f"expected a table, found {_shown(table)}", cure))
        return None
    before = len(faults)
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind, include_extras=True)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            faults.append(unknown_key(f"{path}.{key}", key, fields))
            for near in difflib.get_close_matches(key, fields.keys() - table.keys(), n=1):
                values[fields[near].name] = _UNKNOWN_VALUE
            continue
        field, found = fields[key], len(faults)
        converted = to_value(hints[field.name], value, f"{path}.{key}", faults, cure=_default_of(field))
        values[field.name] = converted if len(faults) == found else _UNKNOWN_VALUE
    for key, field in fields.items():
        if field.required and key not in table:
            cure = f"set it to {_described(hints[field.name])}"
            faults.append(ConfigFault(f"{path}.{key}", "required key is missing", cure))
            values[field.name] = _UNKNOWN_VALUE
    if len(faults) > before:
        faults += _further_faults(kind, values, path, fields)
        return None
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        faults += faults_from_error(error, path, fields)
        return None


def _further_faults(kind: Any, values: dict[str, Any], path: str, fields: Iterable[str]) -> Iterator[ConfigFault]:
    """Yield the faults that the constructor of *kind* finds in the options without a fault of their own."""
    try:
        kind(**values)
    except ValueError as error:
        yield from (fault for fault in faults_from_error(error, path, fields) if fault.path != path)
    except (UnknownValue, Exception):  # noqa: BLE001  # it used the placeholder of a faulty option
        return


def single_field(kind: type[_T], field: str, value: str, path: str, faults: list[ConfigFault]) -> _T | None:
    """Return a *kind* whose only given *field* is *value*, from the variable or flag *path*; None if it has a fault."""
    found: list[ConfigFault] = []
    struct = to_struct(kind, {field: value}, path, found)
    faults += [msgspec.structs.replace(fault, path=path) for fault in found]
    return struct


def to_value(kind: Any, value: object, path: str, faults: list[ConfigFault], *, cure: str = SEE_EXAMPLE) -> Any:
    """Return *value* converted to the type *kind*; add a fault with *cure* to *faults* and return None if that fails."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return to_struct(kind, value, path, faults)
    if isinstance(value, dict) and (struct := _struct_in(kind)) is not None:
        return to_struct(struct, value, path, faults)
    if (expected := _out_of_range(value)) is not None:
        faults.append(_invalid(path, value, expected, cure))
        return None
    if (inner := _inner_type(kind, value)) is not None:
        # msgspec reports the first invalid element alone, and of a mapping not even its key.
        before = len(faults)
        for where, each in _elements(value):
            to_value(inner, each, f"{path}{where}", faults, cure=cure)
        if len(faults) > before:
            return None
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, TypeError) as error:
        message = str(error)
        found = _MESSAGE_PATH.search(message)
        where, message = (found[1], message[: found.start()]) if found else ("", message)
        faults.append(_invalid(path + where, _at(value, where), _expected(message, kind), cure))
        return None


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    """Return the struct that the union *kind* has for tables; None without one."""
    if get_origin(kind) not in (Union, UnionType):
        return None
    return next((each for each in get_args(kind) if isinstance(each, type) and issubclass(each, msgspec.Struct)), None)


def _inner_type(kind: Any, value: object) -> Any:
    """Return the type of the elements of *value*, a list or a table of the type *kind*; None for anything else."""
    wanted: tuple[type, ...] = (list, tuple) if isinstance(value, list) else (dict,) if isinstance(value, dict) else ()
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _inner_type(arguments[0], value)
    if origin in (Union, UnionType):
        return next((inner for each in arguments if (inner := _inner_type(each, value)) is not None), None)
    if origin not in wanted or (origin is tuple and arguments[1:] != (...,)):
        return None
    return arguments[1] if origin is dict else arguments[0]


def _elements(value: Any) -> Iterator[tuple[str, object]]:
    """Yield each element of a list or table, with the end of its key path."""
    if isinstance(value, dict):
        yield from ((f".{key}", each) for key, each in value.items())
    else:
        yield from ((f"[{at}]", each) for at, each in enumerate(value))


def unknown_key(path: str, key: str, known: Iterable[str]) -> ConfigFault:
    """Return the fault of the unknown *key*; the cure is the closest of the *known* ones, or their list."""
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1)
    cure = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(names) or 'none'}"
    return ConfigFault(path, "unknown key", cure)


def faults_from_error(error: Exception, path: str, fields: Iterable[str]) -> list[ConfigFault]:
    """Return the faults that the constructor of a settings object raised as `problem; cure`.

    The message may start with `field: `, where *fields* are the fields of the object; the fault then has that field's path.
    Each further line that starts so is a fault of its own.
    """
    known = "|".join(map(re.escape, fields))
    messages = re.split(rf"\n(?=(?:{known})(?:\[\d+\]|\.[\w-]+)*: )", str(error)) if known else [str(error)]
    found = []
    for message in messages:
        text, where = message or type(error).__name__, path
        if (match := _FIELD_MESSAGE.match(text)) and match[1] in fields:
            where, text = f"{path}.{match[1]}{match[2]}", match[3]
        problem, _, cure = text.partition("; ")
        found.append(ConfigFault(where, problem, cure or SEE_EXAMPLE))
    return found


def _invalid(path: str, value: object, expected: str, cure: str) -> ConfigFault:
    return ConfigFault(path, f"invalid value {_shown(value)}: expected {expected}", cure)


def _default_of(field: msgspec.structs.FieldInfo) -> str:
    """Return the cure that names the default of *field*, where it is a plain value."""
    default = field.default
    if not isinstance(default, bool | int | float | str) or default == "":
        return SEE_EXAMPLE
    shown = f"{default:g}" if isinstance(default, float) else _shown(default)
    return f"omit {field.encode_name} for the default {shown}"


def _out_of_range(value: object) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if isinstance(value, int) and abs(value) > MAX_WHOLE_NUMBER:
        return f"at most {MAX_WHOLE_NUMBER}"
    return None


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{ ... }"
    text = _URL_CREDENTIALS.sub("//", repr(value))
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004  # keeps a line readable


def _at(value: Any, where: str) -> Any:
    for index in re.findall(r"\[(\d+)\]", where):
        value = value[int(index)]
    return value


def _expected(message: str, kind: Any) -> str:
    """Return the expected type of msgspec's error *message* as text for users."""
    if message.startswith("Invalid enum value") and (options := list(_options(kind))):
        return f"one of {', '.join(options)}"
    if match := _EXPECTED_MESSAGE.search(message):
        kinds = [name for name in match[1].split(" | ") if name != "null"]
        bounds = (match[2] or "").removesuffix(".0")
        text = " or ".join(_TYPE_NAMES.get(name, name) for name in kinds) + _unit(kind) + bounds
        return _NOT_EMPTY.get(text, text)
    return f"another type ({message})"


def _unit(kind: Any) -> str:
    """Return ` of UNIT` for a type whose `msgspec.Meta` names a unit."""
    units = [(meta.extra or {}).get("unit") for meta in getattr(kind, "__metadata__", ())]
    return "".join(f" of {unit}" for unit in units if unit)


def _options(kind: Any) -> Iterable[str]:
    if get_origin(kind) is Literal:
        return dict.fromkeys(map(str, get_args(kind)))
    return dict.fromkeys(option for inner in get_args(kind) for option in _options(inner))


def _described(kind: Any) -> str:
    if described := next((meta.description for meta in getattr(kind, "__metadata__", ()) if meta.description), None):
        return str(described)
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_described(each) for each in get_args(kind) if each is not type(None))
    base = get_origin(kind) or kind
    if isinstance(getattr(kind, "__metadata__", None), tuple):
        base = get_args(kind)[0] if get_args(kind) else kind.__origin__
    name = getattr(base, "__name__", str(base))
    return _TYPE_NAMES.get(name, name)
