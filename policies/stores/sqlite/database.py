"""One SQLite file and its transactions.

The journal is a WAL with `synchronous = NORMAL`: a crash of the process loses nothing, a loss of power the last moments.

A read may be left open between two transactions. The next transaction then begins at a third of the cost, and only if no
other process has written meanwhile; otherwise the read is ended, and the transaction begins anew. An open read blocks WAL
checkpoints, so it is ended after 0.1 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import TypeAlias

from policies.api.store import StoreDown

from .failures import deleted_journal, describe, foreign_file, other_version
from .file_mode import create_private

Execute: TypeAlias = Callable[..., sqlite3.Cursor]
"""Executes one statement; the result is valid until the next one."""

SCHEMA_VERSION = 3
BUSY_TIMEOUT_SECONDS = 2.0
MAX_OPEN_READ_TRANSACTIONS, MAX_OPEN_READ_SECONDS = 64, 0.1
"""How long a read is left open at most, in transactions and in time."""
OPEN_READ_PAUSE_TRANSACTIONS = 256
"""Transactions to wait before leaving a read open again after another process wrote."""
MAX_JOURNAL_BYTES = 8_388_608
"""Size to which SQLite cuts a larger WAL when it restarts it."""


_log = logging.getLogger("sidecar.store")


class Database:
    """A context manager around one transaction, in which nothing may be awaited.

    In a transaction, `execute` runs a statement and `execute_many` one for each row; with `leaves_read_open` a read is left
    open at its end, for the next ones. `is_unchanged` is True if certainly no
    other process has written since the last transaction. `sqlite3.Error` becomes `StoreDown`. After any error the file is
    opened anew for the next transaction, and `is_reopened` is set until it is reset.
    """

    def __init__(self, path: Path, *, busy_timeout: float = BUSY_TIMEOUT_SECONDS) -> None:
        self._path, self._busy_timeout = path, busy_timeout
        self._connection: sqlite3.Connection | None = None
        self._inode = self._journal_inode = 0
        self.execute: Execute = _not_open
        self.execute_many: Execute = _not_open
        self.is_reopened = True
        self.is_unchanged = False
        self.is_shared = False
        """Whether other processes use the file; set by the store."""
        self._data_version = 0
        self._reader: sqlite3.Cursor | None = None
        self.leaves_read_open = False
        self._open_read_transactions = 0
        """Transactions for which the read that is open stays open; 0 where there is none."""
        self._pause_transactions = 0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        try:
            if self._open_read_transactions:
                try:
                    self.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError as error:
                    self._end_outdated_read(error)
                else:
                    self.is_unchanged = True
                    return
            if self._connection is None:
                self._open()
            self.execute("BEGIN IMMEDIATE")
            if self._pause_transactions or self.is_shared:
                self.is_unchanged = False
            else:
                (version,) = self.execute("PRAGMA data_version").fetchone()
                self.is_unchanged, self._data_version = version == self._data_version, version
        except sqlite3.Error as error:
            self.close()
            raise StoreDown(describe(error, self._path)) from error

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            try:
                if self._open_read_transactions:
                    self._open_read_transactions -= 1
                    if not self._open_read_transactions:
                        self.end_read()
                elif self.leaves_read_open:
                    self._leave_read_open()
                self.leaves_read_open = False
                self.execute("COMMIT")
            except sqlite3.Error as failed:
                error = failed
            else:
                return
        self.close()
        if isinstance(error, sqlite3.Error):
            raise StoreDown(describe(error, self._path)) from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[Execute]:
        """Give `execute` for statements that only read, in one snapshot of the file; writers are not waited for."""
        try:
            self.end_read()
            if self._connection is None:
                self._open()
            self.execute("BEGIN")
            yield self.execute
            self.execute("COMMIT")
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error):
                raise StoreDown(describe(error, self._path)) from error
            raise

    def _leave_read_open(self) -> None:
        """Open a read, unless other processes use the file: an open read keeps what they write in the WAL."""
        if self._reader is None or self.is_shared:
            return
        if self._pause_transactions:
            self._pause_transactions -= 1
            return
        self._reader.execute("SELECT at FROM tidied")
        self._open_read_transactions = MAX_OPEN_READ_TRANSACTIONS
        self._timer = asyncio.get_running_loop().call_later(MAX_OPEN_READ_SECONDS, self.end_read)

    def end_read(self) -> None:
        """End the read that was left open."""
        self._open_read_transactions = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._reader is not None:
            self._reader.fetchall()

    def _end_outdated_read(self, error: sqlite3.OperationalError) -> None:
        """End the open read if *error* means that another process writes or has written; raise any other error."""
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise error
        self.end_read()
        self._pause_transactions = OPEN_READ_PAUSE_TRANSACTIONS

    def close_if_replaced(self) -> None:
        """Close a file that is no longer at its path: processes that open the path now would count apart from this one.

        Where its WAL alone is not, log that once: closing the file then could lose what is in the WAL.
        """
        if self._connection is None:
            return
        if _inode(self._path) != self._inode:
            self.close()
        elif self._journal_inode not in (-1, _inode(_journal_of(self._path))):
            self._journal_inode = -1
            _log.error("%s", deleted_journal(self._path))

    def close(self) -> None:
        """Close the file and roll back what is not committed. The next transaction opens it again."""
        connection, self._connection, self.execute, self.execute_many = self._connection, None, _not_open, _not_open
        self.is_unchanged = self.leaves_read_open = False
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self.end_read()
            self._reader = None
            with contextlib.suppress(sqlite3.Error):
                connection.rollback()  # a cursor that is still referenced would keep the file locked
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _open(self) -> None:
        create_private(self._path)
        file = sqlite3.connect(self._path, timeout=self._busy_timeout, isolation_level=None, cached_statements=64)
        try:
            self._check_owner(file)  # before anything is written: the journal mode is stored in the file
            # An operation writes two whole pages to the WAL: small pages cost less, and most rows still fit.
            file.execute("PRAGMA page_size = 2048")
            _use_wal(file, self._busy_timeout)
            file.execute("PRAGMA synchronous = NORMAL")
            file.execute(f"PRAGMA journal_size_limit = {MAX_JOURNAL_BYTES}")
            file.execute("BEGIN IMMEDIATE")
            if self._check_owner(file) == 0:
                _execute_file(file, "schema.sql")
                file.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            _execute_file(file, "entries.sql")
            file.execute("COMMIT")
        except BaseException:
            file.close()
            raise
        # One cursor for all statements: creating one costs more than some statements.
        cursor = file.cursor()
        self._inode, self._journal_inode = _inode(self._path), _inode(_journal_of(self._path))
        self._connection, self.execute, self.execute_many = file, cursor.execute, cursor.executemany
        self._reader, self._data_version, self.is_reopened = file.cursor(), -1, True

    def _check_owner(self, file: sqlite3.Connection) -> int:
        """Return the version of the schema in *file*, 0 for a new one. Raises `StoreDown` for a file that is not ours."""
        version: int
        (version,) = file.execute("PRAGMA user_version").fetchone()
        statement = "SELECT count(*), count(*) FILTER (WHERE name = 'counter') FROM sqlite_schema"
        tables, own_tables = file.execute(statement).fetchone()
        if tables and not own_tables:
            raise StoreDown(foreign_file(self._path))
        if version not in (0, SCHEMA_VERSION):
            raise StoreDown(other_version(self._path, version, SCHEMA_VERSION))
        return version


def _execute_file(file: sqlite3.Connection, name: str) -> None:
    """Execute the statements of the SQL file *name* of this package in the open transaction of *file*."""
    for statement in resources.files(__package__).joinpath(name).read_text("utf-8").split(";"):
        file.execute(statement)


def _use_wal(file: sqlite3.Connection, timeout: float) -> None:
    """Make the journal of *file* a WAL. SQLite itself does not wait here: of the processes that open a new file, one succeeds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            file.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.001)
        else:
            return


def _journal_of(path: Path) -> Path:
    """Return the path of the WAL of the file at *path*."""
    return path.with_name(f"{path.name}-wal")


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return -1


def _not_open(*_: object) -> sqlite3.Cursor:
    msg = "the file is not open"
    raise sqlite3.ProgrammingError(msg)
