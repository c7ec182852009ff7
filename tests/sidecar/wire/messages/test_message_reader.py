"""Read answers of the Messages API: any split gives the same, each kind of output counts, usage is merged by field."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from message_events import message_of, read_events
from samples import messages
from samples.recorded_answers import LLAMA_CPP
from samples.sample import Sample, named_event

from policies.api.event import Batch
from policies.api.usage import Usage
from sidecar.wire.answer_counts import MAX_HELD_EVENTS
from sidecar.wire.error_object import MalformedAnswer
from sidecar.wire.messages.message_reader import MessageReader
from sidecar.wire.sse_reader import SSEReader

COMPLETE = ("text", "thinking", "tool use", "max_tokens", "refusal")


def stream_of(*events: dict[str, Any]) -> bytes:
    return b"".join(map(named_event, events))


def read(*parts: bytes, reading: MessageReader | None = None) -> tuple[MessageReader, list[Batch]]:
    """Return the reader and its batches after all *parts* of a body and its end."""
    reading = reading or MessageReader()
    source = SSEReader()
    batches: list[Batch] = []
    for frames in [*map(source.feed, parts), source.end()]:
        if not reading.done and reading.failure is None:
            batches += filter(None, [reading.take(frames)])
    if reading.failure is None and reading.finished:
        batches.append(reading.held())
    return reading, batches


def raw_of(batches: list[Batch]) -> bytes:
    return b"".join(batch.raw for batch in batches)


def summary(reading: MessageReader, batches: list[Batch]) -> tuple[Any, ...]:
    events = [(event.index, event.text, event.finish) for batch in batches for event in batch.events]
    return raw_of(batches), events, reading.usage, reading.done, reading.finished, repr(reading.failure)


PIECES = st.sampled_from(
    [
        *(named_event(each.fields) for each in (*messages.EVENTS, *messages.OTHER_EVENTS)),
        named_event(messages.block_delta("text_delta", "text", "Zo\u00eb \U0001f98a", 1)),
        named_event(messages.block_delta("compaction_delta", "content", "a summary")),
        named_event({"type": "new_event", "value": "some text"}),
        b'data: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "n"}}\n\n',
        b'event: content_block_delta\ndata: {"index": "0", "delta": {"type": "text_delta", "text": "untyped"}}\n\n',
        b'event: content_block_delta\r\ndata: {"type": "content_block_delta",\r\ndata: "delta": {"text": "x"}}\r\n\r\n',
        b"data: [DONE]\n\n",
        b": comment\n\n",
        b"event: message_start\ndata: {broken\n\n",
        b'data: {"error": {"message": "no", "type": "server_error"}}\n\n',
    ]
)


@given(pieces=st.lists(PIECES, max_size=12), cuts=st.lists(st.integers(0, 2_000), max_size=10))
def test_any_split_gives_the_same_answer(pieces: list[bytes], cuts: list[int]) -> None:
    """How bytes are split over reads changes neither the events nor what is known of the answer."""
    body = b"".join(pieces)
    bounds = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    parts = [body[start:end] for start, end in pairwise(bounds)]
    whole, split = read(body), read(*parts)
    assert summary(*split)[2:] == summary(*whole)[2:]
    if whole[0].failure is None:
        assert summary(*split) == summary(*whole)


@pytest.mark.parametrize("name", COMPLETE)
def test_complete_streams_pass_byte_for_byte(name: str) -> None:
    """All events of a complete stream reach the client as they came, except for pings, which the sidecar sends itself."""
    events = messages.STREAMS[name]
    reading, batches = read(stream_of(*events))
    assert raw_of(batches) == stream_of(*(event for event in events if event["type"] != "ping"))
    assert (reading.done, reading.finished, reading.failure) == (True, True, None)
    message_of(read_events(raw_of(batches)))


@pytest.mark.parametrize("sample", [*messages.EVENTS, *messages.OTHER_EVENTS[:1]], ids=str)
def test_output_of_each_event_counts(sample: Sample) -> None:
    """Text, thinking, arguments and hidden thinking count; signatures, quotations, usage and framing do not."""
    reading, _ = read(stream_of(sample.fields))
    is_call = sample.fields.get("content_block", {}).get("type") == "tool_use"
    assert (reading.outputs > 0) == (bool(sample.output) or is_call)
    assert reading.has_output == (reading.outputs > 0)


@pytest.mark.parametrize(
    "event",
    [
        messages.block_start({"type": "text", "text": "Hello there, all at once"}),
        messages.block_delta("compaction_delta", "content", "Hello there, all at once"),
        messages.block_delta("new_delta", "parts", [{"value": "Hello there, all at once"}]),
        messages.block_start({"type": "new_block", "value": "Hello there, all at once"}),
        {"type": "new_event", "value": "Hello there, all at once"},
        messages.START | {"message": messages.message(None, {"type": "text", "text": "Hello there, all at once"})},
    ],
)
def test_what_is_not_understood_counts(event: dict[str, Any]) -> None:
    """Output in an unknown delta, block or event, or where it is not expected, counts by its size."""
    assert read(stream_of(event))[0].outputs >= 6


def usage_after(*events: dict[str, Any]) -> Usage:
    return read(stream_of(*events))[0].usage


def delta(**usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}


def start(**usage: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": messages.message(None, usage=usage)}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (messages.STREAMS["text"], Usage(19, 7, 3, written=5)),
        ((start(input_tokens=11, cache_read_input_tokens=80, output_tokens=1), delta(output_tokens=9)), Usage(91, 9, 80)),
        ((start(input_tokens=0, output_tokens=0), delta(input_tokens=25, output_tokens=4)), Usage(25, 4)),
        ((start(input_tokens=25, output_tokens=1), delta(input_tokens=0, output_tokens=4)), Usage(25, 4)),
        ((start(input_tokens=11, cache_creation_input_tokens=30), delta(input_tokens=11, output_tokens=4)), Usage(41, 4, written=30)),
        ((start(input_tokens=11), delta(input_tokens=12, cache_read_input_tokens=None, output_tokens="4")), Usage(12, 4)),
        ((start(input_tokens=9), delta(output_tokens=2), delta(output_tokens=5)), Usage(9, 5)),
        ((start(input_tokens=9, output_tokens=6), *messages.text_events("a", "b")), Usage(9, 6)),
        ((start(input_tokens=1, output_tokens=1), *messages.text_events("a", "b", "c")), Usage(1, 3)),
        ((start(), *messages.text_events("a", "b")), Usage(0, 2, 0, 1)),
    ],
)  # fmt: skip
def test_usage_is_merged_by_field(events: tuple[dict[str, Any], ...], expected: Usage) -> None:
    """The last number of each field counts, zero and null are none, and cached tokens are added to `input_tokens`."""
    assert usage_after(*events) == expected


def test_iterations_outside_of_the_totals_count() -> None:
    """The compaction of a conversation is billed, although the other fields do not have it."""
    parts = [
        {"type": "compaction", "input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 5},
        {"type": "message", "input_tokens": 10, "output_tokens": 3},
    ]
    assert usage_after(start(input_tokens=10), delta(output_tokens=3, iterations=parts)) == Usage(115, 23, 5)
    assert usage_after(start(input_tokens=10), delta(output_tokens=3, iterations=parts[1:])) == Usage(10, 3)


def test_recorded_stream_of_llama_cpp() -> None:
    """A stream of llama.cpp passes unchanged; its cached tokens are outside of `input_tokens` too."""
    body = LLAMA_CPP["messages_stream.sse"]
    reading, batches = read(body)
    assert raw_of(batches) == body
    assert reading.usage == Usage(24, 3, 23)


@pytest.mark.parametrize("name", ["error", "error after text"])
def test_error_event_is_a_failure(name: str) -> None:
    """An `error` event is the failure of the answer, with its type; what came before it reaches the client."""
    reading, batches = read(stream_of(*messages.STREAMS[name]))
    assert reading.failure == {"type": "overloaded_error", "message": "Overloaded"}
    assert raw_of(batches) == (stream_of(*messages.STREAMS[name][:-1]) if "text" in name else b"")


@pytest.mark.parametrize(
    "error",
    [
        b'event: error\ndata: {"error": {"message": "no"}}\n\n',
        b'data: {"error": {"message": "no"}}\n\n',
        b'event: error\ndata: {"type": "content_block_delta", "delta": {"text": "x"}, "error": {"message": "no"}}\n\n',
        b'data: {"object": "error", "message": "no"}\n\n',
        b'data: {"type": "error", "error": {"message": "no", "type": "new_error"}}\n\n',
        b"event: error\ndata: no\n\n",
    ],
)
def test_other_forms_of_errors_are_failures(error: bytes) -> None:
    """Errors in the forms of other APIs are failures too, and are not shown as events."""
    reading, batches = read(stream_of(messages.START, *messages.text_events("a")[:2]) + error)
    assert isinstance(reading.failure, dict)
    assert reading.failure["message"] == "no"
    assert b"no" not in raw_of(batches)


def test_error_behind_the_finish_is_ignored() -> None:
    """A failure after the reason is known does not spoil a complete answer."""
    reading, batches = read(stream_of(*messages.STREAMS["text"][:-1], messages.SERVER_ERROR))
    assert reading.failure is None
    assert message_of(read_events(raw_of(batches)))["stop_reason"] == "end_turn"


@pytest.mark.parametrize("end", [b"", b"data: [DONE]\n\n"])
def test_missing_end_is_added(end: bytes) -> None:
    """A stream that ends behind its reason is complete: the client gets `message_stop`, and no `[DONE]`."""
    reading, batches = read(stream_of(*messages.STREAMS["max_tokens"][:-1]) + end)
    assert (reading.done, reading.finished) == (True, True)
    assert raw_of(batches).endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    message_of(read_events(raw_of(batches)))


def test_cut_before_the_reason_is_not_finished() -> None:
    """The stop of a block is no end: without a reason the answer was cut."""
    reading, _ = read(stream_of(*messages.STREAMS["text"][:-2]))
    assert (reading.done, reading.finished, reading.failure) == (False, False, None)


@pytest.mark.parametrize(
    ("events", "has_name"), [(messages.STREAMS["tool use"], False), (messages.STREAMS["tool use"], True)]
)
def test_names_and_types_are_restored(events: tuple[dict[str, Any], ...], *, has_name: bool) -> None:
    """An event without a name, which SDKs skip, gets that of its type; one without a type gets that of its name."""
    lines = []
    for event in events:
        fields = {name: value for name, value in event.items() if name != "type" or not has_name}
        name = f"event: {event['type']}\n" if has_name else ""
        lines.append(f"{name}data: {json.dumps(fields)}\n\n".encode())
    reading, batches = read(b"".join(lines))
    assert reading.done
    assert message_of(read_events(raw_of(batches)))["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("reason", "says_why"),
    [("refusal", True), ("pause_turn", True), ("max_tokens", True), ("model_context_window_exceeded", True), ("end_turn", False), ("tool_use", False)],
)  # fmt: skip
def test_reason_explains_an_empty_answer(reason: str, *, says_why: bool) -> None:
    """An answer without output is explained by reasons other than the usual ends."""
    reading, _ = read(stream_of(messages.START, *messages.ending(reason, output_tokens=0)))
    assert (reading.says_why, reading.has_output) == (says_why, False)


def test_held_events_are_bounded() -> None:
    """A server that sends events without output for ever is a failure."""
    reading, batches = read(stream_of(*([messages.block_start({"type": "text", "text": ""})] * (MAX_HELD_EVENTS + 2))))
    assert isinstance(reading.failure, MalformedAnswer)
    assert batches == []


@pytest.mark.parametrize("at", range(3, 10))
def test_cut_off_ends_a_stream_well(at: int) -> None:
    """A limit can end an answer anywhere: in text, in arguments, between blocks."""
    events = messages.STREAMS["tool use"][:at]
    reading, batches = read(stream_of(*events))
    cut = reading.cut_off(b"", 42)
    message = message_of(read_events(raw_of(batches) + cut.raw))
    assert message["stop_reason"] == "max_tokens"
    assert message["usage"]["output_tokens"] == reading.usage.output
    assert message["usage"]["input_tokens"] == 11
    assert (cut.last, [event.finish for event in cut.events]) == (True, ["max_tokens"])


def test_cut_off_estimates_an_unknown_prompt() -> None:
    """Where upstream has not reported the prompt, the usage has the estimate."""
    reading, _ = read(stream_of(start(output_tokens=0), *messages.text_events("a")[:2]))
    *_, ending, _ = read_events(reading.cut_off(b"", 42).raw)
    assert ending["usage"] == {"input_tokens": 42, "output_tokens": 1}


@pytest.mark.parametrize("sample", messages.ANSWERS, ids=str)
def test_whole_answer_passes_and_counts(sample: Sample) -> None:
    """One JSON object passes as it came, with its usage and its reason."""
    body = json.dumps(sample.fields).encode()
    reading = MessageReader()
    batch = reading.take_whole(body, as_stream=False)
    assert batch is not None
    assert (batch.raw, reading.usage, reading.done) == (body, Usage(19, 7, 3, written=5), True)
    assert reading.has_output == (sample.output != "")
    assert batch.events[-1].finish == sample.fields["stop_reason"]


@pytest.mark.parametrize("sample", messages.ANSWERS, ids=str)
def test_whole_answer_becomes_events(sample: Sample) -> None:
    """A client that streams gets the same message as events, with the input of calls as JSON text."""
    batch = MessageReader().take_whole(json.dumps(sample.fields).encode(), as_stream=True)
    assert batch is not None
    assert batch.last
    message = message_of(read_events(batch.raw))
    for block in message["content"]:
        if text := block.pop("partial_json", ""):
            block["input"] = json.loads(text)
    expected = sample.fields | {"stop_sequence": None}
    assert message == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (json.dumps(messages.OVERLOADED).encode(), "Overloaded"),
        (LLAMA_CPP["messages_overflow.json"], "request (2419 tokens) exceeds the available context size (512 tokens), try increasing it"),
        (b'{"detail": "Not here"}', "Not here"),
    ],
)  # fmt: skip
def test_error_object_instead_of_an_answer(body: bytes, message: str) -> None:
    """An error under status 200 is a failure, in whatever form."""
    reading = MessageReader()
    assert reading.take_whole(body, as_stream=False) is None
    assert isinstance(reading.failure, dict)
    assert reading.failure["message"] == message


@pytest.mark.parametrize(
    "body", [b"no", b"[]", b"{}", b'{"choices": []}', b'{"content": [' + b"{}," * 2_000 + b"{}]}", b"\xff"]
)
def test_malformed_answer_is_a_failure(body: bytes) -> None:
    """What is no message fails; nothing raises."""
    reading = MessageReader()
    assert reading.take_whole(body, as_stream=True) is None
    assert isinstance(reading.failure, MalformedAnswer)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "content", "text", "usage", "stop_reason", "input", "input_tokens", "error", "thinking"]), inner, max_size=5), max_leaves=20), st.booleans())  # fmt: skip
def test_no_answer_raises(value: Any, as_stream: bool) -> None:  # noqa: FBT001  # drawn by hypothesis
    """A JSON answer of any shape gives a batch or a failure."""
    reading = MessageReader()
    batch = reading.take_whole(json.dumps(value).encode(), as_stream=as_stream)
    assert (batch is None) == (reading.failure is not None)
    if batch is not None:
        assert isinstance(batch.events, list)
