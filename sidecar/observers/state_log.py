"""Log lines for state changes: store down and up, breaker open and closed, worker died and ready, draining."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sidecar.config.log import LogLevel

from .entry_format import EntryFormat, FieldValue
from .levels import LEVEL_NUMBERS

MAX_SUBJECTS = 1024
"""Subjects whose state is remembered; beyond this number the oldest is forgotten, except for those that are expected.

The configuration decides how many are expected. Further ones may name models, which clients choose.
"""


class _State(NamedTuple):
    name: str
    since: float | None


class StateLog:
    """Writes one line per change of a subject's state, although several callers may report it repeatedly.

    *clock* is in seconds since 1970.
    """

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
        self._expected: set[str] = set()

    def expect(self, subject: str, state: str) -> None:
        """Set the initial *state* without a line, such as `up` for the store.

        Without it the first report is a change.
        """
        self._expected.add(subject)
        self._keep(subject, _State(state, None))

    def changed(self, subject: str, state: str, *, cause: str = "", level: LogLevel = "warning") -> bool:
        """Write a line with *cause* if *subject* was in another state; return whether it was.

        The line also has the previous state and its duration in seconds. With a *level* below the configured one the
        state is recorded without a line.
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
            oldest = next((each for each in self._states if each not in self._expected), None)
            if oldest is not None:
                del self._states[oldest]
        self._states[subject] = state
