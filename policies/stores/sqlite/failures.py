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
import stat
from collections.abc import Mapping
from pathlib import Path

_MOVE_IT_AWAY = "stop all processes that use it, then move it and its -wal and -shm files away (counting starts anew), or restore a copy"
SQLITE_FAILURES: Mapping[str, tuple[str, str]] = {
    "folder_missing": ("its folder does not exist", "make the folder {folder} first"),
    "folder_is_file": ("{folder} is not a folder", "name a file in a folder"),
    "folder_closed": (
        "no permission to use the folder {folder}",
        "let the sidecar's user read, write and enter that folder",
    ),
    "is_folder": ("it is a folder", "name a file"),
    "no_regular_file": (
        "it, or its -wal, -shm or -journal file, is a pipe, a socket, a device or a folder",
        "name another file, or move that away",
    ),
    "link_loop": ("its path has a loop of symbolic links", "correct the links"),
    "long_name": ("its name is too long", "name a file with a shorter name"),
    "no_permission": (
        "no permission to read and write the file",
        "let the sidecar's user read and write it and its -wal and -shm files",
    ),
    "read_only_file": ("the file is read-only", "let the sidecar's user write it and its -wal and -shm files"),
    "read_only_system": ("the file system is read-only", "mount it writable, or name a file on another one"),
    "full": ("the disk is full", "make room on the disk"),
    "no_inodes": ("the file system cannot hold more files", "delete files that are not needed"),
    "no_descriptors": ("too many open files", "raise the limit of open files (ulimit -n)"),
    "cannot_open": ("unable to open database file", "let the sidecar's user read and write the file and its folder"),
    "locked": ("the file is locked", "stop the program that locks it"),
    "not_a_database": ("the file is not a database", "name another file, or move this one away"),
    "foreign": ("the file holds the tables of another program", "name another file"),
    "damaged": ("the file is damaged", _MOVE_IT_AWAY),
    "foreign_tables": ("the tables of the file are not those of the sidecar ({text})", _MOVE_IT_AWAY),
    "other_version": (
        "the file was written by another version ({found}, this one reads {known})",
        "use that version, or another file",
    ),
    "converting": ("the file is being converted from the format of an earlier version", "wait until that is done"),
    "converted_elsewhere": (
        "another process converts the file from the format of an earlier version",
        "wait until that is done",
    ),
    "in_use_by_earlier": (
        "the file has the format of an earlier version, and another process has it open",
        "stop all earlier sidecars, then start this one: it converts the file and keeps its counters",
    ),
    "earlier_version": (
        "the file has the format of an earlier version",
        "start this version of the sidecar, which converts it and keeps its counters",
    ),
    "replaced": (
        "the file was deleted or replaced: limits start anew, what was spent before is forgotten",
        "keep the file, its -wal and its -shm in place while the sidecar runs",
    ),
    "journal_deleted": (
        "its -wal or -shm file was deleted or replaced while it was open: what was counted meanwhile may be lost",
        "never delete these files alone; the sidecar opens the files at the path anew",
    ),
    "locking_failed": ("locking the file failed", "put the file on a local disk"),
    "write_failed": (
        "a write failed ({text}, {name})",
        "check the disk, its quota, and the limit of file sizes (ulimit -f)",
    ),
    "io": ("reading or writing failed ({text}, {name})", "check the disk and the log of the system"),
    "no_memory": ("there is no memory left", "give the sidecar more memory"),
    "unknown": ("{text}", "see that no other program uses the file, and that the disk works"),
}
"""Cause and remedy of each failure, by name; `{folder}` and the like stand for what differs."""
_FAILURES_BY_RESULT_CODE = {
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
_FILE_SUFFIXES = ("", "-wal", "-shm", "-journal")
_PATH_FAILURES: Mapping[int, str] = {errno.ELOOP: "link_loop", errno.ENAMETOOLONG: "long_name"}
_NO_SUCH_NAME = re.compile("^no such |has no column named")
"""The texts of the generic `SQLITE_ERROR` for a table or column that is missing."""
_WRITE_ERROR_CODES = {
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
    path_used = Path(os.path.realpath(path)) if os.path.islink(path) else path  # noqa: PTH114  # see `_examined`
    failure = (
        "foreign_tables" if code == sqlite3.SQLITE_ERROR and _NO_SUCH_NAME.search(text) else _failure(code, path_used)
    )
    name = getattr(error, "sqlite_errorname", "")
    return _message(failure, path, text=text, name=name, folder=path_used.parent)


def _message(failure: str, path: Path, **values: object) -> str:
    """Return `PATH: cause; remedy` for the *failure* of that name; *values* are those that it names."""
    cause, remedy = SQLITE_FAILURES[failure]
    parts = {"folder": path.parent, **values}
    return f"{path}: {cause.format_map(parts)}; {remedy.format_map(parts)}"


def unusable_path(path: Path) -> str | None:
    """Return the message for a path that must not be opened, or None. Takes a few system calls.

    Opening a pipe may block for ever, and SQLite would write to an empty device as if it were a new file.
    """
    for suffix in _FILE_SUFFIXES:
        try:
            mode = os.stat(f"{path}{suffix}").st_mode  # noqa: PTH116  # `Path` takes longer, and may raise ValueError
        except OSError as error:
            if (failure := _PATH_FAILURES.get(error.errno or 0)) is not None:
                return _message(failure, path)
        else:
            if not stat.S_ISREG(mode):
                is_folder = not suffix and stat.S_ISDIR(mode)
                return _message("is_folder" if is_folder else "no_regular_file", path)
    return None


def foreign_file(path: Path) -> str:
    """Return the message for a database of another program."""
    return _message("foreign", path)


def other_version(path: Path, found: int, known: int) -> str:
    """Return the message for a file whose schema has the version *found*, where this program reads up to *known*."""
    return _message("other_version", path, found=found, known=known)


def converting_file(path: Path) -> str:
    """Return the message for a file that this process is converting."""
    return _message("converting", path)


def converted_elsewhere(path: Path) -> str:
    """Return the message for a file that another process is converting."""
    return _message("converted_elsewhere", path)


def in_use_by_earlier(path: Path) -> str:
    """Return the message for a file of an earlier version that another process has open."""
    return _message("in_use_by_earlier", path)


def earlier_version(path: Path) -> str:
    """Return the message for a file of an earlier version, where it is not to be converted."""
    return _message("earlier_version", path)


def replaced_file(path: Path) -> str:
    """Return the message for a file that is no longer the one which this process used before."""
    return _message("replaced", path)


def deleted_journal(path: Path) -> str:
    """Return the message for a file whose WAL was deleted while this process had it open."""
    return _message("journal_deleted", path)


def _failure(code: int | None, path: Path) -> str:
    """Return the name of the failure with the extended result *code*; a code of None is not SQLite's."""
    if code is None:
        return "unknown"
    primary = code & 0xFF
    if (found := _FAILURES_BY_RESULT_CODE.get(code) or _FAILURES_BY_RESULT_CODE.get(primary)) is not None:
        return found
    if primary in _EXAMINED_CODES and (found := _examined(path)) is not None:
        return found
    if primary == sqlite3.SQLITE_IOERR:
        return "write_failed" if code in _WRITE_ERROR_CODES else "io"
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
        return _FAILURES_BY_ERRNO.get(error.errno or 0)
    if os.path.isdir(path):  # noqa: PTH112  # `Path.is_dir` raises where the folder may not be entered
        return "is_folder"
    if system.f_flag & os.ST_RDONLY:
        return "read_only_system"
    files = [each for suffix in _FILE_SUFFIXES if os.path.lexists(each := path.with_name(path.name + suffix))]
    if any(not os.access(each, os.R_OK, effective_ids=True) for each in files):
        return "no_permission"
    if any(not os.access(each, os.W_OK, effective_ids=True) for each in files):
        return "read_only_file"
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return "folder_closed"
    if system.f_bavail == 0 and system.f_blocks:
        return "full"
    return "no_inodes" if system.f_files and system.f_favail == 0 else None


_FAILURES_BY_ERRNO: Mapping[int, str] = {
    errno.ENOENT: "folder_missing",
    errno.ENOTDIR: "folder_is_file",
    errno.EACCES: "folder_closed",
    errno.EPERM: "folder_closed",
    errno.EMFILE: "no_descriptors",
    errno.ENFILE: "no_descriptors",
}
"""Failures by the error of opening the folder."""
