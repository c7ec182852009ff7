"""Timers of one length that are nearly always cancelled, such as deadlines: one timer of the event loop serves all of them.

They are due in the order in which they were set, so a dict suffices. Measured: 0.5 µs to add and remove a target,
against 2.7 µs for a timer of uvloop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

CallAt: TypeAlias = Callable[[float, Callable[[], None]], Any]
Target = TypeVar("Target")


class DueQueue(Generic[Target]):
    """Calls *on_due* with each target *seconds* after it was added, unless it was removed before.

    *clock* is monotonic, in seconds; *call_at* is the event loop's, and keeps no call's context (contextvars).
    """

    __slots__ = ("_call_at", "_clock", "_due", "_on_due", "_timer_runs", "seconds")

    def __init__(
        self, seconds: float, on_due: Callable[[Target], None], *, clock: Callable[[], float], call_at: CallAt
    ) -> None:
        self.seconds, self._on_due, self._clock, self._call_at = seconds, on_due, clock, call_at
        self._due: dict[Target, float] = {}
        """When each target is due; the earliest comes first."""
        self._timer_runs = False

    def __len__(self) -> int:
        return len(self._due)

    def add(self, target: Target, now: float) -> None:
        """Wait for *target*, which is not waited for yet, from *now* on."""
        self._due[target] = due = now + self.seconds
        if not self._timer_runs:
            self._timer_runs = True
            self._call_at(due, self._tick)

    def remove(self, target: Target) -> None:
        """Wait for *target* no longer; no effect on one that is not waited for."""
        self._due.pop(target, None)

    def _tick(self) -> None:
        now, due = self._clock(), self._due
        try:
            while due:
                target = next(iter(due))
                if due[target] > now:
                    break
                del due[target]
                self._on_due(target)
        finally:  # if `on_due` raises, the others keep their timer
            self._timer_runs = bool(due)
            if due:
                self._call_at(next(iter(due.values())), self._tick)
