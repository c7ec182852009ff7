"""Log lines for state changes: store down and up, breaker open and closed, worker died and ready, draining."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

    def expect(self, subject: str, state: str, *, since: float | None = None) -> None:
        """Set the initial *state* without a line, such as `up` for the store; *since* is in seconds since 1970.

        Without it the first report is a change.
        """
        self._expected.add(subject)
        self._keep(subject, _State(state, since))

    def changed(
        self,
        subject: str,
        state: str,
        *,
        cause: str = "",
        level: LogLevel = "warning",
        repeats: bool = False,
        more: Mapping[str, FieldValue] | None = None,
    ) -> bool:
        """Write a line with *cause* and *more* fields if *subject* was in another state; return whether it was.

        With *repeats* a line is written also where the state is the same, as for another cause of it. The line also has the
        previous state and its duration in seconds. With a *level* below the configured one the state is recorded without a
        line.
        """
        before = self._states.get(subject)
        is_same = before is not None and before.name == state
        if is_same and not repeats:
            return False
        now = self._clock()
        if not is_same:
            self._keep(subject, _State(state, now))
        if LEVEL_NUMBERS[level] >= self._least:
            fields: dict[str, FieldValue] = {"subject": subject, "state": state}
            if before is not None:
                fields["was"] = before.name
                if before.since is not None:
                    fields["was_seconds"] = round(max(0.0, now - before.since), 3)
            fields["cause"] = cause
            self._write(self._entries.encode(now, level, "state", fields | dict(more or {})))
        return not is_same

    def _keep(self, subject: str, state: _State) -> None:
        if subject not in self._states and len(self._states) >= MAX_SUBJECTS:
            oldest = next((each for each in self._states if each not in self._expected), None)
            if oldest is not None:
                del self._states[oldest]
        self._states[subject] = state
