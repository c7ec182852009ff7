"""Log entries other than access lines: state changes, diagnostics, dropped lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from sidecar.config.log import LogFormat, LogLevel

from .escaping import printable, printable_json, quoted
from .timestamp import TimestampFormat

FieldValue: TypeAlias = str | int | float

MAX_LINE_BYTES = 4096
"""Limit of one entry. It is `PIPE_BUF` on Linux: a write of at most that many bytes to a pipe is atomic."""
_VALUE_CHARACTERS = (1000, 250, 60, 15)
"""Lengths to which values are cut, one after the other, until the entry has at most `MAX_LINE_BYTES`."""
_TRACE_LINE_CHARACTERS = 200


class EntryFormat:
    """Encode entries as text or JSON, each of at most `MAX_LINE_BYTES`: outer trace lines are dropped, then values cut.

    *worker* is added to each entry, None for a process that is the only one on its stderr.
    """

    def __init__(self, form: LogFormat, *, worker: int | None = None) -> None:
        self._json = form == "json"
        self._worker = worker
        self._timestamps = TimestampFormat()

    def encode(
        self,
        at: float,
        level: LogLevel,
        event: str,
        fields: Mapping[str, FieldValue],
        trace: Sequence[str] = (),
    ) -> bytes:
        """Return the entry *event* at the time *at* (seconds since 1970), with its line end.

        Empty strings are left out. *trace* lines follow the line of a text entry, indented by four spaces; in JSON they
        are the array `trace`.
        """
        values = {name: value for name, value in fields.items() if value != ""}
        if self._worker is not None:
            values["worker"] = self._worker
        trace = [line[:_TRACE_LINE_CHARACTERS] for line in trace]
        line = b""
        for most in _VALUE_CHARACTERS:
            cut = {name: _cut(value, most) for name, value in values.items()}
            line = self._line(at, level, event, cut, trace)
            while len(line) > MAX_LINE_BYTES and trace:
                trace = trace[len(trace) // 2 + 1 :]
                line = self._line(at, level, event, cut, trace)
            if len(line) <= MAX_LINE_BYTES:
                break
        return line

    def dropped(self, at: float, count: int) -> bytes:
        """Return the entry that states that *count* lines were dropped before it."""
        return self.encode(at, "warning", "dropped", {"lines": count, "cause": "log output blocked"})

    def _line(
        self, at: float, level: LogLevel, event: str, values: Mapping[str, FieldValue], trace: Sequence[str]
    ) -> bytes:
        time = self._timestamps.text(at)
        if self._json:
            entry: dict[str, object] = {"time": time, "level": level, "event": event, **values}
            if trace:
                entry["trace"] = trace
            return _json(entry) + b"\n"
        parts = [time, level.upper(), event]
        parts += [f"{name}={quoted(value) if isinstance(value, str) else value}" for name, value in values.items()]
        lines = [" ".join(parts), *(f"    {printable(line)}" for line in trace)]
        return ("\n".join(lines) + "\n").encode()


def _cut(value: FieldValue, most: int) -> FieldValue:
    return value if not isinstance(value, str) or len(value) <= most else value[: most - 1] + "…"


def _json(entry: dict[str, object]) -> bytes:
    try:
        return printable_json(msgspec.json.encode(entry))
    except UnicodeEncodeError:  # a lone surrogate, as in a file name that is not UTF-8
        return printable_json(msgspec.json.encode({name: _replaced(value) for name, value in entry.items()}))


def _replaced(value: object) -> object:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return [_replaced(each) for each in value] if isinstance(value, list) else value
