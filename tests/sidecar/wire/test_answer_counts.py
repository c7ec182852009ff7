"""What a reader of answers counts: output, tokens, reported usage and finished choices."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chunks import delta, read, sse

from sidecar.wire.answer_reader import AnswerReader
from sidecar.wire.sse_reader import SSEReader


@pytest.mark.parametrize(
    ("chunk", "output"),
    [
        (delta(content="a"), True),
        (delta(content=""), False),
        (delta(reasoning="hm"), True),
        (delta(reasoning_content="hm"), True),
        (delta(refusal="no"), True),
        (delta(tool_calls=[]), False),
        (delta(tool_calls=[{"index": 0}]), True),
        (delta(function_call={"name": "f"}), True),
        (delta(role="assistant"), False),
        (delta(content=None), False),
        (delta(content=["odd"]), True),
        ({"choices": [{"delta": None}]}, False),
        ({"choices": [{"index": "0", "delta": {"content": "a"}}]}, True),
        ({"choices": {}, "usage": []}, False),
        ({"choices": [5]}, False),
    ],
)
def test_which_fields_are_output(chunk: dict[str, Any], output: bool) -> None:  # noqa: FBT001  # a column of the table
    """Text, reasoning, a refusal and a tool call are output; choices of unexpected types are read as absent."""
    assert read(sse(chunk))[0].has_output is output


@pytest.mark.parametrize(
    ("events", "finished"),
    [
        ([delta(content="a")], False),
        ([delta(content="a"), delta(finish="stop")], True),
        ([delta(content="a"), delta(finish="")], False),
        ([delta(0, content="a"), delta(1, content="b"), delta(0, finish="stop")], False),
        ([delta(0, content="a"), delta(1, content="b"), delta(0, finish="stop"), delta(1, finish="length")], True),
    ],
)
def test_answer_is_finished_once_every_choice_is(events: list[dict[str, Any]], finished: bool) -> None:  # noqa: FBT001  # a column of the table
    """An answer is finished once each seen choice has a finish reason; an empty one does not count (ollama/ollama#4357)."""
    assert read(sse(*events))[0].finished is finished


def test_reported_zero_is_no_report() -> None:
    """A reported zero never undercuts the output that was read; cached tokens are at most the prompt's."""
    for details in ({}, {"prompt_tokens_details": {"cached_tokens": 99}}):
        usage = {"prompt_tokens": 10, "completion_tokens": 0, **details}
        reading, _ = read(sse(delta(content="a"), delta(finish="stop"), {"choices": [], "usage": usage}))

        assert (reading.usage.input, reading.usage.output, reading.usage.unreported) == (10, 1, 0)
        assert reading.usage.cached == (10 if details else 0)


def test_report_in_mid_stream_is_a_lower_bound() -> None:
    """A report in mid-stream is a lower bound for a stream that breaks."""
    usage = {"prompt_tokens": 10, "completion_tokens": 1}
    reading, _ = read(sse(delta(content="a") | {"usage": usage}, delta(content="b"), delta(content="c")))

    assert (reading.usage.input, reading.usage.output) == (10, 3)


def test_negative_report_is_ignored() -> None:
    """A negative report is ignored: the tokens read are charged."""
    text = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}
    report = {"choices": [], "usage": {"prompt_tokens": -5, "completion_tokens": -7}}
    reading, _ = read(b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in (text, report)))
    assert (reading.usage.unreported, reading.usage.output) == (1, 1)


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"content": "x" * 12}, 1),
        ({"content": "\U0001f642" * 12}, 12),
        ({"content": "x" * 40, "refusal": "y" * 20}, 15),
        ({"reasoning": "x" * 40, "reasoning_content": "y" * 20}, 15),
        ({"reasoning": "x" * 40, "reasoning_content": "x" * 40}, 10),
        ({"content": "a", "tool_calls": [{}], "function_call": {}}, 1),
        ({"tool_calls": [{}]}, 0),
        ({"tool_calls": [None, {}], "audio": {}}, 0),
    ],
)
def test_tokens_are_estimated_by_bytes(fields: dict[str, Any], tokens: int) -> None:
    """All content of a piece counts, by its bytes; a tool call without content is not output."""
    reading, _ = read(sse(delta(**fields)))

    assert (reading.usage.output, reading.outputs, reading.has_output) == (tokens, tokens, tokens > 0)


def test_short_whole_answer_is_measured() -> None:
    """A whole answer is measured by its bytes, even a short one; only a streamed piece counts as one token."""
    reading = AnswerReader()
    reading.take_whole(json.dumps({"choices": [{"message": {"content": "x" * 12}}]}).encode(), as_stream=False)

    assert reading.usage.output == 3


def test_all_finished_counts_requested_choices() -> None:
    """`all_finished`: as many choices as requested have finished, and all that were seen; `finishes` counts requested ones."""
    reading, reader = AnswerReader(answers=2), SSEReader()
    seen = []
    for event in (
        delta(0, "stop", content="a"),
        delta(1, content="b"),
        delta(1, "stop"),
        delta(7, "stop"),
        delta(7, "stop"),
    ):
        reading.take(reader.feed(sse(event)))
        seen.append((reading.finished, reading.all_finished, reading.outputs + reading.finishes))

    assert seen == [(True, False, 2), (False, False, 3), (True, True, 4), (True, True, 4), (True, True, 4)]
