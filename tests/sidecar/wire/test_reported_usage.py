"""Usage reported by upstream: accepted field by field, within bounds, and only for the output before it."""

from __future__ import annotations

from typing import Any

import pytest
from chunks import delta, read, sse

from policies.api.usage import Usage

A, STOP = delta(content="a"), delta(finish="stop")


def usage(*chunks: Any) -> Usage:
    return read(sse(*chunks))[0].usage


def report(**fields: Any) -> dict[str, Any]:
    return {"choices": [], "usage": fields}


@pytest.mark.parametrize(
    ("fields", "counted"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": []}, (9, 3, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": -1.5}}, (9, 3, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4.0}}, (9, 3, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4000.5}, (9, 4001, 0)),
        ({"prompt_tokens": "9", "completion_tokens": "3"}, (9, 3, 0)),
        ({"prompt_tokens": 9, "completion_tokens": True}, (9, 1, 0)),
        ({"prompt_tokens": 9, "completion_tokens": -0.5}, (9, 1, 0)),
        ({"prompt_tokens": 9, "completion_tokens": "nan"}, (9, 1, 0)),
    ],
)
def test_field_of_an_odd_type_is_read_or_ignored(fields: dict[str, Any], counted: tuple[int, int, int]) -> None:
    """A field of an odd type is read as the number it means or ignored; the other fields are accepted."""
    found = usage(A, STOP, report(**fields))

    assert (found.input, found.output, found.cached, found.unreported) == (*counted, 0)


@pytest.mark.parametrize("later", [{}, {"prompt_tokens": None}, {"completion_tokens": -1}, {"total_tokens": 12}])
def test_reports_are_merged(later: dict[str, Any]) -> None:
    """A later report changes only the fields that it gives."""
    found = usage(A, STOP, report(prompt_tokens=9, completion_tokens=3), report(**later))

    assert (found.input, found.output) == (9, 3)
    assert usage(A, STOP, report(prompt_tokens=9, completion_tokens=3), report(completion_tokens=4)).output == 4


@pytest.mark.parametrize("absurd", [2**63 - 1, 2**70, 10_000_001, 1e300, "9" * 5_000])
def test_impossible_number_is_ignored(absurd: object) -> None:
    """A number above any context size is ignored: one such report would exhaust a tenant's budget."""
    found = usage(A, STOP, report(prompt_tokens=absurd, completion_tokens=absurd))

    assert found == Usage(output=1, unreported=1)


def test_output_after_a_report_is_added() -> None:
    """Output that is read after a report is charged in addition to it."""
    first = delta(role="assistant") | {"usage": {"prompt_tokens": 9, "completion_tokens": 0}}

    assert usage(first, *[A] * 500, STOP).output == 500
    assert usage(A | {"usage": {"completion_tokens": 40}}, A, A, STOP).output == 42


def test_last_running_report_is_exact() -> None:
    """With a running report in each chunk (vLLM), the last one is exact, even if it is below the tokens read."""
    chunks = [A | {"usage": {"prompt_tokens": 9, "completion_tokens": n // 2}} for n in range(10)]

    assert usage(*chunks, STOP).output == 4
    assert usage(*chunks).output == 10
