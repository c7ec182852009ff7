"""What a failure of SQLite means, and what to do about it, as one line for the log.

The extended result code decides (sqlite.org/rescode.html), not the sentence. Some codes have many causes; for those the
path is examined. The database file itself is never opened: closing it would drop the locks that this process holds on it
(sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .file_mode import FILE_SUFFIXES


class Failure(NamedTuple):
    """A cause and its remedy; `{folder}` and the like stand for what differs."""

    cause: str
    remedy: str


_MOVE_AWAY = "stop all processes that use it, then move it and its -wal and -shm files away (counting starts anew), or restore a copy"
SQLITE_FAILURES: Mapping[str, Failure] = {
    "folder_missing": Failure("its folder does not exist", "make the folder {folder} first"),
    "folder_is_file": Failure("{folder} is not a folder", "name a file in a folder"),
    "folder_closed": Failure(
        "no permission to use the folder {folder}", "let the sidecar's user read, write and enter that folder"
    ),
    "is_folder": Failure("it is a folder", "name a file"),
    "no_permission": Failure(
        "no permission to read and write the file",
        "let the sidecar's user read and write it and its -wal and -shm files",
    ),
    "read_only_file": Failure("the file is read-only", "let the sidecar's user write it and its -wal and -shm files"),
    "read_only_system": Failure("the file system is read-only", "mount it writable, or name a file on another one"),
    "full": Failure("the disk is full", "make room on the disk"),
    "no_inodes": Failure("the file system cannot hold more files", "delete files that are not needed"),
    "no_descriptors": Failure("too many open files", "raise the limit of open files (ulimit -n)"),
    "cannot_open": Failure(
        "unable to open database file", "let the sidecar's user read and write the file and its folder"
    ),
    "locked": Failure("the file is locked", "stop the program that locks it"),
    "not_a_database": Failure("the file is not a database", "name another file, or move this one away"),
    "foreign": Failure("the file holds the tables of another program", "name another file"),
    "damaged": Failure("the file is damaged", _MOVE_AWAY),
    "foreign_tables": Failure("the tables of the file are not those of the sidecar ({text})", _MOVE_AWAY),
    "other_version": Failure(
        "the file was written by another version ({found}, this one reads {known})",
        "use that version, or another file",
    ),
    "replaced": Failure(
        "the file was deleted or replaced while it was open", "keep the file, its -wal and its -shm in place"
    ),
    "locking_failed": Failure("locking the file failed", "put the file on a local disk"),
    "write_failed": Failure(
        "a write failed ({text}, {name})", "check the disk, its quota, and the limit of file sizes (ulimit -f)"
    ),
    "io": Failure("reading or writing failed ({text}, {name})", "check the disk and the log of the system"),
    "no_memory": Failure("there is no memory left", "give the sidecar more memory"),
    "unknown": Failure("{text}", "see that no other program uses the file, and that the disk works"),
}
"""All failures, by name."""
_SIMPLE_CODES = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_NOTADB: "not_a_database",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_FORMAT: "damaged",
    sqlite3.SQLITE_PROTOCOL: "locking_failed",
    sqlite3.SQLITE_NOMEM: "no_memory",
    sqlite3.SQLITE_READONLY_DBMOVED: "replaced",
    sqlite3.SQLITE_IOERR_NOMEM: "no_memory",
    sqlite3.SQLITE_IOERR_LOCK: "locking_failed",
    sqlite3.SQLITE_IOERR_SHMLOCK: "locking_failed",
    sqlite3.SQLITE_IOERR_RDLOCK: "locking_failed",
    sqlite3.SQLITE_IOERR_UNLOCK: "locking_failed",
    sqlite3.SQLITE_IOERR_SHORT_READ: "damaged",
    sqlite3.SQLITE_IOERR_CORRUPTFS: "damaged",
}
"""Failures by their extended result code, or by the primary one in its lower 8 bits, where the path does not matter."""
_NO_SUCH = re.compile("^no such |has no column named")
"""The texts of the generic `SQLITE_ERROR` for a table or column that is missing."""
_WRITE_ERRORS = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMOPEN,
}
_EXAMINED_CODES = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM}
"""Primary result codes whose cause is looked for at the path."""


def describe(error: sqlite3.Error, path: Path) -> str:
    """Return `PATH: cause; remedy` for *error* of the database at *path*. Takes a few system calls and no locks."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    text = " ".join(str(error).split())
    path_used = Path(os.path.realpath(path)) if path.is_symlink() else path
    failure = "foreign_tables" if code == sqlite3.SQLITE_ERROR and _NO_SUCH.search(text) else _failure(code, path_used)
    name = getattr(error, "sqlite_errorname", "")
    return message(failure, path, text=text, name=name, folder=path_used.parent)


def message(failure: str, path: Path, **values: object) -> str:
    """Return `PATH: cause; remedy` for the *failure* of that name; *values* are those that it names."""
    cause, remedy = SQLITE_FAILURES[failure]
    parts = {"folder": path.parent, **values}
    return f"{path}: {cause.format_map(parts)}; {remedy.format_map(parts)}"


def foreign_file(path: Path) -> str:
    """Return the message for a database of another program."""
    return message("foreign", path)


def other_version(path: Path, found: int, known: int) -> str:
    """Return the message for a file whose schema has the version *found*, where this program reads up to *known*."""
    return message("other_version", path, found=found, known=known)


def _failure(code: int | None, path: Path) -> str:
    """Return the name of the failure with the extended result *code*; a code of None is not SQLite's."""
    if code is None:
        return "unknown"
    primary = code & 0xFF
    if (found := _SIMPLE_CODES.get(code) or _SIMPLE_CODES.get(primary)) is not None:
        return found
    if primary in _EXAMINED_CODES and (found := _examined(path)) is not None:
        return found
    if primary == sqlite3.SQLITE_IOERR:
        return "write_failed" if code in _WRITE_ERRORS else "io"
    if primary == sqlite3.SQLITE_READONLY:
        return "folder_closed" if code == sqlite3.SQLITE_READONLY_DIRECTORY else "read_only_file"
    return "cannot_open" if primary in _EXAMINED_CODES else "unknown"


def _examined(path: Path) -> str | None:
    """Return the name of the failure that can be seen at *path*, or None. The file is not opened."""
    folder = path.parent
    try:
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        system = os.statvfs(folder)
    except OSError as error:
        return _FOLDER_ERRORS.get(error.errno or 0)
    if os.path.isdir(path):  # noqa: PTH112  # `Path.is_dir` raises where the folder may not be entered
        return "is_folder"
    if system.f_flag & os.ST_RDONLY:
        return "read_only_system"
    files = [each for suffix in FILE_SUFFIXES if os.path.lexists(each := path.with_name(path.name + suffix))]
    if any(not os.access(each, os.R_OK, effective_ids=True) for each in files):
        return "no_permission"
    if any(not os.access(each, os.W_OK, effective_ids=True) for each in files):
        return "read_only_file"
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return "folder_closed"
    if system.f_bavail == 0 and system.f_blocks:
        return "full"
    return "no_inodes" if system.f_files and system.f_favail == 0 else None


_FOLDER_ERRORS: Mapping[int, str] = {
    errno.ENOENT: "folder_missing",
    errno.ENOTDIR: "folder_is_file",
    errno.EACCES: "folder_closed",
    errno.EPERM: "folder_closed",
    errno.EMFILE: "no_descriptors",
    errno.ENFILE: "no_descriptors",
}
"""Failures by the error of opening the folder."""
