"""Connections to SQLite files, and the tables in them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

import msgspec

Execute: TypeAlias = Callable[..., sqlite3.Cursor]
"""Executes one statement; the result is valid until the next one."""


def connect(path: Path, *, create: bool = True) -> sqlite3.Connection:
    """Return a connection to the file at *path* that waits for no lock, with explicit transactions.

    Without *create* a missing file is an error. The connection may be used in any one thread at a time.
    """
    uri = f"file:{quote(str(path))}?mode={'rwc' if create else 'rw'}"
    return sqlite3.connect(
        uri, uri=True, timeout=0, isolation_level=None, cached_statements=64, check_same_thread=False
    )


def create_tables(file: sqlite3.Connection) -> None:
    """Create the tables in the open transaction of *file*."""
    for statement in resources.files(__package__).joinpath("schema.sql").read_text("utf-8").split(";"):
        file.execute(statement)


class UnreadableRow(sqlite3.DatabaseError):
    """The file holds values that this program does not write. SQLite has no checksums, so it returns damaged ones as they are."""

    sqlite_errorcode, sqlite_errorname = sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT"


@contextlib.contextmanager
def reading_own_rows() -> Iterator[None]:
    """Raise `UnreadableRow` where the block, which gets no values from callers, cannot use those of the file."""
    try:
        yield
    except (ValueError, TypeError, LookupError, msgspec.MsgspecError) as error:
        raise UnreadableRow(type(error).__name__) from error


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether *error* means that another connection is writing, or has the file for itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
