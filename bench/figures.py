"""Figures with their promised bounds, from the measured rows and from separate benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from measuring import Row
from targets import SIDECAR


class Figure(NamedTuple):
    """One figure. `bound` is its promised maximum, None without a promise."""

    name: str
    value: float
    unit: str
    bound: float | None = None

    @property
    def line(self) -> str:
        """The figure as a line of text."""
        text = f"{self.name:62} {self.value:>9} {self.unit:8}"
        if self.bound is None:
            return text.rstrip()
        return f"{text} at most {self.bound:<6g} {'held' if self.value <= self.bound else 'NOT HELD'}"


def from_rows(rows: Sequence[Row]) -> Iterator[Figure]:
    """Yield the figures of the sidecar on `/v1` from *rows*."""
    found = {(row["work"], row["target"]): row for row in rows}
    for work, label in (
        ("one", "CPU per request, 1 token, 1 connection"),
        ("burst", "CPU per request, 64 tokens at once, 50 connections"),
        ("paced", "CPU per token, 300 streams of 50 tokens/s"),
        ("prompts", "CPU per request, prompt of 100 kB"),
        ("plain", "CPU per request, 64 tokens without stream, 50 connections"),
    ):
        if (row := found.get((work, SIDECAR))) is not None:
            yield Figure(label, row["cpu_us_per_unit"], "us")
            if "x_nginx" in row:
                yield Figure(f"{label}: compared with nginx", row["x_nginx"], "x")
    one, direct = found.get(("one", SIDECAR)), found.get(("one", "direct"))
    if one is not None and direct is not None:
        added = round(one["first_p50_ms"] - direct["first_p50_ms"], 3)
        yield Figure("added time to the first token, p50, 1 connection", added, "ms", 0.6)
    if (row := found.get(("idle", SIDECAR))) is not None:
        yield Figure("resident memory at 300 open streams", row["resident_mb"], "MB", 110)
    if (row := found.get(("many", SIDECAR))) is not None:
        yield Figure("resident memory at 2,000 open streams", row["resident_mb"], "MB", 180)
    if (row := found.get(("slow", SIDECAR))) is not None:
        per_reader = round(row["grown_mb"] * 1000 / 50, 1)
        yield Figure("memory per client that does not read 3 MB", per_reader, "kB")
