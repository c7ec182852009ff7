"""Changed limits: which lines a start logs, compared with the limits of the last start."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.api.claim import By, Claim, Unit
from policies.api.window import Calendar, Sliding, Window
from sidecar.server.limits.limit_changes import Countings, countings_of, described, limit_changes

UTC, BERLIN, MINUTE = Calendar("day"), Calendar("day", "Europe/Berlin"), Sliding(60.0)


def claim(policy: str, unit: Unit = "tokens", window: Window = UTC, by: By | None = "tenant", limit: int = 9) -> Claim:
    return Claim(policy=policy, identity="x", unit=unit, limit=limit, window=window, base=1, by=by)


def lines(before: list[Claim], after: list[Claim]) -> list[tuple[str, str]]:
    return [(level, text) for level, text in limit_changes(described(countings_of(before)), countings_of(after))]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (claim("b"), claim("b", window=BERLIN), ("warning", "limit 'b' has changed its window from day@UTC to day@Europe/Berlin: it counts anew from now; what was spent in the old counters (window day@UTC) stays there")),
        (claim("b"), claim("b", window=Calendar("month")), ("warning", "limit 'b' has changed its window from day@UTC to month@UTC: it counts anew from now; what was spent in the old counters (window day@UTC) stays there")),
        (claim("b"), claim("b", "usd"), ("warning", "limit 'b' has changed its unit from tokens to usd: it counts anew from now; what was spent in the old counters (window day@UTC) stays there")),
        (claim("b"), claim("b", by=["tenant", "model"]), ("warning", "limit 'b' has changed its by from tenant to tenant+model: it counts anew from now; what was spent in the old counters (window day@UTC) stays there")),
        (claim("b", by=["tenant", "model"]), claim("b", by=["model", "tenant"]), ("warning", "limit 'b' has changed its by from tenant+model to model+tenant: it counts anew from now; what was spent in the old counters (window day@UTC) stays there")),
        (claim("r", "requests", MINUTE), claim("r", "requests", Sliding(30.0), "ip"), ("warning", "limit 'r' has changed its window from sliding@60 to sliding@30 and by from tenant to ip: it counts anew from now; what was spent in the old counters (window sliding@60) stays there")),
        (claim("a"), claim("b"), ("warning", "limit 'a' is no longer configured, and limit 'b' is new and counts the same (tokens, window day@UTC, by tenant). If it was renamed: it counts anew from now, and what was spent stays in the counters of 'a'; to count on in them, use the name 'a' again")),
    ],
)  # fmt: skip
def test_change_is_one_line_that_says_what_it_means(before: Claim, after: Claim, expected: tuple[str, str]) -> None:
    """A changed window, timezone, unit, `by` or name is one warning: what has changed, and that it counts anew."""
    assert lines([before], [after]) == [expected]


def test_new_and_removed_limits_are_information() -> None:
    """A limit without a counterpart is information: its counters are not taken for those of another one."""
    assert lines([claim("a"), claim("c")], [claim("c"), claim("b", window=BERLIN)]) == [
        ("info", "limit 'a' is no longer configured; its counters stay until their windows end"),
        ("info", "limit 'b' is new: it counts from now"),
    ]


def test_amount_may_change() -> None:
    """A changed amount is no line, nor is another notation of the same `by`."""
    assert lines([claim("a", limit=5)], [claim("a", limit=500)]) == []
    assert lines([claim("a", by="tenant")], [claim("a", by=["tenant"])]) == []


def test_each_name_has_at_most_one_counterpart() -> None:
    """Of two removed limits and one new one that counts the same, one is taken for renamed."""
    found = lines([claim("a"), claim("b")], [claim("c")])
    assert [level for level, _ in found] == ["warning", "info"]
    assert "limit 'b' is no longer configured; its" in found[1][1]


def test_policy_with_several_limits() -> None:
    """A policy of a deployment may count in several ways; those that have changed are listed."""
    day, hour, images = claim("p"), claim("p", window=Calendar("hour")), claim("p", "requests", MINUTE, None)
    assert lines([day], [day, hour]) == [("info", "limit 'p' also counts tokens, window hour@UTC, by tenant: that counts from now")]  # fmt: skip
    assert lines([day, hour], [day]) == [("info", "limit 'p' no longer counts tokens, window hour@UTC, by tenant; its counters stay until their windows end")]  # fmt: skip
    ((level, text),) = lines([day, hour], [images])
    assert level == "warning"
    assert "from tokens, window day@UTC, by tenant; tokens, window hour@UTC, by tenant to requests, window sliding@60, by an unknown identity" in text  # fmt: skip


@pytest.mark.parametrize("before", [{}, {"a": "a description of another version"}, {"a": '[["tokens"]]'}])
def test_nothing_to_compare_with_is_no_line(before: Mapping[str, str]) -> None:
    """The first start with a store, and a limit that another version has described, give no line."""
    assert list(limit_changes(before, countings_of([claim("a")]))) == []


LIMITS = st.dictionaries(
    st.sampled_from("abcd"),
    st.tuples(st.sampled_from(["tokens", "usd"]), st.sampled_from([UTC, BERLIN]), st.sampled_from(["tenant", "ip"])),
    min_size=1,
)


@given(LIMITS, LIMITS)
def test_each_difference_is_in_one_line(
    before: Mapping[str, tuple[Unit, Window, By]], after: Mapping[str, tuple[Unit, Window, By]]
) -> None:
    """Every limit that counts otherwise, is new or is gone is named first in one line; no other limit is named in any."""
    old, new = ([claim(name, *its) for name, its in each.items()] for each in (before, after))
    found = lines(old, new)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    named = [name for _, text in found for name in "abcd" if f"limit {name!r} " in text]
    assert sorted(named) == sorted(changed)
    assert (found == []) == (before == after)
    for level, text in found:
        assert (level == "warning") == ("counts anew from now" in text)


@given(LIMITS)
def test_registered_limits_are_read_as_they_were(limits: Mapping[str, tuple[Unit, Window, By]]) -> None:
    """A second start with the same limits, as by a second worker, finds no difference."""
    countings: Mapping[str, Countings] = countings_of([claim(name, *its) for name, its in limits.items()])
    assert list(limit_changes(described(countings), countings)) == []
