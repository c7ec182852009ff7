"""Tables that are written are those that `tomllib` reads."""

from __future__ import annotations

import tomllib
from datetime import UTC, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.key_values.toml_text import table_text, value_text

ANY_TEXT = st.text(st.characters(codec="utf-8"))
ZONES = st.one_of(st.none(), st.just(UTC), st.integers(-1439, 1439).map(lambda each: timezone(timedelta(minutes=each))))
PLAIN = st.one_of(
    ANY_TEXT,
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.dates(),
    st.times(),
    st.datetimes(timezones=ZONES),
)
NAMES = ANY_TEXT
VALUES = st.recursive(PLAIN, lambda each: st.lists(each) | st.dictionaries(NAMES, each), max_leaves=20)


@given(table=st.dictionaries(NAMES, VALUES))
def test_table_is_read_as_it_was(table: dict[str, Any]) -> None:
    """Each table of TOML's types is read by `tomllib` as it was, on one line a key."""
    text = table_text("[[key]]", table)
    assert tomllib.loads(text) == {"key": [table]}
    assert len(text.split("\n")) == len(table) + 2


def test_other_types_are_refused() -> None:
    """TOML has no null."""
    with pytest.raises(TypeError, match="TOML has no NoneType"):
        value_text(None)
