"""The arithmetic of calendar windows: when they begin and end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .claim import Calendar, Period, Sliding, Window

__all__ = [
    "MAX_SENSIBLE_WAIT",
    "MICROSECONDS_PER_SECOND",
    "PERIOD_SECONDS",
    "Calendar",
    "Period",
    "Sliding",
    "Window",
    "resets_soon",
    "span_of",
    "zone_of",
]

PERIOD_SECONDS: dict[Period, int] = {"minute": 60, "hour": 3_600, "day": 86_400, "week": 604_800, "month": 2_592_000}
MICROSECONDS_PER_SECOND = 1_000_000
MAX_SENSIBLE_WAIT = 60.0
"""Seconds up to which waiting for a limit is worth it; both OpenAI SDKs give up on longer waits, or ignore them."""


def span_of(window: Calendar, now: float) -> tuple[float, float]:
    """Return the start and the end of the window that holds *now*, in seconds since 1970.

    Days, weeks and months begin at local midnight, also across changes of the UTC offset. Minutes and hours begin where
    the local clock shows a full one; a change of the offset within one ends it and begins another.
    """
    zone = zone_of(window.timezone)
    if window.period in ("minute", "hour"):
        return _clock_span(int(now // 1), PERIOD_SECONDS[window.period], zone)
    local = datetime.fromtimestamp(now, zone)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0)
    if window.period == "day":
        first, after = midnight, midnight + timedelta(days=1)
    elif window.period == "week":
        first = midnight - timedelta(days=midnight.weekday())
        after = first + timedelta(days=7)
    else:
        first = midnight.replace(day=1)
        after = (first + timedelta(days=32)).replace(day=1)
    return _timestamp(first, zone), _timestamp(after, zone)


def resets_soon(window: Calendar) -> bool:
    """Return whether a client can wait for the end of any such window."""
    return PERIOD_SECONDS[window.period] <= MAX_SENSIBLE_WAIT


def _clock_span(now: int, size: int, zone: ZoneInfo) -> tuple[float, float]:
    offset = _offset(now, zone)
    start = (now + offset) // size * size - offset
    end = start + size
    if _offset(start, zone) != offset:
        start = _change(start, now, zone)
    if _offset(end - 1, zone) != offset:
        end = _change(now, end - 1, zone)
    return float(start), float(end)


def _offset(moment: int, zone: ZoneInfo) -> int:
    return int((datetime.fromtimestamp(moment, zone).utcoffset() or timedelta()).total_seconds())


def _change(before: int, after: int, zone: ZoneInfo) -> int:
    """Return the first second with the UTC offset of *after*; that of *before* differs."""
    while after - before > 1:
        middle = (before + after) // 2
        if _offset(middle, zone) == _offset(after, zone):
            after = middle
        else:
            before = middle
    return after


def _timestamp(naive: datetime, zone: ZoneInfo) -> float:
    return naive.replace(tzinfo=zone).astimezone(UTC).timestamp()


def zone_of(name: str) -> ZoneInfo:
    """Return the time zone called *name*. Raises ValueError, as "problem; remedy", if there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        msg = f"{name!r} is no IANA time zone; write one like 'UTC' or 'Europe/Berlin'"
        raise ValueError(msg) from None
