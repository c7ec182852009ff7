"""Output in other forms than a `content` string: lists of parts, images, annotations, fields of vendors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chunks import delta, read, sse

from policies.api.decoding.token_counts import MEDIA_TOKENS
from policies.api.event import Event
from sidecar.wire.answer_counts import MAX_HELD_BYTES, MAX_HELD_EVENTS
from sidecar.wire.answer_reader import AnswerReader
from sidecar.wire.decoding.value_count import MAX_EVENT_VALUES

THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hm, "}]}
"""As Mistral streams it (BerriAI/litellm#16272)."""
SUMMARY = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm", "signature": ""}]}
"""As Databricks sends it."""
TEXT = {"type": "text", "text": "Hello"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2_000_000}}
"""As OpenRouter sends it (OpenRouterTeam/ai-sdk-provider#167)."""
DETAIL = {
    "type": "reasoning.encrypted",
    "data": "gAAAA" * 20,
    "id": "rs_1",
    "format": "openai-responses-v1",
    "index": 0,
}
CITATION = {
    "type": "url_citation",
    "url_citation": {"url": "https://example.org/", "title": "Example", "start_index": 0},
}

OUTPUT: list[dict[str, Any]] = [
    {"content": [TEXT]},
    {"content": [THINKING]},
    {"content": TEXT},
    {"content": ["Hello"]},
    {"content": [{"type": "output_text", "text": {"value": "Hello", "annotations": []}}]},
    {"content": [{"type": "reference", "reference_ids": [1]}]},
    {"content": [PICTURE]},
    {"content": None, "images": [PICTURE]},
    {"content": "", "annotations": [CITATION]},
    {"content": "", "reasoning_details": [DETAIL]},
    {"reasoning": {"text": "hm"}},
    {"thinking": "hm"},
    {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": ""}]},
    {"audio_content": "UklGRg=="},
    {"executed_tools": [{"name": "search", "arguments": "{}"}]},
    {"extra_content": {"google": {"thought_signature": "abc"}}},
    {"codes": [4, 5, 6]},
    {"vendor": {"deep": [[{"x": "y"}]]}},
]
NO_OUTPUT: list[dict[str, Any]] = [
    {},
    {"content": "", "refusal": None, "tool_calls": [], "function_call": None, "audio": None},
    {"name": "MiniMax AI", "audio_content": ""},
    {"id": "msg_1", "type": "message", "object": "message", "model": "m", "token_id": 198, "channel": "analysis"},
    {"content": [], "images": [], "annotations": None, "reasoning_details": [{}]},
    {"content": [None], "vendor": {"a": [[], {}, ""]}},
    {"content": [{"type": "text", "text": ""}, {"type": "thinking", "thinking": []}]},
    {"prefix": False, "partial": True, "weight": 0},
    {"provider_specific_fields": {"refusal": None}, "index": 3, "created_at": 1758888848},
]


def whole(message: dict[str, Any], **more: Any) -> bytes:
    """Return a whole answer with *message*."""
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], **more}).encode()


def read_whole(message: dict[str, Any], *, as_stream: bool = False) -> tuple[AnswerReader, list[Event]]:
    """Read a whole answer with *message*."""
    reading = AnswerReader()
    batch = reading.take_whole(whole(message), as_stream=as_stream)
    assert batch is not None
    return reading, batch.events


@pytest.mark.parametrize("fields", OUTPUT, ids=lambda fields: str(fields)[:60])
def test_any_value_beyond_the_role_is_output(fields: dict[str, Any]) -> None:
    """Any non-empty value in a delta or a message is output: streamed at once as it was read, and counted."""
    first, second = sse(delta(role="assistant", content="")), sse(delta(role="assistant", **fields))
    reading, (batch,) = read(first + second, [len(first)])

    assert batch.raw == first + second
    assert [event.is_output for event in batch.events] == [False, True]
    assert (reading.has_output, 1 <= reading.outputs <= MEDIA_TOKENS) == (True, True)
    for as_stream in (False, True):
        answer, (event,) = read_whole({"role": "assistant", **fields}, as_stream=as_stream)
        assert (answer.has_output, event.is_output) == (True, True)
        assert 1 <= answer.outputs <= MEDIA_TOKENS


@pytest.mark.parametrize("fields", NO_OUTPUT, ids=lambda fields: str(fields)[:60])
def test_labels_and_empty_values_are_no_output(fields: dict[str, Any]) -> None:
    """What servers send beside the role before any output is none: empty values, names, ids, flags."""
    for stream in (sse(delta(role="assistant", **fields)), sse(delta(role="assistant", **fields, finish="stop"))):
        reading, batches = read(stream)
        assert (reading.has_output, reading.outputs, batches) == (False, 0, [])
        assert not any(event.is_output for event in reading.held().events)
    answer, (event,) = read_whole({"role": "assistant", **fields})
    assert (answer.has_output, answer.outputs, event.is_output) == (False, 0, False)


@pytest.mark.parametrize(
    ("fields", "text", "reasoning"),
    [
        ({"content": [TEXT, {"type": "text", "text": " you"}]}, "Hello you", ""),
        ({"content": [THINKING, TEXT]}, "Hello", "hm, "),
        ({"content": [{"type": "thinking", "thinking": "hm"}]}, "", "hm"),
        ({"content": [SUMMARY]}, "", "hm"),
        ({"content": [{"text": "a"}, "b", 5, None, {"type": "text", "text": 6}]}, "ab", ""),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, "no", ""),
        ({"content": [{"type": "text", "text": {"value": "a"}}]}, "a", ""),
        ({"content": [PICTURE, TEXT]}, "Hello", ""),
        ({"content": TEXT}, "Hello", ""),
        ({"content": [THINKING], "reasoning": "own"}, "", "own"),
        ({"content": [TEXT], "reasoning_content": "own"}, "Hello", "own"),
        ({"reasoning": [{"text": "a"}, {"text": "b"}]}, "", "ab"),
        ({"content": [{"type": "redacted_thinking", "data": "x"}]}, "", ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_parts_are_text_and_reasoning(fields: dict[str, Any], text: str, reasoning: str) -> None:
    """The text of a list of parts is the event's text, that of thinking parts its reasoning."""
    _, (batch,) = read(sse(delta(**fields)))
    (event,) = batch.events
    again = event.with_payload(event.data)

    assert (event.text, event.reasoning) == (again.text, again.reasoning) == (text, reasoning)
    assert [(each.text, each.reasoning) for each in read_whole(fields)[1]] == [(text, reasoning)]


@pytest.mark.parametrize(
    ("fields", "has_answer"),
    [
        ({"content": [THINKING]}, False),
        ({"content": [{"type": "redacted_thinking", "data": "x"}]}, False),
        ({"reasoning_details": [DETAIL]}, False),
        ({"thinking": "hm"}, False),
        ({"extra_content": {"google": {"thought_signature": "abc"}}}, False),
        ({"content": [THINKING, TEXT]}, True),
        ({"content": [PICTURE]}, True),
        ({"images": [PICTURE]}, True),
        ({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}, True),
    ],
    ids=lambda value: str(value)[:40],
)
def test_reasoning_alone_is_no_answer(fields: dict[str, Any], *, has_answer: bool) -> None:
    """Reasoning in any field is output and no answer; images and tool calls are an answer."""
    _, (batch,) = read(sse(delta(**fields)))

    assert [(event.is_output, event.has_answer) for event in batch.events] == [(True, has_answer)]


@pytest.mark.parametrize(
    "piece",
    [
        {"content": [{"type": "text", "text": "tok "}]},
        {"content": [THINKING]},
        {"images": ["a"]},
        {"vendor_text": "tok "},
    ],
    ids=str,
)
def test_many_pieces_pass(piece: dict[str, Any]) -> None:
    """More pieces than may be held back pass at once, one token each."""
    count = MAX_HELD_EVENTS + 500
    stream = sse(*[delta(**piece)] * count, delta(finish="stop"))
    reading, batches = read(stream, list(range(0, len(stream), 4_096)))

    assert b"".join(batch.raw for batch in batches) == stream
    assert (reading.failure, reading.outputs, reading.finished) == (None, count, True)


@pytest.mark.parametrize("field", ["images", "content"])
def test_large_piece_passes(field: str) -> None:
    """An event larger than what may be held back passes, and data in it counts at most as one image."""
    fields: dict[str, Any] = {field: [PICTURE]}
    stream = sse(delta(**fields), delta(finish="stop"))
    assert len(stream) > 2 * MAX_HELD_BYTES
    reading, batches = read(stream, list(range(0, len(stream), 65_536)))

    assert b"".join(batch.raw for batch in batches) == stream
    assert (reading.failure, reading.outputs) == (None, MEDIA_TOKENS)


def test_unknown_text_is_counted_by_its_length() -> None:
    """Text in an unknown field counts like other text: a vendor's own field makes no call cheaper."""
    assert read(sse(delta(vendor="word " * 400)))[0].outputs == 500
    assert read_whole({"vendor": {"text": "word " * 400}})[0].outputs == 500
    assert read(sse(delta(vendor="漢字" * 200)))[0].outputs == 300
    assert read(sse(delta(vendor=list(range(1, 30_000)))))[0].outputs == MEDIA_TOKENS


def test_output_in_two_fields_counts_once() -> None:
    """Unknown fields beside text count nothing: they often repeat it."""
    details = [{"type": "reasoning.text", "text": "hm " * 50}]
    assert read(sse(delta(reasoning="hm " * 50, reasoning_details=details)))[0].outputs == 38


def test_other_output_of_each_choice_counts() -> None:
    """Each choice of a chunk is looked at, also beside one with text, and in a chunk with odd items."""
    choices = [{"index": at, "delta": fields} for at, fields in enumerate([{"content": "a"}, {"x": "b"}, {"x": "c"}])]
    assert read(sse({"choices": choices}))[0].outputs == 3
    assert read(sse({"choices": [None, *choices]}))[0].outputs == 3


def test_other_output_beside_an_error_is_returned() -> None:
    """Output in any field of the chunk of an error is returned before the error."""
    reading, (batch,) = read(sse(delta(images=["a"]) | {"error": {"message": "x"}}))

    assert (reading.failure, reading.outputs) == ({"message": "x"}, 1)
    assert json.loads(batch.raw[6:]) == delta(images=["a"])


def test_chunk_that_cannot_be_searched_has_no_other_output() -> None:
    """A chunk with a number out of range in an unknown field is read without that field."""
    reading, batches = read(b'data: {"choices":[{"index":0,"delta":{"x":1e400}}]}\n\n')

    assert (reading.failure, reading.has_output, batches) == (None, False, [])


@pytest.mark.parametrize("as_stream", [False, True])
def test_output_of_many_values_is_counted_by_its_size(*, as_stream: bool) -> None:
    """Output of more values than are created as objects counts by its bytes, at least as one token for 16 of them."""
    many = MAX_EVENT_VALUES + 1
    answer, _ = read_whole({"role": "assistant", "content": "", "codes": [[]] * many}, as_stream=as_stream)
    assert 3 * many // 16 <= answer.outputs <= 5 * many // 16
