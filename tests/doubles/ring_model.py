"""A simple model of a sliding window, as docs/stores.md describes it: each request counts until its cell and 64 more are over."""

from __future__ import annotations

CELLS = 64
MICROSECONDS = 1_000_000


class RingModel:
    """What a window of *seconds* counts, by call. Times are in seconds since 1970."""

    def __init__(self, seconds: float) -> None:
        self.width = -(-round(seconds * MICROSECONDS) // CELLS)
        self._taken: dict[str, tuple[int, int]] = {}
        """The cell and the amount of each call that counts."""
        self._newest = 0
        self._movable: set[str] = set()
        """Calls since which the clock was not set back: only they can be given back."""

    def _move(self, now: float) -> int:
        cell = round(now * MICROSECONDS) // self.width
        if cell < self._newest:
            self._movable.clear()
        self._newest = cell
        self._taken = {
            call: (min(at, cell), amount) for call, (at, amount) in self._taken.items() if at >= cell - CELLS and amount
        }
        return cell

    def add(self, call: str, now: float, amount: int = 1) -> None:
        """Count the *amount* that *call* takes."""
        self._taken[call] = self._move(now), amount
        self._movable.add(call)

    def remove(self, call: str) -> None:
        """Return what *call* took, if it still counts, unless the clock was set back meanwhile."""
        if call in self._movable:
            self._taken.pop(call, None)

    def used(self, now: float) -> int:
        """Return what counts at *now*."""
        self._move(now)
        return sum(amount for _, amount in self._taken.values())

    def first_expiry(self, now: float) -> float:
        """Return when the first cell that counts something expires; *now* where nothing counts."""
        self._move(now)
        return self._ends(min(at for at, _ in self._taken.values())) if self.used(now) else now

    def fits_at(self, now: float, room: int) -> float:
        """Return when at most *room* is left; where *room* is negative, when nothing is."""
        left, found = self.used(now), now
        for at, amount in sorted(self._taken.values()):
            if left <= max(room, 0):
                break
            left, found = left - amount, self._ends(at)
        return found

    def _ends(self, cell: int) -> float:
        return (cell + CELLS + 1) * self.width / MICROSECONDS
