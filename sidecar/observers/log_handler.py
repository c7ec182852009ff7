"""Handler for stdlib `logging` that writes in the format of the other log lines, through the same writer."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sidecar.config.log import LogLevel

from .entry_format import EntryFormat, FieldValue
from .levels import LEVEL_NUMBERS
from .traceback_lines import traceback_lines

OWN_LOGGERS = ("sidecar", "policies")
"""Loggers of the sidecar and of policies; all others belong to libraries."""
REPEAT_SECONDS = 10.0
"""A message that repeats within this time is counted instead of written."""
MAX_REMEMBERED_MESSAGES = 256


class LineHandler(logging.Handler):
    """Encodes records of stdlib `logging` as entries for *write*, which must not block (`LineWriter.write`).

    A message that repeats within `REPEAT_SECONDS` is written once; the next one afterwards states how many were
    omitted. Exceptions are written without their messages (`traceback_lines`). An object logged in place of a message
    is written as its class name.
    """

    def __init__(self, write: Callable[[bytes], object], entries: EntryFormat) -> None:
        super().__init__()
        self._write, self._entries = write, entries
        self._written: dict[tuple[str, int, str], float] = {}
        self._repeats: dict[tuple[str, int, str], int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write *record*. Wrong arguments of the message do not raise: the message is written without them."""
        message = _message(record)
        error = record.exc_info[1] if record.exc_info else None
        key = (record.name, record.levelno, message)
        if record.created - self._written.get(key, float("-inf")) < REPEAT_SECONDS:
            self._repeats[key] = self._repeats.get(key, 0) + 1
            return
        fields: dict[str, FieldValue] = {"logger": record.name, "message": message}
        if repeats := self._repeats.pop(key, 0):
            fields["repeated"] = repeats
        self._remember(key, record.created)
        trace = traceback_lines(error) if error is not None else ()
        self._write(self._entries.encode(record.created, level_name(record.levelno), "log", fields, trace))

    def _remember(self, key: tuple[str, int, str], at: float) -> None:
        self._written.pop(key, None)
        if len(self._written) >= MAX_REMEMBERED_MESSAGES:
            oldest = next(iter(self._written))
            del self._written[oldest]
            self._repeats.pop(oldest, None)
        self._written[key] = at


def install_log_handler(handler: logging.Handler, level: LogLevel) -> None:
    """Replace the handlers of all loggers by *handler*. *level* applies to the sidecar and policies.

    Libraries log from `warning` at least: their `info` has request URLs and their `debug` headers, which may hold keys.
    """
    root = logging.getLogger()
    for each in (root, *map(logging.getLogger, OWN_LOGGERS)):
        for old in each.handlers[:]:
            each.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(logging.WARNING, LEVEL_NUMBERS[level]))
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(LEVEL_NUMBERS[level])


def level_name(number: int) -> LogLevel:
    """Return the `LogLevel` for the stdlib level *number*: the highest one that is not above it."""
    name: LogLevel = "debug"
    for level, severity in LEVEL_NUMBERS.items():
        if number >= severity:
            name = level
    return name


def _message(record: logging.LogRecord) -> str:
    if not isinstance(record.msg, str):
        return f"an object of {type(record.msg).__qualname__}"
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - wrong arguments, or a failing repr
        return record.msg
