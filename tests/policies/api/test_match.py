"""Patterns: which entry of a table applies to a name, and which calls a policy covers."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Match
from policies.api.match import PatternSet, longest_match, matches_any
from policies.api.requests.request_form import MODELS_REQUEST
from policies.testing import make_call, make_services

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
def test_longest_matching_pattern_wins(name: str, pattern: str) -> None:
    """The exact name wins, then the longest pattern that matches; case counts."""
    assert longest_match(name, PATTERNS) == pattern
    assert longest_match(name, dict.fromkeys(PATTERNS)) == pattern


@pytest.mark.parametrize(
    ("name", "pattern"), [("GPT-5", "gpt-*"), ("Gpt-4o-Mini", "gpt-4o-mini"), ("B7", "[a-c]?"), ("X", "*")]
)
def test_case_can_be_ignored(name: str, pattern: str) -> None:
    """For prices, the longest pattern that matches in any case wins."""
    assert longest_match(name, PATTERNS, ignore_case=True) == pattern


@pytest.mark.parametrize("name", ["GPT-4o", "gpt-4O"])
def test_models_match_in_any_case(name: str) -> None:
    """A policy for a model covers calls that spell it in another case, because some servers ignore it."""
    call = make_call(services=make_services(), body={"model": name})
    assert Match(model="gpt-4*").covers(call)
    assert Match(model=["x", "GPT-4O"]).covers(call)
    assert not Match(model="gpt-5*").covers(call)


def test_name_without_a_pattern_has_no_match() -> None:
    """A name without a matching pattern has no entry, and an empty name matches no pattern."""
    assert longest_match("llama", ["gpt-*", "llam"]) is None
    assert longest_match("", PATTERNS) is None
    assert longest_match("llama", []) is None


@pytest.mark.parametrize(
    ("body", "names", "covered"),
    [
        ({"model": "gpt-4o"}, ["theirs"], True),
        ({"model": "cheap"}, ["cheap"], False),
        ({"model": "cheap"}, ["cheap", "gpt-4o"], True),
        ({"model": "cheap", "models": ["other", "gpt-4o"]}, ["cheap", "a", "b"], True),
        ({"model": ""}, ["cheap"], False),
        ({"model": ""}, ["cheap", ""], True),
    ],
)
def test_match_covers_each_model_that_may_serve(body: dict[str, Any], names: list[str], covered: bool) -> None:  # noqa: FBT001  # a column of the table
    """A match by model covers a call if any model that may serve it matches, or if that model is unknown."""
    services = make_services()
    services.names_of = lambda *_, **__: names
    call = make_call("hi", services=services, body=body)

    assert Match(model="gpt-4*").covers(call) is covered
    assert Match(model=["x", "gpt-4*"]).covers(call) is covered


def test_match_by_model_does_not_cover_model_lists() -> None:
    """A match by model does not cover requests for the list of models."""
    assert not Match(model="gpt-4*").covers(make_call(operation=MODELS_REQUEST, body={"model": None}))


PIECES = st.text(st.sampled_from("ab*?[]!-.|()\n\\"), max_size=6)


@given(st.lists(PIECES, max_size=6), PIECES)
def test_pattern_set_finds_what_each_pattern_finds(patterns: list[str], name: str) -> None:
    """A set of patterns finds the longest of those that match alone, the first one of equal length."""
    expected = max((each for each in patterns if fnmatchcase(name, each)), key=len, default=None)
    assert PatternSet(patterns).longest(name) == expected
    assert matches_any(name, patterns) is (expected is not None)


def test_pattern_set_may_be_large() -> None:
    """A set may have more patterns than `fnmatch` remembers, and long names."""
    patterns = [f"vendor-{at}-*" for at in range(3_000)]
    assert longest_match("vendor-2999-x", patterns) == "vendor-2999-*"
    assert longest_match("vendor-2999-" + "x" * 100_000, patterns) == "vendor-2999-*"
    assert not matches_any("vendor-3000-x", patterns)


@pytest.mark.parametrize(
    ("path", "covered"),
    [("*", True), ("/v1/*", True), (["/api/chat", "/v1/chat/*"], True), ("/api/chat", False), (["/api/*", "/v1/images"], False)],
)  # fmt: skip
def test_match_covers_the_path_of_its_calls(path: str | list[str], covered: bool) -> None:  # noqa: FBT001  # a column of the table
    """A match that covers a call covers its path; one that does not cover the path covers no call of it."""
    call = make_call("hi")
    assert call.path == "/v1/chat/completions"
    match = Match(path=path)
    assert (match.covers_path(call.path), match.covers(call)) == (covered, covered)
    assert Match(path=path, model="other").covers_path(call.path) is covered, "other conditions do not count"
