"""Check the methods of a policy or lease class when it is defined, and describe how to correct each mistake."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Final, NamedTuple

CLOSE_MATCH = 0.8
"""Similarity (0 to 1) above which a public method counts as a misspelt hook."""


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
_ON_POLICY = {name: f"define {name} on the policy" for name in ("admit", "enter", "retry", "start", "stop")}
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

    Called per class.
    """
    by_name = {hook.name: hook for hook in hooks}
    for name, value in vars(cls).items():
        method = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        if name.startswith("_") or not isinstance(method, FunctionType):
            continue
        where = f"{cls.__name__}.{name}"
        if (hook := by_name.get(name)) is not None:
            _check_call(where, method, hook, bound=0 if isinstance(value, staticmethod) else 1)
        elif name in cures:
            raise HookError(f"{where} is never called", cures[name])
        elif near := difflib.get_close_matches(name, by_name, n=1, cutoff=CLOSE_MATCH):
            raise HookError(
                f"{where} is never called", f"did you mean {near[0]}? Otherwise start its name with an underscore"
            )


def _check_call(where: str, method: FunctionType, hook: Hook, *, bound: int) -> None:
    inner = inspect.unwrap(method)
    is_async = inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(inner)
    if hook.is_async and not is_async:
        raise HookError(f"{where} is awaited", f"write `async def {hook.name}`")
    if not hook.is_async and (is_async or inspect.isasyncgenfunction(inner)):
        raise HookError(f"{where} is called without await", f"write `def {hook.name}`, without async")
    if not hook.is_async and not hook.may_yield and inspect.isgeneratorfunction(inner):
        raise HookError(f"{where} is a generator", "return the value instead of yielding it")
    try:
        inspect.signature(method).bind(*range(bound + hook.arguments))
    except TypeError:
        count = f"{hook.arguments or 'no'} argument{'' if hook.arguments == 1 else 's'}"
        raise HookError(f"{where} is called with {count}", f"let it take {count} beside self") from None
