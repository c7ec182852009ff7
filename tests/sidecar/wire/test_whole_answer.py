"""Answers that come as one JSON object: read in steps, within limits, without an object for each value."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any, TypeVar

import msgspec
import pytest
from hostile_answers import NORMAL, logprobs
from hypothesis import given
from hypothesis import strategies as st

from policies.api.decoding.choices import MAX_CHOICES
from policies.api.event import WholeBatch
from policies.api.usage import Usage
from sidecar.wire.answer_end import cut_batch
from sidecar.wire.answer_reader import AnswerReader
from sidecar.wire.answer_to_chunks import WRITTEN_STEP_BYTES
from sidecar.wire.decoding import steps as scanning
from sidecar.wire.decoding.own_choice import MAX_REPEATED_BYTES, copied_fields, own_payloads, with_index
from sidecar.wire.decoding.repair import MAX_REPAIRED_BYTES
from sidecar.wire.decoding.steps import utf8_steps, values_steps
from sidecar.wire.decoding.value_count import MAX_EVENT_VALUES
from sidecar.wire.error_object import MalformedAnswer
from sidecar.wire.sse_reader import SSEReader
from sidecar.wire.whole_answer import MAX_ANSWER_VALUES, AnswerTooComplex, first_items

Result = TypeVar("Result")


def drained(steps: Generator[None, None, Result]) -> tuple[Result, int]:
    """Return the result of *steps*, and their number."""
    count = 1
    while True:
        try:
            next(steps)
            count += 1
        except StopIteration as end:
            return end.value, count


JSON_VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='a"\\,[{é', max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='a"\\,[', max_size=3), inner, max_size=4)
    ),
)


def number_of_values(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(number_of_values, inner))


@given(JSON_VALUES, st.integers(1, 9))
def test_values_are_counted_outside_of_strings(value: Any, size: int) -> None:
    """The count is the number of brackets and commas outside of strings, wherever the text is divided into steps."""
    data = msgspec.json.encode(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "COUNTED_STEP_BYTES", size)
        patch.setattr(scanning, "MAX_EVENT_VALUES", -1)
        counted, _ = drained(values_steps(data, 1_000_000))

    empty = sum(1 for each in containers(value) if not each)
    assert counted == number_of_values(value) - 1 + empty


def containers(value: Any) -> list[Any]:
    if not isinstance(value, list | dict):
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(each for item in inner for each in containers(item))]


@given(st.binary(max_size=40), st.integers(1, 7))
def test_bad_utf8_is_replaced_as_by_python(data: bytes, size: int) -> None:
    """Invalid UTF-8 becomes U+FFFD, wherever the text is divided into steps; valid text is not copied."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "DECODED_STEP_BYTES", size)
        made, _ = drained(utf8_steps(data))

    assert made == data.decode("utf-8", "replace").encode()


def test_bad_utf8_is_replaced_up_to_one_megabyte() -> None:
    """A larger answer with invalid UTF-8 is malformed."""
    for size, is_refused in ((MAX_REPAIRED_BYTES - 100, False), (MAX_REPAIRED_BYTES, True)):
        reading = AnswerReader()
        reading.take_whole(b'{"choices":[{"message":{"content":"' + b"\xff" * size + b'"}}]}', as_stream=False)
        assert isinstance(reading.failure, MalformedAnswer) is is_refused


@pytest.mark.parametrize("as_stream", [False, True])
def test_values_of_an_answer_are_limited(*, as_stream: bool) -> None:
    """An answer with more than a million values is malformed; one with fewer is read without creating them."""
    for count, is_refused in ((MAX_ANSWER_VALUES - 100, False), (MAX_ANSWER_VALUES, True)):
        reading = AnswerReader()
        body = msgspec.json.encode({"choices": [{"message": {"content": "hi"}}], "x": [1] * count})
        batch = reading.take_whole(body, as_stream=as_stream)
        assert isinstance(reading.failure, MalformedAnswer) is is_refused
        assert (batch is None) is is_refused
    assert "1000000 values" in str(reading.failure)


@pytest.mark.parametrize("padding", [0, MAX_EVENT_VALUES])
@pytest.mark.parametrize("as_stream", [False, True])
def test_choices_of_an_answer_are_limited(padding: int, *, as_stream: bool) -> None:
    """An answer has at most 1,024 choices, whether it has many other values or not."""
    for count, is_refused in ((MAX_CHOICES, False), (MAX_CHOICES + 1, True)):
        reading = AnswerReader(answers=count)
        choices = [{"index": at, "message": {"content": "hi"}} for at in range(min(count, MAX_CHOICES))]
        choices += [{"message": {"content": "hi"}}] * (count - len(choices))
        reading.take_whole(msgspec.json.encode({"choices": choices, "x": [1] * padding}), as_stream=as_stream)
        assert isinstance(reading.failure, MalformedAnswer) is is_refused
        assert reading.outputs == (0 if is_refused else MAX_CHOICES)


def test_items_beyond_the_limit_are_not_created() -> None:
    """Of a list, the first items are returned as JSON; a longer list than the limit is an error."""
    assert [bytes(item) for item in first_items(msgspec.Raw(b'[1, {"a": [2]}, null]'))] == [
        b"1",
        b'{"a": [2]}',
        b"null",
    ]
    assert [first_items(msgspec.Raw(raw)) for raw in (b"", b"null", b"{}", b"[")] == [[], [], [], []]
    with pytest.raises(AnswerTooComplex):
        first_items(msgspec.Raw(b"[" + b"[]," * MAX_CHOICES + b"[]]"))


MANY = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi", "tool_calls": [{"id": "c"}]}}]}


def with_logprobs(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "choices": [{**choice, "logprobs": logprobs(400)} for choice in answer["choices"]]}


@pytest.mark.parametrize("as_stream", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        MANY,
        {"choices": [{"message": {"content": "hi"}, "finish_reason": "length"}], "usage": {"prompt_tokens": 3}},
        {"choices": [{"message": {"content": [{"type": "text", "text": "hi"}]}, "finish_reason": 7}]},
        {"choices": [{"message": {"content": None}, "finish_reason": "error"}]},
        {"choices": [{"message": {"content": "hi"}}], "usage": {"prompt_tokens": "5", "completion_tokens": 9}},
        {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}},
        {"choices": None},
        {"error": {"message": "no", "code": 7}},
    ],
)
def test_many_values_change_nothing_else(answer: dict[str, Any], *, as_stream: bool) -> None:
    """An answer with log probabilities of 400 tokens is read as one without them."""
    readings = []
    for body in (
        answer,
        with_logprobs({**answer, "choices": answer.get("choices") or []}) | {"x": [1] * MAX_EVENT_VALUES},
    ):
        if not answer.get("choices"):
            body["choices"] = answer.get("choices")
        reading = AnswerReader()
        batch = reading.take_whole(msgspec.json.encode(body), as_stream=as_stream)
        events = [] if batch is None else batch.events
        readings.append(
            (
                reading.usage,
                reading.finished,
                str(reading.failure),
                [(event.text, event.tool, event.finish, event.index, event.whole) for event in events],
            )
        )

    assert readings[0] == readings[1]


@pytest.mark.parametrize("name", NORMAL)
def test_large_answer_takes_several_steps(name: str) -> None:
    """A large answer is read in steps between which the event loop runs, a small one in a single step."""
    reading = AnswerReader()
    batch, count = drained(reading.take_whole_steps(NORMAL[name](), as_stream=False))
    small, once = drained(AnswerReader().take_whole_steps(msgspec.json.encode(MANY), as_stream=False))

    assert reading.failure is None
    assert batch is not None
    assert small is not None
    assert (count >= 4, once) == (True, 1)


def test_chunks_of_many_choices_take_several_steps() -> None:
    """Chunks of many short choices are written in steps, and each tool call gets an index."""
    choice = b'{"message":{"tool_calls":[' + b"{}," * 29 + b"{}]}}"
    body = b'{"choices":[' + b",".join([choice] * 1_000) + b"]}"
    batch, count = drained(AnswerReader().take_whole_steps(body, as_stream=True))

    assert batch is not None
    assert count > 1_000 * len(choice) // WRITTEN_STEP_BYTES
    assert [call["index"] for call in batch.events[-1].data["choices"][0]["delta"]["tool_calls"]] == list(range(30))


@pytest.mark.parametrize("count", [300, 900, 1_100])
def test_tool_calls_up_to_the_limit_are_numbered(count: int) -> None:
    """Tool calls are numbered up to the limit of items, and an answer with more fails, however short they are."""
    calls = b"[" + b",".join([b"1"] * count) + b"]"
    reader = AnswerReader()
    batch = reader.take_whole(b'{"choices":[{"message":{"tool_calls":' + calls + b"}}]}", as_stream=True)

    assert (batch is None) == (count > MAX_CHOICES)
    assert isinstance(reader.failure, MalformedAnswer) == (count > MAX_CHOICES)


def test_events_of_several_choices_have_their_own() -> None:
    """The event of each choice has that choice alone, so that policies decode each one once."""
    choices = [{"index": at, "message": {"content": str(at)}, "x": at} for at in range(3)]
    reading = AnswerReader(answers=3)
    batch = reading.take_whole(json.dumps({"id": "1", "y": 2, "choices": choices}).encode(), as_stream=False)

    assert isinstance(batch, WholeBatch)
    assert [event.data for event in batch.events] == [{"id": "1", "y": 2, "choices": [choice]} for choice in choices]
    assert [(event.text, event.index, event.whole) for event in batch.events] == [
        (str(at), at, True) for at in range(3)
    ]


def test_size_of_own_objects_is_bounded() -> None:
    """Fields beside the choices are repeated for each choice while that stays small, else those of all chunks are."""
    payload = json.dumps({"id": "1", "pad": "x" * 1_000, "choices": [{"a": at} for at in range(1_000)]}).encode()
    own = own_payloads(range(1_000), payload)

    assert json.loads(own[7]) == {"id": "1", "choices": [{"a": 7, "index": 7}]}
    assert sum(map(len, own)) < MAX_REPEATED_BYTES
    assert copied_fields(b'{"id":"' + b"x" * 1_000 + b'","model":"m"}').keys() == {"model"}
    assert own_payloads([0, 1], b"{") == [b"", b""]


def test_index_is_replaced_in_its_place() -> None:
    """A choice with another index keeps all other bytes of its JSON."""
    payload = b'{"id": "1", "choices": [{"index": 7, "x": 1.50, "delta": {}}], "y": 1e2}'

    assert with_index(payload, 0) == b'{"id":"1","choices":[{"index":0,"x":1.50,"delta":{}}],"y":1e2}'
    assert with_index(b'{"choices":1}', 0) == b'{"choices":1}'


@pytest.mark.parametrize("padding", [0, 50_000])
def test_chunks_are_single_lines(padding: int) -> None:
    """An answer that is written in several lines becomes chunks of one line each."""
    body = json.dumps({**MANY, "x": [0] * padding}, indent=1).replace("\n", "\r\n").encode()
    batch = AnswerReader().take_whole(body, as_stream=True)

    assert batch is not None
    assert batch.raw.count(b"\n") == 2
    assert b"\r" not in batch.raw
    assert json.loads(batch.raw[6:])["choices"][0]["delta"]["content"] == "hi"


def test_output_beside_an_error_is_a_single_line() -> None:
    """An event of several lines with output and an error is shown in one line, without the error."""
    lines = json.dumps({"choices": [{"delta": {"content": "a"}}], "error": {"message": "no"}}, indent=1).split("\n")
    reading = AnswerReader()
    batch = reading.take(SSEReader().feed("".join(f"data: {line}\n" for line in lines).encode() + b"\n"))

    assert batch is not None
    assert batch.raw.count(b"\n") == 2
    assert json.loads(batch.raw[6:]) == {"choices": [{"delta": {"content": "a"}}]}


def test_end_of_a_cut_answer_is_bounded_and_in_single_lines() -> None:
    """The events that end an answer early repeat short fields of it, each in one line."""
    sample = b'{"id":{\n"a":1},"model":"' + b"m" * 5_000 + b'","created":7,"choices":[]}'
    batch = cut_batch(sample, range(3), Usage(1, 2), 1)

    assert [json.loads(event.payload).get("id") for event in batch.events] == [{"a": 1}] * 4
    assert batch.raw.count(b"\n") == 2 * len(batch.events)
    assert len(batch.raw) < 1_000
