"""Servers whose `choice.index` counts chunks: with one requested answer, every chunk belongs to choice 0."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chunks import delta, read, sse
from hypothesis import given
from hypothesis import strategies as st

from policies.api.decoding.choices import MAX_CHOICES
from policies.api.event import Event
from sidecar.wire.answer_reader import AnswerReader
from sidecar.wire.sse_reader import SSEReader


def events_of(stream: bytes, answers: int = 1) -> tuple[AnswerReader, list[Event], bytes]:
    """Read *stream* as *answers* requested answers; return the reader, its events and their bytes."""
    reading, reader = AnswerReader(answers=answers), SSEReader()
    batches = [reading.take(reader.feed(stream))]
    found = [event for batch in batches if batch for event in batch.events]
    return reading, found, b"".join(batch.raw for batch in batches if batch)


@pytest.mark.parametrize("first", [0, 1, 7])
@pytest.mark.parametrize("count", [2, 3, 40])
def test_rising_index_is_choice_0(first: int, count: int) -> None:
    """An index that rises with every chunk is index 0 for the state and for policies; the bytes stay as read.

    huggingface/text-generation-inference#1648 begins at 1, microsoft/foundry-local#263 at 0.
    """
    chunks = [delta(first + at, content="x", role="assistant") for at in range(count)]
    stream = sse(*chunks, delta(first + count, finish="stop", content=""))
    reading, events, raw = events_of(stream)

    assert {event.index for event in events} == {0}
    assert (raw, reading.finished, reading.all_finished, reading.finishes) == (stream, True, True, 1)
    assert events[-1].finish == "stop"
    assert "".join(event.text for event in events) == "x" * count


def test_policy_may_change_an_event_with_a_rising_index() -> None:
    """The payload of such an event has index 0 too, so that a policy can change it."""
    _, events, _ = events_of(sse(*[delta(at, content="x") for at in range(1, 5)]))
    for event in events:
        assert json.loads(event.with_text("y").encode()[6:]) == delta(0, content="y")
        assert event.with_payload(event.data).text == "x"


@pytest.mark.parametrize("index", [MAX_CHOICES + 5, -1, None, "0", True])
def test_policy_may_change_an_event_with_an_impossible_index(index: object) -> None:
    """An index that is read as 0 is found again as 0."""
    _, (event,), _ = events_of(sse({"choices": [{"index": index, "delta": {"content": "x"}, "finish_reason": "stop"}]}))

    made = json.loads(event.with_text("y").encode()[6:])["choices"][0]
    assert (event.index, made["delta"], made["finish_reason"]) == (0, {"content": "y"}, "stop")
    assert event.with_payload(event.data).text == "x"


def test_index_rises_beyond_the_limit_of_choices() -> None:
    """An answer of more chunks than choices are possible is one answer."""
    stream = sse(*[delta(at, content="x") for at in range(MAX_CHOICES + 40)], delta(MAX_CHOICES + 40, finish="stop"))
    reading, events, _ = events_of(stream)

    assert ({event.index for event in events}, len(events), reading.finished) == ({0}, MAX_CHOICES + 41, True)


@pytest.mark.parametrize(
    ("chunks", "indexes", "finished"),
    [
        pytest.param([(0, ""), (0, ""), (1, ""), (0, "stop")], [0, 0, 1, 0], False, id="a repeated index"),
        pytest.param([(0, ""), (1, ""), (0, "stop")], [0, 0, 0], False, id="one rise is not enough"),
        pytest.param([(0, ""), (1, ""), (0, "stop"), (1, "stop")], [0, 0, 0, 1], True, id="two choices in turn"),
        pytest.param([(0, ""), (1, "stop"), (0, "")], [0, 0, 0], False, id="the second one ends first"),
        pytest.param([(0, ""), (1, "stop"), (0, ""), (0, "stop")], [0, 0, 0, 0], True, id="and the first one later"),
        pytest.param([(0, "stop"), (1, "")], [0, 1], False, id="a choice behind the finish"),
        pytest.param([(0, ""), (1, ""), (2, ""), (2, "stop")], [0, 0, 0, 0], True, id="the finish repeats the index"),
        pytest.param([(0, ""), (1, ""), (2, ""), (0, "stop")], [0, 0, 0, 0], True, id="the finish has index 0"),
        pytest.param([(1, ""), (1, ""), (1, "stop")], [0, 0, 0], True, id="always 1"),
    ],
)
def test_index_that_counts_choices_is_kept(
    chunks: list[tuple[int, str]],
    indexes: list[int],
    finished: bool,  # noqa: FBT001  # a column of the table
) -> None:
    """An index that comes back counts choices, which upstream sends unasked."""
    reading, events, _ = events_of(sse(*[delta(index, finish or None, content="x") for index, finish in chunks]))

    assert [event.index for event in events] == indexes
    assert (reading.finished, reading.all_finished) == (finished, finished)


def test_several_choices_in_a_chunk_are_kept() -> None:
    """Choices that share a chunk are choices."""
    chunk = {"choices": [{"index": at, "delta": {"content": "x"}} for at in (0, 1)]}
    reading, events, _ = events_of(sse(chunk, delta(1, finish="stop")))

    assert ([event.index for event in events], reading.finished) == ([0, 1, 1], False)


def test_requested_choices_keep_their_indexes() -> None:
    """With several requested answers an index is what it says."""
    reading, events, _ = events_of(sse(*[delta(at, content="x") for at in range(4)]), answers=4)

    assert ([event.index for event in events], reading.finished) == ([0, 1, 2, 3], False)


PIECES = st.builds(delta, st.integers(0, 4), st.sampled_from([None, "stop"]), content=st.sampled_from(["x", ""]))


@given(st.lists(PIECES, max_size=12), st.lists(st.integers(0, 900), max_size=6))
def test_any_order_and_split_is_read(chunks: list[dict[str, Any]], cuts: list[int]) -> None:
    """Any order of indexes is read, in any split, with the same result and as many events as chunks."""
    stream = sse(*chunks, delta(0, content="end"))
    whole, split = read(stream), read(stream, cuts)

    seen = [[(event.index, event.text) for batch in batches for event in batch.events] for _, batches in (whole, split)]
    assert seen[0] == seen[1]
    assert len(seen[0]) == len(chunks) + 1
    assert whole[0].finished == split[0].finished
