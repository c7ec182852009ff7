"""One SQLite file and its transactions.

The journal is a WAL with `synchronous = NORMAL`: a crash of the process loses nothing, a loss of power the last moments. No
statement waits for a lock: a file that another connection is writing raises `StoreBusy` at once.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from policies.api.store import StoreDown
from policies.stores.batching.group_commit import StoreBusy

from .checkpoints import MAX_JOURNAL_BYTES
from .connecting import connect, create_tables, is_busy
from .conversion import Conversion, ConvertedElsewhere
from .documents import Execute
from .failures import (
    converted_elsewhere,
    deleted_journal,
    describe,
    earlier_version,
    foreign_file,
    other_version,
    replaced_file,
    unusable_path,
)
from .file_mode import create_private
from .migration import OLDEST_VERSION, migrate
from .open_read import OpenRead

SCHEMA_VERSION = 4
OPEN_FILE_SUFFIXES = ("", "-wal", "-shm")
"""Ends of the names of the files that stay the same while the database is open."""
_log = logging.getLogger("sidecar.store")


class Database:
    """A context manager around one transaction, in which nothing may be awaited.

    In a transaction, `execute` runs a statement and `execute_many` one for each row. `is_unchanged` is True if certainly no
    other connection has written since the last transaction. `sqlite3.Error` becomes `StoreDown`, or `StoreBusy` if another
    connection is writing. After any other error the file is opened anew for the next transaction, and `is_reopened` is set
    until it is reset. A file of an earlier version is converted by a thread, and raises `FileConverting` meanwhile; *now*
    returns the time in microseconds for that. Without *converts* such a file is refused. Without *checkpoints* the WAL is not
    moved into the file: a `Checkpoints` does that.
    """

    def __init__(self, path: Path, now: Callable[[], int], *, checkpoints: bool = True, converts: bool = True) -> None:
        self._path, self._checkpoints, self._converts = path, checkpoints, converts
        self._wal = path.with_name(f"{path.name}-wal")
        self._conversion = Conversion(
            path, SCHEMA_VERSION, lambda is_cancelled: migrate(path, SCHEMA_VERSION, now(), is_cancelled)
        )
        self._connection: sqlite3.Connection | None = None
        self._inodes: list[int] = []
        """The inodes of the open file and its journals."""
        self.execute: Execute = _not_open
        self.execute_many: Execute = _not_open
        self.is_reopened = True
        self.is_unchanged = False
        self.leaves_read_open = False
        """Whether a read is left open at the end of the transaction; set before it."""
        self._open_read = OpenRead(None)
        self._data_version = -1
        self.generation = ""
        """The random identity of the file that was opened last; empty before that."""

    def __enter__(self) -> None:
        try:
            if self._connection is None:
                self._open()
            elif self._open_read.transactions_left:
                try:
                    self.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError as error:
                    self._open_read.end()
                    if not is_busy(error):
                        raise
                else:
                    self.is_unchanged = True
                    return
            self.execute("BEGIN IMMEDIATE")
            (version,) = self.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error as error:
            raise self._failed(error) from error
        self.is_unchanged, self._data_version = version == self._data_version, version

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            try:
                open_read = self._open_read
                if self.leaves_read_open and open_read.transactions_left > 1:
                    open_read.transactions_left -= 1
                else:
                    open_read.before_commit(leave_open=self.leaves_read_open)
                self.execute("COMMIT")
            except sqlite3.Error as failed:
                error = failed
            else:
                return
        if isinstance(error, sqlite3.Error):
            raise self._broken(error) from error
        self.close()

    def open(self) -> None:
        """Open the file, if it is not open. Raises `StoreDown`."""
        with self.reading():
            pass

    @contextlib.contextmanager
    def reading(self) -> Iterator[Execute]:
        """Give `execute` for statements that only read, in one snapshot of the file; writers are not waited for."""
        try:
            if self._connection is None:
                self._open()
            self._open_read.end()
            self.execute("BEGIN")
            yield self.execute
            self.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(error) from error
        except BaseException:
            self.close()
            raise

    def _failed(self, error: sqlite3.Error) -> StoreDown:
        if is_busy(error) and (self._connection is None or not self._connection.in_transaction):
            if self._connection is None and self._conversion.is_elsewhere():
                return ConvertedElsewhere(converted_elsewhere(self._path))
            return StoreBusy(describe(error, self._path))
        return self._broken(error)

    def _broken(self, error: sqlite3.Error) -> StoreDown:
        """Close the file after *error*, and return what to raise.

        If it is no longer at its path, the error says nothing about the one that is: the operation is tried again in that one.
        """
        if self.close_if_replaced():
            return StoreBusy(replaced_file(self._path))
        self.close()
        return StoreDown(describe(error, self._path))

    @property
    def changed_rows(self) -> int:
        """How many rows the present connection has changed."""
        return 0 if self._connection is None else self._connection.total_changes

    def wal_bytes(self) -> int:
        """Return the size of the WAL, 0 if there is none. It does not shrink before the WAL is restarted."""
        try:
            return self._wal.stat().st_size
        except OSError:
            return 0

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._connection is not None

    def close_if_replaced(self) -> bool:
        """Close a file that is no longer at its path, or whose journals are not: other processes would count apart from this one.

        Returns whether it was closed.
        """
        if self._connection is None:
            return False
        inodes = _inodes(self._path)
        if inodes == self._inodes:
            return False
        self.close()
        if inodes[0] == self._inodes[0]:
            _log.error("%s", deleted_journal(self._path))
        return True

    def close_for_good(self) -> None:
        """Close the file, and end a conversion that runs."""
        self.close()
        self._conversion.cancel()

    def close(self) -> None:
        """Close the file and roll back what is not committed. The next transaction opens it again."""
        connection, self._connection, self.execute, self.execute_many = self._connection, None, _not_open, _not_open
        self.is_unchanged = False
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._open_read.end()
            with contextlib.suppress(sqlite3.Error):
                connection.rollback()  # a cursor that is still referenced would keep the file locked
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _open(self) -> None:
        if (fault := unusable_path(self._path)) is not None:
            raise StoreDown(fault)
        create_private(self._path)
        file = connect(self._path)
        try:
            version = self._version_of(file)  # before anything is written: the journal mode is stored in the file
            is_earlier = OLDEST_VERSION <= version < SCHEMA_VERSION
            if is_earlier and not self._converts:
                raise StoreDown(earlier_version(self._path))
            # An operation writes two whole pages to the WAL: small pages cost less, and most rows still fit.
            file.execute("PRAGMA page_size = 2048")
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = NORMAL")
            file.execute(f"PRAGMA journal_size_limit = {MAX_JOURNAL_BYTES}")
            if not self._checkpoints:
                file.execute("PRAGMA wal_autocheckpoint = 0")
            if is_earlier:
                file.close()
                self._conversion.check()
                self._open()
                return
            if not version:
                self._create(file)
            (generation,) = file.execute("SELECT id FROM generation").fetchone()
        except BaseException:
            file.close()
            raise
        if self.generation not in ("", generation):
            _log.error("%s", replaced_file(self._path))
        self.generation = generation
        # One cursor for all statements: creating one costs more than some statements.
        cursor = file.cursor()
        self._inodes = _inodes(self._path)
        self._connection, self.execute, self.execute_many = file, cursor.execute, cursor.executemany
        self._data_version, self.is_reopened, self._open_read = -1, True, OpenRead(file.cursor())

    def _create(self, file: sqlite3.Connection) -> None:
        """Create the tables in a new file, unless another process has just done so."""
        file.execute("BEGIN IMMEDIATE")
        if not self._version_of(file):
            create_tables(file)
            file.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        file.execute("COMMIT")

    def _version_of(self, file: sqlite3.Connection) -> int:
        """Return the version of the tables in *file*, 0 for a new one. Raises `StoreDown` for a file that is not ours."""
        version: int
        (version,) = file.execute("PRAGMA user_version").fetchone()
        statement = "SELECT count(*), count(*) FILTER (WHERE name = 'counter') FROM sqlite_schema"
        tables, own_tables = file.execute(statement).fetchone()
        if tables and not (own_tables and version):  # both are written in one transaction
            raise StoreDown(foreign_file(self._path))
        if version > SCHEMA_VERSION or version < 0:
            raise StoreDown(other_version(self._path, version, SCHEMA_VERSION))
        return version


def _inodes(path: Path) -> list[int]:
    """Return the inodes of the file at *path* and its journals; -1 for one that is missing."""
    found = []
    for suffix in OPEN_FILE_SUFFIXES:
        try:
            found.append(path.with_name(path.name + suffix).stat().st_ino)
        except OSError:
            found.append(-1)
    return found


def _not_open(*_: object) -> sqlite3.Cursor:
    msg = "the file is not open"
    raise sqlite3.ProgrammingError(msg)
