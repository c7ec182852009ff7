"""Select the calls to which a policy applies, and look up names by patterns."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Sequence
from fnmatch import translate
from typing import Protocol, TypeAlias

import msgspec

Pattern: TypeAlias = str | list[str]

MAX_REMEMBERED_NAME = 256
"""Characters of a name whose matches are remembered; longer names are matched each time."""
REMEMBERED_MATCHES, COMPILED_PATTERN_SETS = 1024, 4096


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

    def covers_path(self, path: str) -> bool:
        """Whether calls of *path* may match."""
        return self.path == "*" or _fits(path, self.path)


class PatternSet:
    """Shell patterns, compiled into one regular expression: a name is matched once, however many patterns there are.

    The regular expressions of `fnmatch.translate` do not backtrack, so the time is linear in the length of the name.
    """

    __slots__ = ("_expression", "_ignores_case", "_longest_first")

    def __init__(self, patterns: Collection[str], *, ignore_case: bool = False) -> None:
        self._longest_first = sorted(dict.fromkeys(patterns), key=len, reverse=True)
        self._ignores_case = ignore_case
        written = [each.lower() if ignore_case else each for each in self._longest_first]
        self._expression = re.compile("|".join(f"({translate(each)})" for each in written) or "(?!)")

    def longest(self, name: str) -> str | None:
        """Return the longest pattern that matches *name*, the first one among those of equal length; None without one."""
        found = self._expression.match(name.lower() if self._ignores_case else name)
        return None if found is None or found.lastindex is None else self._longest_first[found.lastindex - 1]


def longest_match(name: str, patterns: Collection[str], *, ignore_case: bool = False) -> str | None:
    """Return *name* itself if it is one of *patterns*, else the longest pattern that matches it, else None.

    Used to look up prices and model names by the client's name of a model.  An empty *name* matches no pattern.  Prices
    *ignore_case*: some servers do (deployments of Azure), and another spelling must not get another price.
    """
    if name in patterns:
        return name
    return _longest(name, tuple(patterns), ignore_case=ignore_case) if name else None


def matches_any(name: str, patterns: Sequence[str]) -> bool:
    """Return whether *name* matches one of *patterns*."""
    return _longest(name, tuple(patterns)) is not None


def _any_fits(call: MatchedCall, pattern: Pattern) -> bool:
    if not call.has_completion:
        others = call.served_models if call.model else ()
        return any(_fits_model(name, pattern) for name in (call.model, *others))
    names = call.served_models
    return "" in names or any(_fits_model(name, pattern) for name in (*filter(None, call.candidate_models), *names))


def _fits_model(name: str, pattern: Pattern) -> bool:
    """Whether *name* matches *pattern*; case is ignored, because some servers ignore it in names of models."""
    folded = name.lower()
    if isinstance(pattern, str):
        return _matches(folded, pattern.lower())
    return (
        any(folded == each.lower() for each in pattern) or _longest(name, tuple(pattern), ignore_case=True) is not None
    )


def _fits(value: str, pattern: Pattern) -> bool:
    if isinstance(pattern, str):
        return _matches(value, pattern)
    return value in pattern or matches_any(value, pattern)


@functools.lru_cache(REMEMBERED_MATCHES)
def _matches(value: str, pattern: str) -> bool:
    return value == pattern or _found(value, (pattern,)) is not None


def _longest(name: str, patterns: tuple[str, ...], *, ignore_case: bool = False) -> str | None:
    """Return the longest of *patterns* that matches *name*; the result is remembered unless the name is long."""
    return (_remembered if len(name) <= MAX_REMEMBERED_NAME else _found)(name, patterns, ignore_case=ignore_case)


def _found(name: str, patterns: tuple[str, ...], *, ignore_case: bool = False) -> str | None:
    return _compiled(patterns, ignore_case=ignore_case).longest(name)


_remembered = functools.lru_cache(REMEMBERED_MATCHES)(_found)
_compiled = functools.lru_cache(COMPILED_PATTERN_SETS)(PatternSet)
