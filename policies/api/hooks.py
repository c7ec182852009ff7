"""Check the methods of a policy or lease class when it is defined, and describe how to correct each mistake."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, Final, NamedTuple, cast

OWN_PACKAGES = frozenset({"policies", "msgspec"})
"""Top-level packages whose classes are not checked."""


class Hook(NamedTuple):
    """One method that the chain calls, its number of arguments, and whether it is awaited or may be a generator."""

    name: str
    arguments: int
    is_async: bool = False
    may_yield: bool = False


class HookError(TypeError):
    """A policy or lease class that cannot work. `problem` and `cure` are the two parts of the message."""

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(f"{problem}; {cure}")
        self.problem, self.cure = problem, cure


POLICY_HOOKS: Final = (
    Hook("admit", 1, is_async=True),
    Hook("enter", 1, is_async=True),
    Hook("retry", 2),
    Hook("limits_for", 1, may_yield=True),
    Hook("start", 1),
    Hook("stop", 0, is_async=True),
)
LEASE_HOOKS: Final = (
    Hook("claims", 0, may_yield=True),
    Hook("charge", 2),
    Hook("refusal", 2),
    Hook("on_event", 1),
    Hook("flush", 0, may_yield=True),
    Hook("settle", 1, is_async=True),
)
_ON_LEASE = {hook.name: f"define {hook.name} on the lease that admit returns" for hook in LEASE_HOOKS}
_ON_POLICY = {
    name: f"define {name} on the policy" for name in ("admit", "enter", "retry", "limits_for", "start", "stop")
}
POLICY_CURES: Final[Mapping[str, str]] = {
    **_ON_LEASE,
    "open": "it is now called start",
    "close": "it is now called stop",
    "event": "define it on the lease that admit returns, as on_event",
    "end": "define it on the lease that admit returns, as flush",
}
"""Public methods that a policy must not have, with the correction."""
LEASE_CURES: Final[Mapping[str, str]] = {
    **_ON_POLICY,
    "event": "it is now called on_event",
    "end": "it is now called flush",
}
"""Public methods that a lease must not have, with the correction."""


def check_hooks(cls: type, hooks: Sequence[Hook], cures: Mapping[str, str]) -> None:
    """Raise `HookError` for a misspelt hook, a hook of another class, or one with another signature.

    It checks what *cls* defines and what it inherits from classes outside this package, such as mixins. Called per class.
    """
    by_name = {hook.name: hook for hook in hooks}
    defined = _definitions(cls)
    for name, (owner, value) in defined.items():
        if name.startswith("_") or _is_ours(owner):
            continue
        where = f"{cls.__name__}.{name}"
        if (hook := by_name.get(name)) is not None:
            _check_hook(where, cls, value, hook)
        elif name in cures:
            if _is_method(value):
                raise HookError(f"{where} is never called", cures[name])
        elif (near := _misspelt(cls, name, hooks, defined)) is not None:
            raise HookError(
                f"{where} is never called", f"did you mean {near}? Otherwise start its name with an underscore"
            )
    for base in cls.__mro__:
        if _is_ours(base) or vars(base).get("_is_protocol", False):
            continue
        for name in by_name.keys() & vars(base).keys():
            hiding = defined[name][0]
            if _is_ours(hiding) and not getattr(vars(base)[name], "__isabstractmethod__", False):
                problem = f"{base.__name__}.{name} is never called: {hiding.__name__}.{name} comes before it"
                raise HookError(problem, f"list {base.__name__} first among the bases of {cls.__name__}")


def _definitions(cls: type) -> dict[str, tuple[type, object]]:
    """Return each attribute of *cls* by name, with the class of its MRO that defines it."""
    found: dict[str, tuple[type, object]] = {}
    for base in cls.__mro__:
        for name, value in vars(base).items():
            found.setdefault(name, (base, value))
    return found


def _is_ours(cls: type) -> bool:
    """Whether *cls* is a class of this package, whose hooks are correct, or of what it is built on."""
    return cls.__module__.partition(".")[0] in OWN_PACKAGES


def _is_method(value: object) -> bool:
    """Whether an old version would have called *value*: any callable or descriptor, but no field."""
    return callable(value) or (hasattr(type(value), "__get__") and not inspect.ismemberdescriptor(value))


def _misspelt(cls: type, name: str, hooks: Sequence[Hook], defined: Mapping[str, tuple[type, object]]) -> str | None:
    """Return the hook that *name* is one typing error away from, if any.

    If the class that defines *name* also defines the hook, or the signatures differ, *name* is a method of the author's own.
    """
    owner, value = defined[name]
    if not isinstance(value, FunctionType | staticmethod | classmethod | functools.partialmethod):
        return None
    for hook in hooks:
        if hook.name not in vars(owner) and _one_typing_error(name, hook.name) and _fits(cls, value, hook):
            return hook.name
    return None


def _one_typing_error(name: str, hook: str) -> bool:
    """Whether *name* is *hook* but for case, underscores, and one character that is missing, added, wrong or swapped."""
    name, hook = name.lower().replace("_", ""), hook.replace("_", "")
    if name == f"{hook}d":  # a participle: charged, settled
        return False
    while name and hook and name[0] == hook[0]:
        name, hook = name[1:], hook[1:]
    is_swapped = name[:2] == hook[1::-1] and name[2:] == hook[2:]
    return is_swapped or name[1:] == hook[1:] or name[1:] == hook or name == hook[1:]


def _fits(cls: type, value: object, hook: Hook) -> bool:
    method, bound = _callable_of(cls, value)
    return hook.is_async == _is_async(method) and _takes(method, bound + hook.arguments)


def _check_hook(where: str, cls: type, value: object, hook: Hook) -> None:
    """Raise `HookError` unless the chain can call *value*, found on *cls*, as *hook*."""
    keyword = "async def" if hook.is_async else "def"
    if inspect.ismemberdescriptor(value):
        raise HookError(f"{where} is a field, but the chain calls {hook.name}", "give the field another name")
    if not callable(value) and not isinstance(value, staticmethod | classmethod | functools.partialmethod):
        raise HookError(
            f"{where} is a {type(value).__name__}, but the chain calls it", f"write `{keyword} {hook.name}`"
        )
    method, bound = _callable_of(cls, value)
    inner, is_async = _unwrapped(method), _is_async(method)
    if hook.is_async and not is_async:
        raise HookError(f"{where} is awaited", f"write `async def {hook.name}`")
    if not hook.is_async and (is_async or inspect.isasyncgenfunction(inner)):
        raise HookError(f"{where} is called without await", f"write `def {hook.name}`, without async")
    if not hook.is_async and not hook.may_yield and inspect.isgeneratorfunction(inner):
        raise HookError(f"{where} is a generator", "return the value instead of yielding it")
    if not _takes(method, bound + hook.arguments):
        count = f"{hook.arguments or 'no'} argument{'' if hook.arguments == 1 else 's'}"
        raise HookError(f"{where} is called with {count}", f"let it take {count} beside self")


def _callable_of(cls: type, value: object) -> tuple[Callable[..., object], int]:
    """Return what is called for the attribute *value* of *cls*, and how many arguments Python adds (`self`)."""
    if isinstance(value, staticmethod | classmethod):
        return value.__func__, int(isinstance(value, classmethod))
    if isinstance(value, functools.partialmethod):
        return value.__get__(None, cls), 1
    assert callable(value)  # for the type: the callers have checked it
    return value, int(hasattr(type(value), "__get__"))


def _unwrapped(method: Callable[..., object]) -> Callable[..., object]:
    """Return the function that *method* ends in: below decorators, partial applications and `__call__`."""
    inner: Any = method
    while True:
        partial = getattr(inner, "__partialmethod__", None) or getattr(
            inner, "_partialmethod", None
        )  # from Python 3.13
        if isinstance(inner, functools.partial):
            inner = inner.func
        elif isinstance(partial, functools.partialmethod):
            inner = partial.func
        elif hasattr(inner, "__wrapped__"):
            inner = inner.__wrapped__
        elif isinstance(call := type(inner).__call__, FunctionType):
            inner = call
        else:
            return cast("Callable[..., object]", inner)


def _is_async(method: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(_unwrapped(method))


def _takes(method: Callable[..., object], count: int) -> bool:
    """Whether *method* can be called with *count* positional arguments."""
    try:
        inspect.signature(method).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # written in C, without a signature
        return True
    return True
