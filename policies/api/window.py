"""The arithmetic of windows: when a calendar window begins and ends, and how finely a sliding one counts."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .claim import Calendar, Period, Sliding, Window

__all__ = [
    "FINE_LIMIT",
    "MILLION",
    "SECONDS",
    "Calendar",
    "Period",
    "Sliding",
    "Window",
    "WindowCache",
    "grain",
    "span_of",
    "zone_of",
]

SECONDS: dict[Period, int] = {"minute": 60, "hour": 3_600, "day": 86_400, "week": 604_800, "month": 2_592_000}
MILLION = 1_000_000
FINE_LIMIT = 1_024
"""Limits up to here are kept to the moment; above, moments that lie within a 1024th of the window count as one."""


def span_of(window: Calendar, now: float) -> tuple[float, float]:
    """Return the window's start and end around *now*, in seconds since 1970, right across changes of the clock.

    A minute or hour begins at the zone's own mark, and where the clock changes within it, another one begins; days,
    weeks and months begin at local midnight.
    """
    zone = zone_of(window.timezone)
    if window.period in ("minute", "hour"):
        return _marks(int(now // 1), SECONDS[window.period], zone)
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
    return _stamp(first, zone), _stamp(after, zone)


class WindowCache:
    """Remembers the span that each calendar window is in: it is asked for with every call, and changes once a minute."""

    MOST = 256

    def __init__(self) -> None:
        self._known: dict[Calendar, tuple[int, int]] = {}

    def at(self, window: Calendar, now: int) -> tuple[int, int]:
        """Return `span_of` *window*; all three moments are in microseconds."""
        known = self._known.get(window)
        if known is None or not known[0] <= now < known[1]:
            if len(self._known) >= self.MOST:
                self._known.clear()
            start, end = span_of(window, now / MILLION)
            known = self._known[window] = (round(start) * MILLION, round(end) * MILLION)
        return known


@functools.lru_cache(1024)
def grain(window: Sliding, limit: int) -> float:
    """Return the seconds within which takings share one entry, counted until the youngest of them is old enough.

    So memory is bounded for any limit, and never more than the limit fits into any span.
    """
    return 0.0 if limit <= FINE_LIMIT else window.seconds / FINE_LIMIT


def _marks(now: int, size: int, zone: ZoneInfo) -> tuple[float, float]:
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
    """Return the first second with the offset of *after*; *before* has another one."""
    while after - before > 1:
        middle = (before + after) // 2
        if _offset(middle, zone) == _offset(after, zone):
            after = middle
        else:
            before = middle
    return after


def _stamp(naive: datetime, zone: ZoneInfo) -> float:
    return naive.replace(tzinfo=zone).astimezone(UTC).timestamp()


def zone_of(name: str) -> ZoneInfo:
    """Return the zone called *name*; raises ValueError with the cure where there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        msg = f"{name!r} is no IANA time zone; write one like 'UTC' or 'Europe/Berlin'"
        raise ValueError(msg) from None
