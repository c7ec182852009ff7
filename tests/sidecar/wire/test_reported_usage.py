"""Usage reported by upstream: accepted field by field, within bounds, and only for the output before it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chunks import delta, read, sse
from hypothesis import given
from hypothesis import strategies as st
from usage_samples import RUNNING_TOTALS, SAMPLES, Sample

from policies.api.usage import Usage
from sidecar.wire.answer_reader import AnswerReader

A, STOP = delta(content="a"), delta(finish="stop")
LONG_TEXT = "one two three four five six seven eight nine ten "
"""10 words; 13 tokens by its bytes."""
ARGUMENTS = delta(tool_calls=[{"index": 0, "function": {"arguments": '{"'}}])
"""A piece of a tool call that is one token; 3 by its bytes."""


def usage(*chunks: Any) -> Usage:
    return read(sse(*chunks))[0].usage


def whole(answer: dict[str, Any]) -> Usage:
    reading = AnswerReader()
    reading.take_whole(json.dumps(answer).encode(), as_stream=False)
    return reading.usage


def report(**fields: Any) -> dict[str, Any]:
    return {"choices": [], "usage": fields}


def counted(found: Usage) -> tuple[int, int, int]:
    assert found.unreported == (0 if found.input else 1)
    return found.input, found.output, found.cached


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.server)
def test_report_of_every_server_is_read(sample: Sample) -> None:
    """The figures of every known form of report are read from a stream."""
    assert counted(usage(A, STOP, {"choices": [], **sample.fields})) == sample.counted


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.server)
def test_whole_answer_of_every_server_is_read(sample: Sample) -> None:
    """The figures of every known form of report are read from a whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    own = sample.fields.get("choices", [{}])[0]
    answer = {**sample.fields, "choices": [{**choice, **{key: own[key] for key in own if key == "usage"}}]}

    assert counted(whole(answer)) == sample.counted


@pytest.mark.parametrize("sample", RUNNING_TOTALS, ids=lambda sample: sample.server)
def test_running_totals_are_not_added_up(sample: Sample) -> None:
    """Of a stream that reports in each chunk the last figures count (vllm-project/vllm#7262)."""
    *running, last = sample.fields["reports"]
    found = usage(*(A | {"usage": each} for each in running), STOP, report(**last))

    assert counted(found) == sample.counted


@given(
    fields=st.dictionaries(
        st.sampled_from(
            [
                *("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"),
                *("cached_tokens", "cache_read_input_tokens", "prompt_cache_hit_tokens", "reasoning_tokens"),
                *("prompt_tokens_details", "completion_tokens_details"),
            ]
        ),
        st.none()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | st.lists(st.none(), max_size=1)
        | st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens"]), st.integers() | st.floats()),
        max_size=6,
    ),
    pieces=st.integers(0, 40),
)
def test_no_report_makes_a_call_cheaper_than_what_was_read(fields: dict[str, Any], pieces: int) -> None:
    """Whatever upstream reports, pieces of one token are charged, the prompt is charged, and cached tokens are part of it."""
    found = usage(*[A] * pieces, STOP, report(**json.loads(json.dumps(fields), parse_constant=lambda _: None)))

    assert found.output >= pieces
    assert 0 <= found.cached <= found.input
    assert bool(found.input) != bool(found.unreported)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": []}, (9, 3, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": -1.5}}, (9, 3, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4.0}}, (9, 3, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 99}}, (9, 3, 9)),
        ({"prompt_tokens": 9, "completion_tokens": 4000.5}, (9, 4001, 0)),
        ({"prompt_tokens": "9", "completion_tokens": "3"}, (9, 3, 0)),
        ({"prompt_tokens": "9.0", "completion_tokens": " 3 "}, (9, 3, 0)),
        ({"prompt_tokens": 9, "completion_tokens": True}, (9, 1, 0)),
        ({"prompt_tokens": 9, "completion_tokens": -0.5}, (9, 1, 0)),
        ({"prompt_tokens": 9, "completion_tokens": "nan"}, (9, 1, 0)),
        ({"prompt_tokens": "inf", "completion_tokens": "many"}, (0, 1, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 5}, (9, 3, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": -20}, (9, 3, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 20_000_000}, (9, 3, 0)),
        ({"prompt_tokens": 9, "total_tokens": 19}, (9, 10, 0)),
        ({"prompt_tokens": 0, "completion_tokens": 3, "total_tokens": 5_000}, (0, 3, 0)),
        ({"completion_tokens": 3, "total_tokens": 5_000}, (4_997, 3, 0)),
    ],
)
def test_field_of_an_odd_value_is_read_or_ignored(fields: dict[str, Any], expected: tuple[int, int, int]) -> None:
    """A field of an odd value is read as the number it means or ignored; the other fields are accepted."""
    assert counted(usage(A, STOP, report(**fields))) == expected


@pytest.mark.parametrize(
    "later",
    [
        {},
        {"prompt_tokens": None},
        {"completion_tokens": -1},
        {"total_tokens": 12},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    ],
)
def test_reports_are_merged(later: dict[str, Any]) -> None:
    """A later report changes only the fields that it gives; a zero gives nothing."""
    found = usage(A, STOP, report(prompt_tokens=9, completion_tokens=3), report(**later))

    assert (found.input, found.output) == (9, 3)
    assert usage(A, STOP, report(prompt_tokens=9, completion_tokens=3), report(completion_tokens=4)).output == 4


@pytest.mark.parametrize("absurd", [2**63 - 1, 2**70, 10_000_001, 1e300, "9" * 5_000])
def test_impossible_number_is_ignored(absurd: object) -> None:
    """A number above any context size is ignored: one such report would exhaust a tenant's budget."""
    found = usage(A, STOP, report(prompt_tokens=absurd, completion_tokens=absurd, total_tokens=absurd))

    assert found == Usage(output=1, unreported=1)


def test_output_after_a_report_is_added() -> None:
    """Output that is read after a report is charged in addition to it."""
    first = delta(role="assistant") | {"usage": {"prompt_tokens": 9, "completion_tokens": 0}}

    assert usage(first, *[A] * 500, STOP).output == 500
    assert usage(A | {"usage": {"completion_tokens": 40}}, A, A, STOP).output == 42


@pytest.mark.parametrize("completion", [0, 1, 9])
def test_report_below_the_pieces_read_is_false(completion: int) -> None:
    """Ten pieces are at least ten tokens: a lower report does not count, neither in a complete nor in a broken stream."""
    chunks = [A] * 10

    assert usage(*chunks, STOP, report(prompt_tokens=9, completion_tokens=completion)).output == 10
    assert usage(*chunks, report(prompt_tokens=9, completion_tokens=completion)).output == 10


@pytest.mark.parametrize("end", [(STOP,), ()], ids=["complete", "broken"])
@pytest.mark.parametrize(
    ("piece", "read_tokens", "least"),
    [(delta(content=LONG_TEXT), 13, 9), (delta(reasoning=LONG_TEXT), 13, 9), (ARGUMENTS, 3, 1)],
    ids=["text", "reasoning", "tool call"],
)
def test_believable_report_counts_where_the_estimate_is_higher(
    piece: dict[str, Any], read_tokens: int, least: int, end: tuple[Any, ...]
) -> None:
    """Tokens of long pieces and tool calls are estimated: a report of at least what they must be counts instead."""

    def output(completion: int) -> int:
        return usage(*[piece] * 5, *end, report(prompt_tokens=9, completion_tokens=completion)).output

    assert usage(*[piece] * 5, *end).output == 5 * read_tokens
    assert output(5 * least) == 5 * least
    assert output(5 * least - 1) == 5 * read_tokens
    assert output(5 * read_tokens + 1) == 5 * read_tokens + 1


@pytest.mark.parametrize(
    ("text", "read_tokens", "least"),
    [
        (LONG_TEXT * 10, 123, 100),
        ("=" * 1_280, 320, 10),
        (" " * 1_280, 320, 10),
        ("漢字" * 160, 240, 20),
        ("a" * 65_535 + " b" * 32_768, 32_768, 131_071 // 128),
    ],
    ids=["words", "one run", "white space", "Chinese", "beyond the counted part"],
)
def test_whole_answer_has_at_least_its_words(text: str, read_tokens: int, least: int) -> None:
    """A whole answer has at least as many tokens as words; text without spaces is bounded by the longest tokens."""

    def output(**fields: int) -> int:
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        return whole({"choices": [choice], "usage": {"prompt_tokens": 9, **fields}}).output

    assert output() == read_tokens
    assert output(completion_tokens=least) == least
    assert output(completion_tokens=least - 1) == read_tokens


def test_usage_per_choice_is_complete() -> None:
    """A report beside the first of two choices counts both of them, like that of the chunk that they share."""
    choices = [{"index": at, "delta": {"content": "a"}, "finish_reason": "stop"} for at in range(2)]
    choices[0]["usage"] = {"prompt_tokens": 9, "completion_tokens": 2}

    assert counted(usage({"choices": choices})) == (9, 2, 0)


@pytest.mark.parametrize("as_event", [False, True])
def test_usage_beside_an_error_counts(as_event: bool) -> None:  # noqa: FBT001  # a column of the table
    """Usage beside an error counts, in a stream with the output beside it, and in a whole answer."""
    failed = {"error": {"message": "no"}, "usage": {"prompt_tokens": 9, "completion_tokens": 5}}
    last = failed | {"choices": [{"index": 0, "delta": {"content": "b"}}]}
    event = b"event: error\n" * as_event + sse(last)
    reading, _ = read(sse(A) + event)

    assert reading.failure is not None
    assert counted(reading.usage) == (9, 5, 0)
    assert counted(whole(failed)) == (9, 5, 0)


@pytest.mark.parametrize("text", ['"usage":{"completion_tokens":77}', '{"timings":{"predicted_n":77}}'])
def test_usage_in_text_is_text(text: str) -> None:
    """JSON of a report in the text of an answer is no report."""
    assert usage(A, delta(content=text, finish="stop")).unreported == 1
    assert usage(A, delta(content=text, finish="stop")).output < 20


@pytest.mark.parametrize(
    "odd", ['{"usage": [', '{"choices": [5], "x_groq": 7, "timings": [], "usage": "x"}', '"usage"']
)
def test_malformed_report_is_ignored(odd: str) -> None:
    """A place of an unexpected type holds no report."""
    whole = AnswerReader()
    whole.take_whole(odd.encode(), as_stream=False)

    assert whole.usage == Usage(unreported=1)
