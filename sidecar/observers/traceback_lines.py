"""Format tracebacks for the log without exception messages, which may hold a prompt, an answer or a key."""

from __future__ import annotations

import sqlite3
import traceback
from collections.abc import Iterator
from itertools import islice

MAX_EXCEPTIONS = 5
"""Exceptions that are formatted of a chain of causes, and of each group."""
MAX_FRAMES = 20


def traceback_lines(error: BaseException) -> list[str]:
    """Return the frames and class names of *error* and its causes: first cause first, innermost frame last.

    Of an `OSError` the number and text are kept, of an SQLite error its name. Source lines and other messages are left
    out.
    """
    lines: list[str] = []
    for each in reversed(list(islice(_causes(error), MAX_EXCEPTIONS))):
        lines += _own_lines(each)
    return lines


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _own_lines(error: BaseException) -> list[str]:
    frames = list(traceback.walk_tb(error.__traceback__))[-MAX_FRAMES:]
    lines = [f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}" for frame, line in frames]
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions[:MAX_EXCEPTIONS]:
            lines += [f"  {line}" for line in _own_lines(each)]
    return [*lines, _named(error)]


def _named(error: BaseException) -> str:
    name = type(error).__qualname__
    if isinstance(error, OSError) and error.errno is not None:
        return f"{name}: [Errno {error.errno}] {error.strerror}"
    if isinstance(error, sqlite3.Error) and (code := getattr(error, "sqlite_errorname", None)):
        return f"{name}: {code}"
    return name
