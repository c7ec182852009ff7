"""Format timestamps for log lines."""

from __future__ import annotations

import time


class TimestampFormat:
    """Formats times as UTC in ISO 8601 with milliseconds. Safe to share between threads.

    The text of the last second is cached: most lines have the same one.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = (-1, "")

    def text(self, at: float) -> str:
        """Return *at*, seconds since 1970, as `2026-11-28T16:20:31.123Z`."""
        second, milliseconds = divmod(int(at * 1000), 1000)
        last, prefix = self._last
        if second != last:
            prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._last = (second, prefix)
        return f"{prefix}{milliseconds:03d}Z"
