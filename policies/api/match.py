"""Which calls a policy is for."""

from __future__ import annotations

import functools
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from .call import Call

Pattern: TypeAlias = str | list[str]


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Patterns with shell wildcards (`*`, `?`, `[a-z]`); a call must fit each field, and one pattern of it suffices.

    A call is of each model that may serve it, by the client's name and by the upstreams': one of them that fits suffices.
    While one is not known yet, it fits.
    """

    path: Pattern = "*"
    tenant: Pattern = "*"
    model: Pattern = "*"

    def covers(self, call: Call) -> bool:
        """Whether *call*, as it is now, is one of these."""
        return (
            (self.path == "*" or _fits(call.path, self.path))
            and (self.tenant == "*" or _fits(call.tenant, self.tenant))
            and (self.model == "*" or _any_fits(call, self.model))
        )


def _any_fits(call: Call, pattern: Pattern) -> bool:
    if call.operation == "models":
        return _fits(call.model, pattern)
    names = call.served_models
    return "" in names or any(_fits(name, pattern) for name in (*filter(None, call.models), *names))


def _fits(value: str, pattern: Pattern) -> bool:
    if isinstance(pattern, str):
        return value == pattern or _matches(value, pattern)
    return any(_fits(value, each) for each in pattern)


@functools.lru_cache(1024)
def _matches(value: str, pattern: str) -> bool:
    return fnmatchcase(value, pattern)
