"""Upstream's own count of tokens: read field by field, put together from all that it reports, believed within reason."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from policies.api.usage import Usage

MOST_TOKENS = 10_000_000
"""A number above it is none: no model has such a window, and one absurd report would use up a tenant's day."""
MOST_DIGITS = 20


class Details(msgspec.Struct, gc=False):
    """What is known of the prompt's tokens."""

    cached_tokens: int | None = None


class Reported(msgspec.Struct, gc=False):
    """One report."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None


def reported(value: object) -> Reported | None:
    """Return the report in *value*, decoded JSON; a field that is no number is taken as absent, and no other with it."""
    if not isinstance(value, dict):
        return None
    details = value.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Reported(
        prompt_tokens=_number(value.get("prompt_tokens")),
        completion_tokens=_number(value.get("completion_tokens")),
        prompt_tokens_details=Details(_number(cached)),
    )


def _number(value: Any) -> int | None:
    if isinstance(value, float) and math.isfinite(value):
        return math.ceil(value) if value >= 0 else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _believed(number: int | None, known: int | None) -> int | None:
    return number if number is not None and 0 <= number <= MOST_TOKENS else known


class Report(msgspec.Struct, eq=False, gc=False):
    """What the reports of one answer come to: each field is the last number that was given for it.

    A negative number is none: it must not make a call free.
    """

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    read: int = 0
    """How many tokens of output had been read when `completion` was reported."""

    def take(self, report: Reported, read: int) -> None:
        """Add *report*, which came when *read* tokens of output had been read."""
        self.prompt = _believed(report.prompt_tokens, self.prompt)
        details = report.prompt_tokens_details
        if details is not None:
            self.cached = _believed(details.cached_tokens, self.cached)
        completion = _believed(report.completion_tokens, None)
        if completion is not None:
            self.completion, self.read = completion, read

    def usage(self, read: int, *, complete: bool) -> Usage:
        """Return what the answer has cost now that *read* tokens of output have been read.

        The last word on a complete answer is believed.  Output that was read after a report is not in it; and the report of
        a broken stream is a lower bound.
        """
        prompt, unreported = (0, 1) if self.prompt is None else (self.prompt, 0)
        output = read
        if self.completion is not None:
            since = read - self.read
            output = self.completion if complete and not since else max(read, self.completion + since)
        return Usage(prompt, output, min(prompt, self.cached or 0), unreported)
