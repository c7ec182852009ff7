"""Which calls a policy is for."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from .call import Call

Pattern: TypeAlias = str | list[str]


class Only(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Patterns with shell wildcards (`*`, `?`, `[a-z]`); a call must fit each field, and one pattern of it suffices."""

    path: Pattern = "*"
    tenant: Pattern = "*"
    model: Pattern = "*"

    def covers(self, call: Call) -> bool:
        """Whether *call*, as it is now, is one of these."""
        return (
            (self.path == "*" or _fits(call.path, self.path))
            and (self.tenant == "*" or _fits(call.tenant, self.tenant))
            and (self.model == "*" or _fits(call.model, self.model))
        )


def _fits(value: str, pattern: Pattern) -> bool:
    if isinstance(pattern, str):
        return value == pattern or fnmatchcase(value, pattern)
    return any(_fits(value, each) for each in pattern)
