"""A simple model of a sliding window, as docs/stores.md describes it: each request counts until its cell and 64 more are over."""

from __future__ import annotations

CELLS = 64
MICROSECONDS = 1_000_000


class RingModel:
    """What a window of *seconds* counts. Times are in seconds since 1970."""

    def __init__(self, seconds: float) -> None:
        self.width = -(-round(seconds * MICROSECONDS) // CELLS)
        self._amounts: dict[int, int] = {}
        """What counts, by cell."""
        self._calls: dict[str, tuple[int, int]] = {}

    def _move(self, now: float) -> int:
        cell = round(now * MICROSECONDS) // self.width
        later = sum(amount for at, amount in self._amounts.items() if at > cell)
        self._amounts = {at: amount for at, amount in self._amounts.items() if cell - CELLS <= at <= cell and amount}
        if later:
            self._amounts[cell] = self._amounts.get(cell, 0) + later
        return cell

    def add(self, call: str, now: float, amount: int = 1) -> None:
        """Count the *amount* that *call* takes."""
        cell = self._move(now)
        self._amounts[cell] = self._amounts.get(cell, 0) + amount
        self._calls[call] = cell, amount

    def remove(self, call: str) -> None:
        """Return what *call* took, if its cell still counts it. What was moved, because the clock was set back, stays."""
        cell, amount = self._calls.pop(call, (0, 0))
        if cell in self._amounts:
            self._amounts[cell] -= min(amount, self._amounts[cell])

    def used(self, now: float) -> int:
        """Return what counts at *now*."""
        self._move(now)
        return sum(self._amounts.values())

    def first_expiry(self, now: float) -> float:
        """Return when the first cell that counts something expires; *now* where nothing counts."""
        self._move(now)
        return self._ends(min(self._amounts)) if self.used(now) else now

    def fits_at(self, now: float, room: int) -> float:
        """Return when at most *room* is left; where *room* is negative, when nothing is."""
        left, found = self.used(now), now
        for at, amount in sorted(self._amounts.items()):
            if left <= max(room, 0):
                break
            left, found = left - amount, self._ends(at)
        return found

    def _ends(self, cell: int) -> float:
        return (cell + CELLS + 1) * self.width / MICROSECONDS
