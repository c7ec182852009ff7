"""Select the calls to which a policy applies, and look up names by patterns."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Protocol, TypeAlias

import msgspec

Pattern: TypeAlias = str | list[str]


class MatchedCall(Protocol):
    """The fields of a call that `Match` reads. `Call` implements it."""

    path: str
    tenant: str

    @property
    def model(self) -> str:
        """The model's name."""
        ...

    @property
    def candidate_models(self) -> Sequence[str]:
        """All models that may serve the call."""
        ...

    @property
    def served_models(self) -> Sequence[str]:
        """The upstreams' names of them."""
        ...

    @property
    def has_completion(self) -> bool:
        """Whether a model serves the call."""
        ...


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Patterns with shell wildcards (`*`, `?`, `[a-z]`). All fields must match; in a list, one pattern suffices.

    `model` matches if one of the models that may serve the call matches, by the client's name or an upstream's, in any
    case. If one of these names is not known yet, it matches too.
    """

    path: Pattern = "*"
    tenant: Pattern = "*"
    model: Pattern = "*"

    def covers(self, call: MatchedCall) -> bool:
        """Whether *call*, in its current state, matches all fields. Called about twice per policy and call."""
        path = self.path
        if path != "*" and not (_matches(call.path, path) if isinstance(path, str) else _fits(call.path, path)):
            return False
        return (self.tenant == "*" or _fits(call.tenant, self.tenant)) and (
            self.model == "*" or _any_fits(call, self.model)
        )


def longest_match(name: str, patterns: Collection[str], *, ignore_case: bool = False) -> str | None:
    """Return *name* itself if it is one of *patterns*, else the longest pattern that matches it, else None.

    Used to look up prices and model names by the client's name of a model.  An empty *name* matches no pattern.  Prices
    *ignore_case*: some servers do (deployments of Azure), and another spelling must not get another price.
    """
    if name in patterns:
        return name
    if ignore_case:
        folded = name.lower()
        found = (pattern for pattern in patterns if name and fnmatchcase(folded, pattern.lower()))
    else:
        found = (pattern for pattern in patterns if name and fnmatchcase(name, pattern))
    return max(found, key=len, default=None)


def _any_fits(call: MatchedCall, pattern: Pattern) -> bool:
    if not call.has_completion:
        return _fits_model(call.model, pattern)
    names = call.served_models
    return "" in names or any(_fits_model(name, pattern) for name in (*filter(None, call.candidate_models), *names))


def _fits_model(name: str, pattern: Pattern) -> bool:
    """Whether *name* matches *pattern*; case is ignored, because some servers ignore it in names of models."""
    folded = name.lower()
    if isinstance(pattern, str):
        return _matches(folded, pattern.lower())
    return any(_matches(folded, each.lower()) for each in pattern)


def _fits(value: str, pattern: Pattern) -> bool:
    if isinstance(pattern, str):
        return _matches(value, pattern)
    return any(_matches(value, each) for each in pattern)


@functools.lru_cache(1024)
def _matches(value: str, pattern: str) -> bool:
    return value == pattern or fnmatchcase(value, pattern)
