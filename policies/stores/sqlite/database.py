"""One SQLite file and its transactions.

The journal is a WAL with `synchronous = NORMAL`: a crash of the process loses nothing, a loss of power at most the last
moments.

Between two transactions a read may be left open.  The next one then begins at a third of the cost, and only if nobody
else has written meanwhile; else the read is given up, and it begins anew.  While it is open the journal cannot be begun
anew by anybody, so it is never open for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TypeAlias

from policies.api.store import StoreDown

SQL: TypeAlias = Callable[..., sqlite3.Cursor]

VERSION = 3
BUSY = 2.0
STAY, STAY_SECONDS = 64, 0.1
"""So many transactions and so long a read is left open."""
JOURNAL = 8_388_608
"""Bytes to which a journal that has grown beyond them is cut when it begins anew."""
SHY = 256
"""So many transactions it is not tried again where others write too."""
CURES = {
    "not a database": "name another file, or move this one away",
    "disk is full": "make room on the disk",
    "readonly": "let the sidecar write to the file and its folder",
    "unable to open": "let the sidecar read and write the file and its folder",
    "locked": "is something else holding the file? stop it",
    "malformed": "move the file away; counting begins anew",
}


class Database:
    """As a context, one transaction, which nothing may wait in.

    `sql` runs a statement and `many` one for each row; what they return is good until the next statement.  In a transaction
    `same` says that surely nobody else has written since the last one.  `sqlite3.Error` becomes `StoreDown`; after any error the
    file is opened anew for the next transaction, and is `fresh` then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self.sql: SQL = _closed
        self.many: SQL = _closed
        self.fresh = True
        self.same = self.shared = False
        self._version = 0
        self._reader: sqlite3.Cursor | None = None
        self.stays = self._shy = 0
        """For so many more transactions a read is left open; and for so many it is not tried."""
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        try:
            if self.stays:
                try:
                    self.sql("BEGIN IMMEDIATE")
                except sqlite3.OperationalError as error:
                    self._give_way(error)
                else:
                    self.same = True
                    return
            if self._connection is None:
                self._open()
            self.sql("BEGIN IMMEDIATE")
            if self._shy or self.shared:
                self.same = False
            else:
                (version,) = self.sql("PRAGMA data_version").fetchone()
                self.same, self._version = version == self._version, version
        except sqlite3.Error as error:
            self.close()
            raise StoreDown(self._words(error)) from error

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            try:
                if self.stays:
                    self.stays -= 1
                    if not self.stays:
                        self.leave()
                self.sql("COMMIT")
            except sqlite3.Error as failed:
                error = failed
            else:
                return
        self.close()
        if isinstance(error, sqlite3.Error):
            raise StoreDown(self._words(error)) from error

    def stay(self) -> None:
        """Leave a read open after this transaction, for the next ones.

        Not where others use the file: while it is open, what they write stays in the journal, and nobody can end it but us.
        """
        if self.stays or self._reader is None or self.shared:
            return
        if self._shy:
            self._shy -= 1
            return
        self._reader.execute("SELECT at FROM tidied")
        self.stays = STAY
        self._timer = asyncio.get_running_loop().call_later(STAY_SECONDS, self.leave)

    def leave(self) -> None:
        """End the read that was left open."""
        self.stays = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._reader is not None:
            self._reader.fetchall()

    def _give_way(self, error: sqlite3.OperationalError) -> None:
        """End the read that was left open where somebody else writes or has written; any other *error* is raised."""
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise error
        self.leave()
        self._shy = SHY

    def look(self) -> None:
        """Let go of a file that is not the one at its path any more: whoever opens that would count apart from us."""
        if self._connection is not None and _inode(self._path) != self._inode:
            self.close()

    def close(self) -> None:
        """Let go of the file, and of what is not committed."""
        connection, self._connection, self.sql, self.many = self._connection, None, _closed, _closed
        self.same = False
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self.leave()
            self._reader = None
            with contextlib.suppress(sqlite3.Error):
                connection.rollback()  # a cursor that is still referred to would keep the file locked
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _open(self) -> None:
        file = sqlite3.connect(self._path, timeout=BUSY, isolation_level=None, cached_statements=64)
        try:
            # A step writes two pages, whole ones, into the journal: small ones cost less, and most rows still fit.
            file.execute("PRAGMA page_size = 2048")
            _keep_a_wal(file)
            file.execute("PRAGMA synchronous = NORMAL")
            file.execute(f"PRAGMA journal_size_limit = {JOURNAL}")
            file.execute("BEGIN IMMEDIATE")
            (version,) = file.execute("PRAGMA user_version").fetchone()
            (tables,) = file.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if version == 0 and tables:
                msg = f"{self._path} holds the tables of another program; name another file"
                raise StoreDown(msg)
            if version == 0:
                for statement in resources.files(__package__).joinpath("schema.sql").read_text("utf-8").split(";"):
                    file.execute(statement)
                file.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                msg = f"{self._path} was written by another version ({version}, this one reads {VERSION}); use another file"
                raise StoreDown(msg)
            file.execute("COMMIT")
        except BaseException:
            file.close()
            raise
        # One cursor for all: a new one for each statement costs more than some of them.
        cursor = file.cursor()
        self._inode = _inode(self._path)
        self._connection, self.sql, self.many, self.fresh = file, cursor.execute, cursor.executemany, True
        self._reader, self._version = file.cursor(), -1

    def _words(self, error: sqlite3.Error) -> str:
        said = str(error)
        if not self._path.parent.is_dir():
            return f"{self._path}: {said}; make the folder {self._path.parent} first"
        cure = next(
            (cure for words, cure in CURES.items() if words in said), "see that nothing else writes to the file"
        )
        return f"{self._path}: {said}; {cure}"


def _keep_a_wal(file: sqlite3.Connection) -> None:
    """Make the file's journal a WAL.  SQLite waits for nobody here: of those that find a new file, one succeeds at once."""
    until = time.monotonic() + BUSY
    while True:
        try:
            file.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.001)
        else:
            return


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return -1


def _closed(*_: object) -> sqlite3.Cursor:
    msg = "the file is not open"
    raise sqlite3.ProgrammingError(msg)
