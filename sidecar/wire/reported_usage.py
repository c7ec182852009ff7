"""Usage that upstream reports: read field by field, merged over all reports of an answer, and bounded."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from policies.api.usage import Usage

MAX_REPORTED_TOKENS = 10_000_000
"""Larger numbers are ignored: no model has such a context, and one such report would exhaust a tenant's budget."""
MAX_TOKEN_DIGITS = 20


class PromptDetails(msgspec.Struct, gc=False):
    """`prompt_tokens_details` of a report."""

    cached_tokens: int | None = None


class Reported(msgspec.Struct, gc=False):
    """The `usage` object of one chunk or answer."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None


def read_report(value: object) -> Reported | None:
    """Return the report in *value*, decoded JSON, None if it is not an object; a field that is not a number is absent."""
    if not isinstance(value, dict):
        return None
    details = value.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Reported(
        prompt_tokens=_number(value.get("prompt_tokens")),
        completion_tokens=_number(value.get("completion_tokens")),
        prompt_tokens_details=PromptDetails(_number(cached)),
    )


def _number(value: Any) -> int | None:
    if isinstance(value, float) and math.isfinite(value):
        return math.ceil(value) if value >= 0 else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MAX_TOKEN_DIGITS:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _valid(number: int | None, known: int | None) -> int | None:
    return number if number is not None and 0 <= number <= MAX_REPORTED_TOKENS else known


class Report(msgspec.Struct, eq=False, gc=False):
    """All reports of one answer, merged: each field is the last valid number reported.

    Negative numbers are ignored: they must not make a call free.
    """

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    read: int = 0
    """Output tokens that had been read when `completion` was reported."""

    def take(self, report: Reported, read: int) -> None:
        """Merge *report*, which arrived after *read* output tokens."""
        self.prompt = _valid(report.prompt_tokens, self.prompt)
        details = report.prompt_tokens_details
        if details is not None:
            self.cached = _valid(details.cached_tokens, self.cached)
        completion = _valid(report.completion_tokens, None)
        if completion is not None:
            self.completion, self.read = completion, read

    def usage(self, read: int, *, complete: bool) -> Usage:
        """Return the usage of the answer after *read* output tokens.

        The last report of a *complete* answer is exact, output read after it is added, and a broken stream's report is a
        lower bound.
        """
        prompt, unreported = (0, 1) if self.prompt is None else (self.prompt, 0)
        output = read
        if self.completion is not None:
            since = read - self.read
            output = self.completion if complete and not since else max(read, self.completion + since)
        return Usage(prompt, output, min(prompt, self.cached or 0), unreported)
