"""Worker processes on shared listening sockets, and the parent that replaces workers that die."""

from __future__ import annotations

import logging
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

Ready: TypeAlias = Callable[[], None]
Serve: TypeAlias = Callable[[int, Ready], int]

MAX_DEATHS = 5
"""When this many workers die within `DEATHS_SECONDS`, the parent stops all of them and gives up."""
DEATHS_SECONDS = 60.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
START_END_SIGNAL = signal.SIGUSR2
"""Ends a worker that does not read its pipe yet. A serving one ignores it: SIGTERM would count as a second stop request."""
CANNOT_START_CODE = 2
"""Exit code of a worker that can never serve: the others would fail in the same way."""
PARENT_SIGNALS = (*STOP_SIGNALS, signal.SIGHUP, signal.SIGCHLD)
PID_FORMAT = struct.Struct("i")
"""How a worker writes its process id to the parent."""
READ_BYTES = 512
"""Signals, and process ids, that are read at once from a wakeup pipe."""

_logger = logging.getLogger("sidecar")


class Wakeup(NamedTuple):
    """The pipes that the parent polls, for signals and for the process ids of ready workers, with their write ends."""

    signals: int
    signals_end: int
    ready: int
    ready_end: int


class Workers:
    """Fork *count* workers, replace each one that dies, and end when all of them have drained.

    *serve* runs in each worker and returns its exit code. It gets a file descriptor, and a function to call when it
    accepts connections. The descriptor delivers one byte per request to stop, and end of file if the parent has died.
    The store must be one that processes share. *clock* is monotonic, in seconds.
    """

    def __init__(self, count: int, serve: Serve, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._count, self._serve, self._clock = count, serve, clock
        self._control: dict[int, int] = {}
        """The write end of each running worker's control pipe, by process id."""
        self._serving: set[int] = set()
        self._stopping = self._announced = False
        self._deaths: list[float] = []
        self._code = 0

    def run(self, announce: Callable[[], None]) -> int:
        """Run until a stop signal.

        Call *announce* once, when all workers are ready. Return the exit code: 1 after giving up.
        """
        wakeup = Wakeup(*os.pipe(), *os.pipe())
        os.set_blocking(wakeup.signals, False)
        os.set_blocking(wakeup.signals_end, False)
        signal.set_wakeup_fd(wakeup.signals_end, warn_on_full_buffer=False)
        # The handlers do nothing: signals arrive through the pipe, so none is handled between fork and registration.
        for each in PARENT_SIGNALS:
            signal.signal(each, _nothing)
        poll = select.poll()
        poll.register(wakeup.signals, select.POLLIN)
        poll.register(wakeup.ready, select.POLLIN)
        for _ in range(self._count):
            self._start(wakeup)
        while self._control:
            for descriptor, _ in poll.poll():
                if descriptor == wakeup.signals:
                    self._take_signals(os.read(wakeup.signals, READ_BYTES), wakeup)
                else:
                    self._take_ready(os.read(wakeup.ready, READ_BYTES * PID_FORMAT.size))
            if not (self._announced or self._stopping) and len(self._serving) == self._count:
                self._announced = True
                announce()
        return self._code

    def _start(self, wakeup: Wakeup) -> None:
        control, control_end = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, PARENT_SIGNALS)
        child = os.fork()
        if child:
            self._control[child] = control_end
            signal.pthread_sigmask(signal.SIG_UNBLOCK, PARENT_SIGNALS)
            os.close(control)
            return
        code = 1
        try:
            _become_worker()
            for each in (*self._control.values(), control_end, wakeup.signals, wakeup.signals_end, wakeup.ready):
                os.close(each)
            code = self._serve(control, lambda: _report_ready(wakeup.ready_end))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            _logger.exception("worker failed")
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _take_signals(self, numbers: bytes, wakeup: Wakeup) -> None:
        for number in numbers:
            if number in STOP_SIGNALS:
                self._stop()
            elif number == signal.SIGHUP:
                log_hangup()
        if signal.SIGCHLD in numbers:
            self._reap(wakeup)

    def _take_ready(self, reported: bytes) -> None:
        # A worker may have died meanwhile.
        self._serving |= {pid for (pid,) in PID_FORMAT.iter_unpack(reported) if pid in self._control}

    def _reap(self, wakeup: Wakeup) -> None:
        while self._control:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            if child not in self._control:
                continue
            os.close(self._control.pop(child))
            self._serving.discard(child)
            self._ended(child, os.waitstatus_to_exitcode(status), wakeup)

    def _ended(self, child: int, code: int, wakeup: Wakeup) -> None:
        if self._stopping:
            # A worker that was still starting dies of the signal itself; it had no calls.
            self._code = self._code or (0 if -code in (*STOP_SIGNALS, START_END_SIGNAL) else min(abs(code), 1))
            return
        if code == CANNOT_START_CODE and not self._announced:
            self._code = CANNOT_START_CODE
            self._stop()
            return
        _logger.error("worker %d ended with %d; starting another", child, code)
        now = self._clock()
        self._deaths = [at for at in self._deaths if now - at < DEATHS_SECONDS] + [now]
        if len(self._deaths) < MAX_DEATHS:
            self._start(wakeup)
            return
        when = "" if self._announced else " before all of them served"
        _logger.error("%d workers died within %g seconds%s: giving up", MAX_DEATHS, DEATHS_SECONDS, when)
        self._code = 1
        self._stop()

    def _stop(self) -> None:
        """Ask each worker to stop: by its pipe, and by a signal where it does not read the pipe yet."""
        self._stopping = True
        for child, control in self._control.items():
            try:
                os.write(control, b".")
                if child not in self._serving:
                    os.kill(child, START_END_SIGNAL)
            except (BrokenPipeError, ProcessLookupError):
                continue


def log_hangup() -> None:
    """Log that SIGHUP does nothing."""
    _logger.warning("SIGHUP ignored: the configuration cannot be reloaded; restart to apply changes")


def _become_worker() -> None:
    """Reset the signal handlers of a forked worker before it can receive a signal."""
    signal.set_wakeup_fd(-1)
    for each in (*STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(each, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, lambda *_: log_hangup())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PARENT_SIGNALS)


def _report_ready(pipe: int) -> None:
    os.write(pipe, PID_FORMAT.pack(os.getpid()))
    os.close(pipe)


def _nothing(*_: object) -> None:
    """Do nothing: a handler must be set for the signal number to reach the wakeup pipe."""
