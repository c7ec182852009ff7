"""The conversion of a SQLite file of an earlier version: in a thread, once, while other processes wait for its end.

Nothing waits in the event loop: as long as the file is being converted, opening it raises `FileConverting`.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

from policies.stores.batching.group_commit import StoreBusy

from .failures import converting_file

CANCEL_SECONDS = 1.0
"""Longest wait for the end of a conversion that is cancelled. The last step is not interrupted: it may go on until the process ends."""
OTHER_CONVERSION_SECONDS = 600
"""How long a start waits for the conversion of the file by another process."""
CONVERSION_POLL_SECONDS = 0.05
_log = logging.getLogger("sidecar.store")


class FileConverting(StoreBusy):
    """The file is being converted from the format of an earlier version."""


class ConvertedElsewhere(FileConverting):
    """Another process converts the file."""


class Conversion:
    """Converts the file at *path* to the format *version* by *convert*, which ends early when its argument returns True."""

    def __init__(self, path: Path, version: int, convert: Callable[[Callable[[], bool]], None]) -> None:
        self._path, self._version, self._execute = path, version, convert
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._is_cancelled = False

    def check(self) -> None:
        """Start the conversion, or return if it has ended.

        Raises `FileConverting` while it runs, and what it has raised: `StoreBusy` if a process of the earlier version has
        the file open, `sqlite3.Error`.
        """
        if self._thread is None:
            self._error = None
            self._thread = threading.Thread(target=self._convert, name="sqlite-conversion", daemon=True)
            self._thread.start()
        if self._thread.is_alive():
            raise FileConverting(converting_file(self._path))
        self._thread = None
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """End a conversion that runs, and wait for that; the file stays as it was."""
        self._is_cancelled = True
        if self._thread is not None:
            self._thread.join(CANCEL_SECONDS)

    def is_elsewhere(self) -> bool:
        """Return whether another process, which has locked the file, converts it."""
        return 0 < version_of_locked(self._path) < self._version

    def _convert(self) -> None:
        try:
            self._execute(lambda: self._is_cancelled)
        except BaseException as error:  # noqa: BLE001  # it is raised by `check`
            self._error = error


async def wait_until_converted(
    open_file: Callable[[], None], sleep: Callable[[float], Awaitable[None]], patience: float
) -> None:
    """Call *open_file* until the file is converted. Raises `StoreDown`.

    A file that another process converts is waited for as long as `OTHER_CONVERSION_SECONDS` say, one that is locked otherwise
    for *patience* seconds.
    """
    locked_seconds = converting_seconds = 0.0
    while True:
        try:
            open_file()
        except ConvertedElsewhere as error:
            if converting_seconds >= OTHER_CONVERSION_SECONDS:
                raise
            if not converting_seconds:
                _log.warning("%s (at most %d seconds)", error, OTHER_CONVERSION_SECONDS)
            converting_seconds, locked_seconds = converting_seconds + CONVERSION_POLL_SECONDS, 0.0
        except FileConverting:
            locked_seconds = 0.0
        except StoreBusy:
            if locked_seconds >= patience:
                raise
            locked_seconds += CONVERSION_POLL_SECONDS
        else:
            return
        await sleep(CONVERSION_POLL_SECONDS)


def version_of_locked(path: Path) -> int:
    """Return the version of the file at *path* without taking a lock, as it was before the WAL; 0 if it cannot be read.

    The file is opened by SQLite: if it was opened otherwise, closing it would drop the locks that this process has on it.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)) as file:
            version: int = file.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error:
        return 0
    return version
