"""The reader of Responses answers: what counts as output, early ends, and hostile events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from time import process_time
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from samples.response_object import ANSWERS, MESSAGE, USAGE, response
from samples.responses import EVENTS, OBFUSCATION, STREAMS, ended, message_events, numbered, opened
from samples.sample import Sample, named_event

from policies import Event, Lease
from policies.api.decoding.token_counts import streamed_tokens
from policies.api.event import Batch
from policies.engine.event_filters import EventFilters
from sidecar.wire.answer_counts import MAX_HELD_EVENTS
from sidecar.wire.responses.events.outline import MAX_KEPT_CHARACTERS, MAX_KEPT_PARTS
from sidecar.wire.responses.reader import ResponsesReader
from sidecar.wire.sse_reader import SSEReader

DELTA: dict[str, Any] = {"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "content_index": 0}
EVENT_CLASSES = {
    get_args(each.model_fields["type"].annotation)[0]: each for each in get_args(get_args(ResponseStreamEvent)[0])
}
"""Classes of OpenAI's SDK by their type."""
STRANGE: tuple[Any, ...] = (None, True, -1, 2**70, 1.5, "", "x" * 100, [], [[]], {}, {"a": []}, [None], {"type": 1})
LIMIT_SECONDS = 1.0
"""Far above what linear code takes, far below what quadratic code takes."""


class Reading(Lease):
    """Reads every event and changes each text."""

    def on_event(self, event: Event) -> Event | None:
        return event.with_text(event.text.upper())


def taken(reader: ResponsesReader, *events: dict[str, Any]) -> Batch | None:
    return reader.take(SSEReader().feed(b"".join(map(named_event, events))))


def repeats(sample: Sample) -> bool:
    """Whether *sample* has text that its deltas would have shown, if there were any."""
    name = sample.fields["type"]
    return name.endswith("done") or name in ("response.completed", "response.incomplete")


@pytest.mark.parametrize("sample", EVENTS, ids=str)
def test_deltas_are_output_and_states_are_not(sample: Sample) -> None:
    """An event has output if and only if the model has generated text in it, or if it repeats text that no delta showed."""
    reader = ResponsesReader()
    taken(reader, sample.fields)
    assert (reader.outputs > 0) == reader.has_output
    if sample.output:
        assert 1 <= reader.outputs <= max(1, len(sample.output))
    elif not repeats(sample):
        assert reader.outputs == 0


@pytest.mark.parametrize("name", STREAMS)
def test_what_repeats_deltas_counts_nothing(name: str) -> None:
    """A whole stream counts its deltas alone, whatever repeats them."""
    reader = ResponsesReader()
    taken(reader, *STREAMS[name])
    deltas = [event["delta"] for event in STREAMS[name] if event["type"].endswith(".delta")]
    assert reader.outputs == sum(map(streamed_tokens, deltas))


def test_padding_is_not_counted() -> None:
    """`obfuscation` changes no count, in known types and in unknown ones."""
    for name in ("response.output_text.delta", "response.later.delta", "response.later"):
        reader = ResponsesReader()
        taken(reader, {"type": name, "delta": "", "obfuscation": OBFUSCATION * 9})
        assert reader.outputs == 0


@pytest.mark.parametrize(
    "fields", [{"delta": "text"}, {"delta": {"stdout": "text"}}, {"delta": ["text"]}, {"image_b64": "QUJD" * 99}, {"words": ["text"]}]
)  # fmt: skip
def test_unknown_types_count(fields: dict[str, Any]) -> None:
    """An event of a type that is not known counts by what it has."""
    reader = ResponsesReader()
    assert taken(reader, {"type": "response.later", **fields}) is not None
    assert reader.outputs > 0


@pytest.mark.parametrize("sample", [each for each in ANSWERS if each.output], ids=str)
def test_whole_answer_is_counted(sample: Sample) -> None:
    """The output of each item counts, in one object and as events."""
    for as_stream in (False, True):
        reader = ResponsesReader()
        reader.take_whole(json.dumps(sample.fields).encode(), as_stream=as_stream)
        assert len(sample.output) // 8 <= reader.outputs <= len(sample.output)


@pytest.mark.parametrize("name", [name for name in STREAMS if "fail" not in name and "error" not in name])
def test_early_end_is_valid_at_each_event(name: str) -> None:
    """Wherever a stream is ended, the events fit the types of OpenAI's SDK, are numbered on, and have the text so far."""
    events = STREAMS[name]
    for at in range(1, len(events)):
        reader = ResponsesReader()
        taken(reader, *events[:at])
        added = [json.loads(block.rpartition(b"data: ")[2]) for block in reader.cut_off(b"", 3).raw.split(b"\n\n")[:-1]]
        for event in added:
            EVENT_CLASSES[event["type"]].model_validate(event)
        assert [event["sequence_number"] for event in added] == list(range(at, at + len(added)))
        last = Response.model_validate(added[-1]["response"])
        text = "".join(each["delta"] for each in events[:at] if each["type"] == "response.output_text.delta")
        assert last.output_text == text
        assert last.status == "incomplete"
        opened_items = {each["output_index"] for each in events[:at] if each["type"] == "response.output_item.added"}
        closed = {
            each["output_index"] for each in (*events[:at], *added) if each["type"] == "response.output_item.done"
        }
        calls = name in ("function call", "custom tool")
        assert opened_items == closed or calls


@pytest.mark.parametrize("sample", EVENTS, ids=str)
def test_strange_values_break_nothing(sample: Sample) -> None:
    """Fields of any type are read without an exception, by the reader and by policies; time is bounded."""
    for field in (*sample.fields, "delta", "item", "part", "response", "error"):
        for value in STRANGE:
            changed = sample.fields | {field: value}
            if field in ("item", "part", "response"):
                variants = [
                    changed,
                    sample.fields
                    | {field: {"type": value, "content": value, "output": value, "id": value, "text": value}},
                ]
                variants.append(
                    sample.fields | {field: {"output": [{"type": "message", "content": [value, {"text": value}]}]}}
                )
            else:
                variants = [changed]
            for each in variants:
                _read_through(each)


def _read_through(*events: dict[str, Any]) -> None:
    reader = ResponsesReader()
    filters = EventFilters.of([Reading()], 1)
    assert filters is not None
    raw = b"".join(
        b"data: " + json.dumps(each).encode() + b"\n\n" for each in (*opened(), DELTA | {"delta": "a"}, *events)
    )
    if (batch := reader.take(SSEReader().feed(raw))) is not None:
        filters.apply(batch)
    filters.apply(reader.cut_off(b"", 1))


@given(st.lists(st.sampled_from([each.fields for each in EVENTS if each.fields["type"] != "error"]), max_size=12))
def test_any_order_of_events_is_read(events: Sequence[dict[str, Any]]) -> None:
    """Events in an order that no server sends are read, and the answer can be ended."""
    _read_through(*events)


@pytest.mark.parametrize("with_policy", [False, True])
@pytest.mark.parametrize(
    "events",
    [
        [DELTA | {"delta": "x", "output_index": at} for at in range(3 * MAX_KEPT_PARTS)],
        [
            {"type": "response.output_item.added", "output_index": at, "item": MESSAGE}
            for at in range(3 * MAX_KEPT_PARTS)
        ],
        [DELTA | {"delta": "x", "content_index": at // 2, "output_index": at % 2} for at in range(3 * MAX_KEPT_PARTS)],
    ],
    ids=["items", "added items", "parts"],
)
def test_many_parts_are_bounded(events: list[dict[str, Any]], *, with_policy: bool) -> None:
    """Beyond a number of items and parts nothing more is kept, in linear time; all of it is counted."""
    reader = ResponsesReader()
    filters = EventFilters.of([Reading()], 1) if with_policy else None
    taken(reader, DELTA | {"delta": "x"})
    start = process_time()
    for at in range(0, len(events), 1_000):
        batch = taken(reader, *events[at : at + 1_000])
        if filters is not None and batch is not None:
            filters.apply(batch)
    reader.cut_off(b"", 1)
    assert process_time() - start < 10 * LIMIT_SECONDS
    assert len(reader._outline.parts) <= MAX_KEPT_PARTS  # what is bounded
    assert len(reader._outline.items) <= MAX_KEPT_PARTS  # as above
    assert reader.outputs >= len([each for each in events if "delta" in each])


def test_text_beyond_the_limit_is_left_out_of_an_early_end() -> None:
    """An item whose text was not kept in full is not shown as if it were."""
    reader, size = ResponsesReader(), MAX_KEPT_CHARACTERS // 8
    taken(reader, *opened(), *message_events("a")[:2])
    for _ in range(9):
        taken(reader, DELTA | {"item_id": "msg_1", "delta": "x" * size})
    (end,) = reader.cut_off(b"", 1).raw.split(b"\n\n")[:-1]
    assert json.loads(end.rpartition(b"data: ")[2])["response"]["output"] == []
    assert reader.outputs >= 9 * size // 4


def test_events_before_output_are_bounded() -> None:
    """A stream of states without output fails instead of being kept without a limit."""
    reader = ResponsesReader()
    state = {"type": "response.web_search_call.searching", "item_id": "w", "output_index": 0}
    taken(reader, *[state] * (MAX_HELD_EVENTS + 2))
    assert reader.failure is not None


def test_long_instructions_are_repeated_before_output() -> None:
    """The first two events repeat the instructions of the request, however long they are."""
    reader = ResponsesReader()
    taken(reader, *opened(instructions="x" * 2_000_000))
    assert reader.failure is None
    batch = taken(reader, DELTA | {"delta": "x"})
    assert batch is not None
    assert len(batch.raw) > 4_000_000


def test_report_below_what_was_read_counts_as_read() -> None:
    """A report that cannot be true is replaced by the estimate."""
    reader = ResponsesReader()
    usage = USAGE | {"output_tokens": 1, "total_tokens": 12}
    taken(reader, *numbered(*opened(), *message_events(*["x"] * 50), ended("completed", MESSAGE, usage=usage)))
    assert reader.usage.output == 50


def test_answer_with_many_log_probabilities_is_read() -> None:
    """Log probabilities are not output, and a large answer with them is read in steps."""
    token = {
        "token": "a",
        "bytes": [97],
        "logprob": -0.1,
        "top_logprobs": [{"token": "a", "bytes": [97], "logprob": -0.1}] * 20,
    }
    part = {"type": "output_text", "annotations": [], "text": "a" * 400, "logprobs": [token] * 5_000}
    body = json.dumps(response("completed", [MESSAGE | {"content": [part]}])).encode()
    reader = ResponsesReader()
    steps = reader.take_whole_steps(body, as_stream=False)
    longest = 0.0
    while True:
        start = process_time()
        try:
            next(steps)
        except StopIteration:
            break
        finally:
            longest = max(longest, process_time() - start)
    assert reader.outputs == 100
    assert longest < LIMIT_SECONDS
