"""`not_after`: the last moment of a key."""

from __future__ import annotations

import math
import tomllib
from datetime import date, datetime

import pytest

from sidecar.config.key_values.expiry import last_moment, read_date


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-12-31T18:00:00Z", 1_798_740_000.0),
        ("2026-12-31 18:00:00.5Z", 1_798_740_000.5),
        ("2026-12-31T18:00:00+02:00", 1_798_732_800.0),
        ("1969-12-31T23:59:59Z", -1.0),
        ("0001-01-01T00:00:00+23:59", -62_135_683_140.0),
        ("9999-12-31T23:59:59-23:59", 253_402_387_139.0),
        ("2026-12-31", math.nextafter(1_798_761_600.0, 0)),
        ("9999-12-31", math.nextafter(253_402_300_800.0, 0)),
        ("0001-01-01", math.nextafter(-62_135_510_400.0, 0)),
    ],
)
def test_last_moment_is_that_of_the_date(text: str, seconds: float) -> None:
    """A date-time is the last moment itself; a date is valid until its end in UTC. The same text works as a flag."""
    value = tomllib.loads(f"x = {text}")["x"]
    assert last_moment(value) == seconds
    assert read_date(text) == value


def test_key_without_date_does_not_expire() -> None:
    """Without a date there is no last moment."""
    assert last_moment(None) == math.inf


@pytest.mark.parametrize(
    "text",
    ["", "tomorrow", "2026-02-30", "2026-13-01", "20261231", "2026-W01-1", "2026-12-31T18:00:00", "2026-12-31T18:00Z",
     "2026-12-31T18:00:00+24:00", "2026-12-31T25:00:00Z", "2026-12-31\n", "٢٠٢٦-12-31", "9" * 10_000],
)  # fmt: skip
def test_other_texts_are_refused(text: str) -> None:
    """A flag takes only what TOML takes as a date, or as a date-time with an offset."""
    with pytest.raises(
        ValueError, match=r"^invalid value .{0,90}: expected a date, or a date-time with an offset; write"
    ):
        read_date(text)


@pytest.mark.parametrize("value", [datetime(2026, 1, 1), 3, 1.5, True, "2026-01-01", [date(2026, 1, 1)], {}])  # noqa: DTZ001
def test_other_values_are_refused(value: object) -> None:
    """The file takes dates, and date-times with an offset: no strings, numbers or local times."""
    with pytest.raises(ValueError, match="; "):
        last_moment(value)
