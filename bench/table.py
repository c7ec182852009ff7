"""Merge the rounds of a measurement into one row per target, with ratios to nginx, and format rows as a table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from measuring import Row

SUMMED_FIELDS = ("ok", "failed", "tokens")
COST_FIELD = "cpu_us_per_unit"
TABLE_COLUMNS = (
    ("work", "work", 8),
    ("target", "target", 18),
    ("ok", "ok", 8),
    ("failed", "failed", 7),
    (COST_FIELD, "us", 9),
    ("unit", "of CPU per", 11),
    ("x_nginx", "x nginx", 8),
    ("spread_percent", "+- %", 6),
    ("others_percent", "others %", 8),
    ("first_p50_ms", "first ms", 9),
    ("per_second", "1/s", 8),
    ("resident_mb", "MB", 7),
)
TEXT_FIELDS = ("work", "target", "unit")


def merged(rounds: Sequence[Sequence[Row]]) -> list[Row]:
    """Return one row per target from *rounds*: medians of times, and sums of counts.

    Ratios are taken within a round, because a slow machine slows nginx in the same round too. Only those rounds count,
    half of all, in which other programs used least of the proxy's core.
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
        elif name in SUMMED_FIELDS:
            merged[name] = sum(row[name] for row, _ in pairs)
        else:
            merged[name] = round(statistics.median(row[name] for row, _ in calm), 3)
    ratios = [row[COST_FIELD] / base[COST_FIELD] for row, base in calm if base is not None]
    if any(ratios):
        merged["x_nginx"] = round(statistics.median(ratios), 2)
        merged["spread_percent"] = round(50 * (max(ratios) - min(ratios)) / statistics.median(ratios), 1)
    return merged


def _disturbed(pair: tuple[Row, Row | None]) -> float:
    return sum(float(row.get("others_percent", 0)) for row in pair if row is not None)


def head() -> str:
    """Return the header line of the table."""
    return " ".join(f"{title:{'<' if name in TEXT_FIELDS else '>'}{width}}" for name, title, width in TABLE_COLUMNS)


def line(row: Row) -> str:
    """Return *row* as a line of the table."""
    return " ".join(
        f"{_cell(row.get(name)):{'<' if name in TEXT_FIELDS else '>'}{width}}" for name, _, width in TABLE_COLUMNS
    )


def _cell(value: object) -> str:
    if value is None or (value == 0.0 and isinstance(value, float)):
        return "-"
    return f"{value:.1f}" if isinstance(value, float) and value >= 100 else str(value)
