"""Measure a request with several workers on one SQLite file, compared with one worker."""

from __future__ import annotations

import contextlib
import statistics
from pathlib import Path
from typing import NamedTuple

from measuring import measure
from targets import sidecar
from workloads import Work

WORKER_COUNT = 4
SHORT_ANSWER = Work(1, 0, 0, 50)
"""The shortest answers, so that the steps of the store follow each other directly."""


class Shared(NamedTuple):
    """Microseconds of CPU per request (medians), and the median ratio within a round."""

    one: float
    many: float
    ratio: float


def sharing(folder: Path, upstream: int, times: int, seconds: float) -> Shared:
    """Measure one worker and several alternately, none of them pinned to a core."""
    with contextlib.ExitStack() as stack:
        targets = [
            stack.enter_context(sidecar(folder, upstream, SHORT_ANSWER.model, core=None, workers=count))
            for count in (1, WORKER_COUNT)
        ]
        rounds = [
            [
                float(measure(each, "sharing", SHORT_ANSWER, seconds, folder, core=None)["cpu_us_per_request"])
                for each in targets
            ]
            for _ in range(times)
        ]
    one, many = (statistics.median(column) for column in zip(*rounds, strict=True))
    return Shared(round(one, 1), round(many, 1), round(statistics.median(b / a for a, b in rounds), 2))
