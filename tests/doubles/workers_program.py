"""A parent process with two workers that play a scenario. Usage: workers_program.py SCENARIO, in a folder of its own."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from sidecar.server.workers import Workers

SCENARIO = sys.argv[1]


def count_starts() -> int:
    """Return how many workers started before this one, over all processes."""
    at = 0
    while True:
        try:
            os.close(os.open(f"start-{at}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            at += 1
        else:
            return at


def serve_until_stopped(control: int) -> int:
    """Serve until the parent asks to stop or has died."""
    Path(f"serving-{os.getpid()}").touch()
    asked = os.read(control, 1)
    Path(f"{'asked' if asked else 'orphaned'}-{os.getpid()}").touch()
    return 0


def hang() -> None:
    """Stay in the start of a worker until a signal ends the process."""
    os.write(1, b"starting %d\n" % os.getpid())  # one write: the lines of two workers do not mix
    while True:
        signal.pause()


def serve(control: int, ready: Callable[[], None]) -> int:
    """Run one worker of the scenario."""
    at = count_starts()
    if SCENARIO == "dies" or (SCENARIO == "dies-first" and at < 2):
        return 3
    if SCENARIO == "hangs" or (SCENARIO == "replacement-hangs" and at >= 2):
        hang()
    ready()
    return serve_until_stopped(control)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    sys.exit(Workers(2, serve).run(lambda: print("announced", flush=True)))
