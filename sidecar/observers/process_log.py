"""All log output of one process, assembled from `[log]`."""

from __future__ import annotations

import time
from collections.abc import Callable

from sidecar.config.log import LogSettings

from .access_log import AccessLog
from .entry_format import EntryFormat
from .line_writer import LineWriter
from .log_handler import LineHandler, install_log_handler
from .state_log import StateLog

STDERR_FD = 2


class ProcessLog:
    """Owns the `LineWriter` of a process, and its users: access log, state changes and stdlib `logging`.

    Create it in each worker, after the fork: it starts a thread, and becomes the only handler of stdlib `logging`.
    *worker* is the number of the worker among those that share *fd*; None for a single process. *clock* is in seconds
    since 1970.
    """

    def __init__(
        self,
        settings: LogSettings,
        *,
        fd: int = STDERR_FD,
        worker: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        entries = EntryFormat(settings.format, worker=worker)
        self._writer = LineWriter(fd, lambda count: entries.dropped(clock(), count), shared=worker is not None)
        write = self._writer.write
        self.states = StateLog(write, entries, settings.level, clock=clock)
        self.access = AccessLog(settings, write) if settings.access else None
        """The access log, an observer of records; None with `access = false`."""
        install_log_handler(LineHandler(write, entries), settings.level)

    @property
    def dropped(self) -> int:
        """Lines dropped since the start."""
        return self._writer.dropped

    def close(self, timeout: float) -> bool:
        """Write the queued lines for at most *timeout* seconds; return whether all were written.

        Blocks, so call it after the event loop has ended. Later lines are dropped.
        """
        return self._writer.close(timeout)
