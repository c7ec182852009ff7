"""docs/operations.md describes the answer of `GET /v1/usage` as the code builds it."""

from __future__ import annotations

import msgspec
import pytest
from documents import blocks, rows
from places import ROOT

from sidecar.downstream.usage import read_pace, report, selection
from sidecar.downstream.usage.entry import LimitEntry

DOCUMENT = ROOT / "docs" / "operations.md"
TEXT = DOCUMENT.read_text().partition("## Usage for clients")[2].partition("\n## ")[0]


def test_table_has_the_fields_of_a_limit() -> None:
    """The table has each field of a limit, and no other."""
    named = [name.strip(" `") for row in rows(TEXT, "| field of a limit | meaning |") for name in row[0].split(",")]
    assert sorted(named) == sorted(LimitEntry.__struct_fields__)


def test_example_is_an_answer() -> None:
    """The example has the form of an answer, and its remainders are right."""
    (example,) = blocks(DOCUMENT, "json")
    found = msgspec.json.decode(example.encode(), type=report.UsageReport)
    assert len(found.limits) == 2
    for limit in found.limits:
        used = (limit.spent or 0) + (limit.held or 0)
        assert limit.left == limit.limit - used
        assert [each.left for each in limit.profiles.values()] == [
            each.limit - used for each in limit.profiles.values()
        ]
    assert set(msgspec.json.decode(example.encode())) == set(report.UsageReport.__struct_fields__)


@pytest.mark.parametrize(
    "sentence",
    [
        f"at most {selection.MAX_USAGE_MODELS} models",
        f"limits beyond {report.MAX_LISTED_LIMITS},",
        f"{read_pace.READ_BURST} answers at once and {read_pace.READS_PER_SECOND} a second",
        f"wait for up to {read_pace.MAX_READ_WAIT_SECONDS:g} s",
        f"Where {read_pace.MAX_CONCURRENT_READS} requests wait for the store and {read_pace.MAX_QUEUED_READS} behind them",
    ],
)
def test_bounds_are_those_of_the_code(sentence: str) -> None:
    """The bounds in the text are the constants of the code."""
    assert sentence in " ".join(TEXT.split())
