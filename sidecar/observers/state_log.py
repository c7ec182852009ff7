"""Lines about state changes: store down and back, breaker open and closed, worker died and ready, drain begun."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sidecar.config.log import LogLevel

from .entry_format import EntryFormat, FieldValue
from .levels import LEVEL_NUMBERS

MAX_SUBJECTS = 1024
"""Subjects come from the configuration; beyond this number the oldest one is forgotten."""


class _State(NamedTuple):
    name: str
    since: float | None


class StateLog:
    """Write one line when the state of a subject changes, however often and by however many callers it is reported."""

    def __init__(
        self,
        write: Callable[[bytes], object],
        entries: EntryFormat,
        level: LogLevel,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._write, self._entries, self._clock = write, entries, clock
        self._least = LEVEL_NUMBERS[level]
        self._states: dict[str, _State] = {}

    def expect(self, subject: str, state: str) -> None:
        """Remember *state* as the one that needs no line, such as `up` for the store; without it the first report is a change."""
        self._keep(subject, _State(state, None))

    def changed(self, subject: str, state: str, *, cause: str = "", level: LogLevel = "warning") -> bool:
        """Write a line with *cause* if *subject* was not in *state*; return whether it changed.

        The line also holds the state before and the seconds that it lasted.  A state below the configured level is
        remembered without a line.
        """
        before = self._states.get(subject)
        if before is not None and before.name == state:
            return False
        now = self._clock()
        self._keep(subject, _State(state, now))
        if LEVEL_NUMBERS[level] >= self._least:
            fields: dict[str, FieldValue] = {"subject": subject, "state": state}
            if before is not None:
                fields["was"] = before.name
                if before.since is not None:
                    fields["was_seconds"] = round(max(0.0, now - before.since), 3)
            fields["cause"] = cause
            self._write(self._entries.encode(now, level, "state", fields))
        return True

    def _keep(self, subject: str, state: _State) -> None:
        if subject not in self._states and len(self._states) >= MAX_SUBJECTS:
            self._states.pop(next(iter(self._states)), None)
        self._states[subject] = state
