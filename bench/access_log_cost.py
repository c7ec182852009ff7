"""Measure the cost of the access log: microseconds of CPU per record, for text and JSON.

`encode` is the encoding of the line, `observe` the share of the event loop's thread (level, line, queue), `process` the
whole process including the thread that writes to a pipe. Each figure is the lowest of several rounds.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from policies.api.lease import Ending
from policies.records.record import Record
from sidecar.config.log import LogFormat, LogSettings
from sidecar.observers.access_log import AccessLineFormat, AccessLog
from sidecar.observers.line_writer import LineWriter

RECORDS = 8_000
"""Records per round; fewer than the writer's queue holds."""
RECORD = Record(
    request_id="req-8c2f1d7e9b4a4c6f",
    started_at=1_764_346_831.0,
    total_seconds=1.934,
    method="POST",
    route="/v1/chat/completions",
    status=200,
    ending=Ending.DONE,
    call_id="8c2f1d7e9b4a4c6f",
    tenant="acme",
    ip="10.0.0.7",
    operation="chat",
    stream=True,
    model_asked="gpt-4o-mini",
    model_served="gpt-4o-mini-2024-07-18",
    upstream="openai",
    attempts=1,
    input_tokens=12,
    output_tokens=345,
    cost_usd=0.0012,
    upstream_after_seconds=0.004,
    first_output_seconds=0.21,
    notes=("kept 6 of 14 messages",),
)


class Cost(NamedTuple):
    """Microseconds of CPU per record."""

    encode: float
    observe: float
    process: float


def cost(form: LogFormat, rounds: int) -> Cost:
    """Return the lowest cost in *rounds* rounds, for lines in the format *form*."""
    encode = AccessLineFormat(form).encode
    line = min(_spent(lambda: encode(RECORD, "info"), time.thread_time_ns) for _ in range(rounds))
    both = [_observed(form) for _ in range(rounds)]
    return Cost(line, min(observe for observe, _ in both), min(process for _, process in both))


def _observed(form: LogFormat) -> tuple[float, float]:
    """Return the CPU of this thread and of the whole process, in microseconds per record.

    Another process reads the pipe.
    """
    reading, writing = os.pipe()
    reader = os.fork()
    if not reader:
        os.close(writing)
        while os.read(reading, 65_536):
            pass
        os._exit(0)
    os.close(reading)
    writer = LineWriter(writing, lambda count: b"%d lines dropped\n" % count)
    log = AccessLog(LogSettings(format=form), writer.write)
    begun = time.process_time_ns()
    observe = _spent(lambda: log.observe(RECORD), time.thread_time_ns)
    writer.close(60)
    process = (time.process_time_ns() - begun) / RECORDS / 1000
    assert not writer.dropped, "lines were dropped, so the figure does not count"
    os.close(writing)
    os.waitpid(reader, 0)
    return observe, process


def _spent(step: Callable[[], object], clock: Callable[[], int]) -> float:
    begun = clock()
    for _ in range(RECORDS):
        step()
    return (clock() - begun) / RECORDS / 1000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    assert threading.active_count() == 1, "the process forks, so it must have one thread"
    print("us per record   encode  observe  process")
    for form in ("text", "json"):
        print(f"{form:14}  {'  '.join(f'{value:7.2f}' for value in cost(form, rounds))}")


if __name__ == "__main__":
    main()
