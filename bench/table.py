"""Rounds of one measurement as one row, ratios to nginx, and the rows as a table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from measuring import Row

SUMMED = ("ok", "failed", "tokens")
COST = "cpu_us_per_unit"
COLUMNS = (
    ("work", "work", 8),
    ("target", "target", 18),
    ("ok", "ok", 8),
    ("failed", "failed", 7),
    (COST, "us", 9),
    ("unit", "of CPU per", 11),
    ("x_nginx", "x nginx", 8),
    ("spread_percent", "+- %", 6),
    ("others_percent", "others %", 8),
    ("first_p50_ms", "first ms", 9),
    ("per_second", "1/s", 8),
    ("resident_mb", "MB", 7),
)
WORDS = ("work", "target", "unit")


def merged(rounds: Sequence[Sequence[Row]]) -> list[Row]:
    """Return one row for each target from *rounds* of them: medians, and sums of what was counted.

    Ratios are taken within a round: what slows the machine for a while slows nginx in it too.  Of the rounds only the half
    counts in which other programs had the least of the proxy's core.
    """
    base = next((at for at, row in enumerate(rounds[0]) if row["target"] == "nginx"), None)
    return [_merged([(one[at], None if base is None else one[base]) for one in rounds]) for at in range(len(rounds[0]))]


def _merged(pairs: Sequence[tuple[Row, Row | None]]) -> Row:
    calm = sorted(pairs, key=_disturbed)[: (len(pairs) + 1) // 2]
    merged: Row = {}
    for name, value in pairs[0][0].items():
        if isinstance(value, str):
            merged[name] = value
        elif isinstance(value, bool):
            merged[name] = all(row[name] for row, _ in pairs)
        elif name in SUMMED:
            merged[name] = sum(row[name] for row, _ in pairs)
        else:
            merged[name] = round(statistics.median(row[name] for row, _ in calm), 3)
    ratios = [row[COST] / base[COST] for row, base in calm if base is not None]
    if any(ratios):
        merged["x_nginx"] = round(statistics.median(ratios), 2)
        merged["spread_percent"] = round(50 * (max(ratios) - min(ratios)) / statistics.median(ratios), 1)
    return merged


def _disturbed(pair: tuple[Row, Row | None]) -> float:
    return sum(float(row.get("others_percent", 0)) for row in pair if row is not None)


def head() -> str:
    """Return the table's first line."""
    return " ".join(f"{title:{'<' if name in WORDS else '>'}{width}}" for name, title, width in COLUMNS)


def line(row: Row) -> str:
    """Return one row as a line."""
    return " ".join(f"{_cell(row.get(name)):{'<' if name in WORDS else '>'}{width}}" for name, _, width in COLUMNS)


def _cell(value: object) -> str:
    if value is None or (value == 0.0 and isinstance(value, float)):
        return "-"
    return f"{value:.1f}" if isinstance(value, float) and value >= 100 else str(value)
