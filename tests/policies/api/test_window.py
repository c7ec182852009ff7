"""Calendar windows: where they begin and end, also across changes of the UTC offset."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.api.window import Calendar, Period, span_of

HOUR = 3600.0
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Havana", "Pacific/Apia"]  # fmt: skip


def at(text: str, zone: str, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


@pytest.mark.parametrize(
    ("period", "zone", "now", "start", "hours"),
    [
        ("day", "UTC", "2026-11-24T13:30", "2026-11-24T00:00", 24),
        ("day", "Europe/Berlin", "2026-03-29T13:30", "2026-03-29T00:00", 23),
        ("day", "Europe/Berlin", "2026-10-25T13:30", "2026-10-25T00:00", 25),
        ("day", "Australia/Lord_Howe", "2026-04-05T13:30", "2026-04-05T00:00", 24.5),
        ("day", "America/Havana", "2026-11-01T00:30", "2026-11-01T00:00", 25),
        ("week", "UTC", "2026-11-29T23:59", "2026-11-23T00:00", 168),
        ("week", "Europe/Berlin", "2026-03-25T00:00", "2026-03-23T00:00", 167),
        ("month", "UTC", "2026-02-28T23:59", "2026-02-01T00:00", 28 * 24),
        ("month", "UTC", "2026-12-31T12:00", "2026-12-01T00:00", 31 * 24),
        ("hour", "Asia/Kathmandu", "2026-11-24T13:30", "2026-11-24T13:00", 1),
        ("minute", "UTC", "2026-11-24T13:30:59", "2026-11-24T13:30:00", 1 / 60),
    ],
)
def test_window_begins_at_local_time(period: Period, zone: str, now: str, start: str, hours: float) -> None:
    """A window begins at a full minute or hour, or at midnight, of its time zone, and is as long as that clock makes it."""
    begin, end = span_of(Calendar(period, zone), at(now, zone))

    assert begin == at(start, zone)
    assert end - begin == pytest.approx(hours * HOUR)


@given(
    now=st.floats(1.6e9, 2.2e9),
    zone=st.sampled_from(ZONES),
    period=st.sampled_from(["minute", "hour", "day", "week", "month"]),
)
def test_windows_follow_each_other_without_gaps(now: float, zone: str, period: Period) -> None:
    """Every time is in exactly one window: the next window begins where this one ends."""
    window = Calendar(period, zone)
    start, end = span_of(window, now)

    assert start <= now < end
    assert span_of(window, start) == (start, end)
    assert span_of(window, end)[0] == end
