"""Permissions of the SQLite file: only its owner may read who spent what, or change it.

SQLite gives its journal files (`-wal`, `-shm`, `-journal`) the mode of the main file, whatever the umask
(sqlite.org/src/file/src/os_unix.c, `findCreateFileMode`). So the main file alone must be created with the right mode.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

PRIVATE_MODE = 0o600
FILE_SUFFIXES = ("", "-wal", "-shm", "-journal")
"""Ends of the names of the files that belong to one database."""
OTHERS_MODE = stat.S_IRWXG | stat.S_IRWXO


def create_private(path: Path) -> None:
    """Create an empty file at *path* with mode 0600, unless it exists; to SQLite that is a new database.

    Errors are left to SQLite, which opens the file next. A link to a file that does not exist is followed.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(os.path.realpath(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            os.fchmod(descriptor, PRIVATE_MODE)  # a strict umask may have removed bits of the owner
        finally:
            os.close(descriptor)


def open_to_others(path: Path) -> list[str]:
    """Return the files of the database at *path* that other users may read or write, as `PATH (mode 0644)`."""
    found: list[str] = []
    for suffix in FILE_SUFFIXES:
        file = path.with_name(path.name + suffix)
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & OTHERS_MODE:
                found.append(f"{file} (mode {mode:04o})")
    return found
