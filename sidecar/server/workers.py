"""Several processes behind one listening socket, and one that watches over them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable

MANY = 5
"""Workers that may die within a minute before the whole gives up: they would die for ever."""
MINUTE = 60.0

log = logging.getLogger("sidecar")


class Workers:
    """Forks *count* workers, starts a new one for each that dies, and ends when all of them have drained.

    *serve* runs in each worker; it is given a function to call when it serves, and returns the exit code.  The store must
    be one that processes share.
    """

    def __init__(self, count: int, serve: Callable[[Callable[[], None]], int]) -> None:
        self._count, self._serve = count, serve
        self._children: set[int] = set()
        self._stopping = False
        self._deaths: list[float] = []

    def run(self, announce: Callable[[], None]) -> int:
        """Run until a signal; *announce* is called when all workers serve.  Returns the exit code."""
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._stop)
        ready, say_ready = os.pipe()
        for _ in range(self._count):
            self._start(ready, say_ready)
        serving = 0
        os.close(say_ready)
        while serving < self._count and (said := os.read(ready, self._count)):
            serving += len(said)
        os.close(ready)
        if serving == self._count:
            announce()
        return self._watch()

    def _start(self, ready: int, say_ready: int) -> None:
        child = os.fork()
        if child:
            self._children.add(child)
            return
        code = 1
        try:
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, signal.SIG_DFL)
            if ready >= 0:
                os.close(ready)
            code = self._serve(lambda: _say(say_ready))
        except BaseException:
            log.exception("worker failed")
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _watch(self) -> int:
        worst = 0
        while self._children:
            child, status = os.wait()
            self._children.discard(child)
            code = os.waitstatus_to_exitcode(status)
            if self._stopping:
                # One that was still starting dies of the signal itself; it served nobody.
                worst = worst or (0 if code == -signal.SIGTERM else abs(code))
                continue
            log.error("worker %d ended with %d; starting another", child, code)
            now = time.monotonic()
            self._deaths = [then for then in self._deaths if now - then < MINUTE] + [now]
            if len(self._deaths) >= MANY:
                log.error("%d workers died within a minute: giving up", MANY)
                worst = 1
                self._stop()
                continue
            self._start(-1, -1)
        return worst

    def _stop(self, *_: object) -> None:
        self._stopping = True
        for child in self._children:
            try:
                os.kill(child, signal.SIGTERM)
            except ProcessLookupError:
                continue


def _say(pipe: int) -> None:
    if pipe >= 0:
        os.write(pipe, b".")
        os.close(pipe)
