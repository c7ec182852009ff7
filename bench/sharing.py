"""What a request costs with several workers that count in one SQLite file, over what it costs with one."""

from __future__ import annotations

import contextlib
import statistics
from pathlib import Path
from typing import NamedTuple

from measuring import measure
from targets import sidecar
from workloads import Work

MANY = 4
SHORT = Work(1, 0, 0, 50)
"""The shortest answers: nothing is between two steps of the store."""


class Shared(NamedTuple):
    """Microseconds of CPU per request, medians, and the median ratio of a round."""

    one: float
    many: float
    ratio: float


def sharing(folder: Path, upstream: int, times: int, seconds: float) -> Shared:
    """Measure one worker and several in turn, none of them pinned."""
    with contextlib.ExitStack() as stack:
        targets = [
            stack.enter_context(sidecar(folder, upstream, SHORT.model, core=None, workers=count)) for count in (1, MANY)
        ]
        rounds = [
            [
                float(measure(each, "sharing", SHORT, seconds, folder, core=None)["cpu_us_per_request"])
                for each in targets
            ]
            for _ in range(times)
        ]
    one, many = (statistics.median(column) for column in zip(*rounds, strict=True))
    return Shared(round(one, 1), round(many, 1), round(statistics.median(b / a for a, b in rounds), 2))
