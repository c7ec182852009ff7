"""The spans of calendar windows, remembered: every call needs them, and they change once a minute at most."""

from __future__ import annotations

from policies.api.window import MICROSECONDS_PER_SECOND, Calendar, span_of


class WindowCache:
    """Remembers the current span of each calendar window: every call needs it, and it changes once a minute at most."""

    MAX_WINDOWS = 256

    def __init__(self) -> None:
        self._known: dict[Calendar, tuple[int, int]] = {}

    def at(self, window: Calendar, now: int) -> tuple[int, int]:
        """Return `span_of` *window* around *now*; all three times are in microseconds since 1970."""
        known = self._known.get(window)
        if known is None or not known[0] <= now < known[1]:
            if len(self._known) >= self.MAX_WINDOWS:
                self._known.clear()
            start, end = span_of(window, now / MICROSECONDS_PER_SECOND)
            known = self._known[window] = (round(start) * MICROSECONDS_PER_SECOND, round(end) * MICROSECONDS_PER_SECOND)
        return known
