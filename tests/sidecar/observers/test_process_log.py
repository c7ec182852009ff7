"""The log of a whole process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PROGRAM = """
import asyncio, logging, sys
from records import make_record
from sidecar.config.log import LogSettings
from sidecar.observers.dispatch import Observers
from sidecar.observers.process_log import ProcessLog

async def main(log):
    observers = Observers([log.access], logging.getLogger("sidecar"))
    log.states.expect("store", "up")
    log.states.changed("store", "down", cause="refused")
    logging.getLogger("sidecar").warning("a diagnosis")
    for at in range(int(sys.argv[1])):
        observers.observe(make_record(request_id=str(at)))
    await observers.close(1)

log = ProcessLog(LogSettings(format="json"), worker=3)
asyncio.run(main(log))
print(log.close(float(sys.argv[2])), log.dropped)
"""

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_process_writes_one_form() -> None:
    """State changes, diagnostics and requests are JSON lines on stderr, in their order, all there after the close."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "2", "60"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=ENVIRONMENT,
    )
    assert done.stdout == "True 0\n"
    entries = [json.loads(line) for line in done.stderr.splitlines()]
    assert [entry["event"] for entry in entries] == ["state", "log", "request", "request"]
    assert entries[0]["cause"] == "refused"
    assert entries[1] == {"time": entries[1]["time"], "level": "warning", "event": "log", "logger": "sidecar",
                          "message": "a diagnosis", "worker": 3}  # fmt: skip
    assert [entry["request_id"] for entry in entries[2:]] == ["0", "1"]


def test_process_ends_while_stderr_is_blocked() -> None:
    """With a stderr that is never read, the event loop continues, and the process ends after the time-out of the close."""
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "20000", "0.05"],
            stdout=subprocess.PIPE,
            stderr=writing,
            check=True,
            timeout=60,
            env=ENVIRONMENT,
        )
        flushed, dropped = done.stdout.split()
        assert flushed == b"False"
        assert int(dropped) > 9_000
        os.close(writing)
        writing = -1
        with os.fdopen(reading, "rb") as lines:
            reading = -1
            assert all(json.loads(line)["event"] in {"state", "log", "request"} for line in lines)
    finally:
        for fd in (reading, writing):
            if fd >= 0:
                os.close(fd)
