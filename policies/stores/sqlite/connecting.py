"""Connections to SQLite files, and the tables in them."""

from __future__ import annotations

import sqlite3
from importlib import resources
from pathlib import Path
from urllib.parse import quote


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


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether *error* means that another connection is writing, or has the file for itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
