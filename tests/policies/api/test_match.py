"""Patterns: which entry of a table of names applies to a model."""

from __future__ import annotations

import pytest

from policies.api.match import longest_match

PATTERNS = ["*", "gpt-*", "gpt-4o*", "gpt-4o-mini", "[a-c]?", "a?"]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o-2024", "gpt-4o*"),
        ("gpt-5", "gpt-*"),
        ("GPT-5", "*"),
        ("ab", "[a-c]?"),
        ("gpt-*", "gpt-*"),
    ],
)
def test_longest_match(name: str, pattern: str) -> None:
    """The exact name wins, then the longest pattern that matches; case counts."""
    assert longest_match(name, PATTERNS) == pattern
    assert longest_match(name, dict.fromkeys(PATTERNS)) == pattern


def test_no_match() -> None:
    """A name without a matching pattern has no entry, and an empty name matches no pattern."""
    assert longest_match("llama", ["gpt-*", "llam"]) is None
    assert longest_match("", PATTERNS) is None
    assert longest_match("llama", []) is None
