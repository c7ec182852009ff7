"""Read an answer: any split of its bytes gives the same batches and result, and no input causes an exception."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from chunks import delta, read, sse
from hypothesis import example, given
from hypothesis import strategies as st
from stored import objects_of

from policies.api.event import Batch
from policies.api.usage import Usage
from sidecar.wire.answer_reader import AnswerReader
from sidecar.wire.chunk import read_chunk
from sidecar.wire.error_object import MalformedAnswer
from sidecar.wire.sse_reader import SSEReader

ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}


def summary(reading: AnswerReader, batches: list[Batch]) -> tuple[Any, ...]:
    events = [event for batch in batches for event in batch.events]
    texts = [(event.index, event.text, event.finish) for event in events]
    raw = b"".join(batch.raw for batch in batches)
    return texts, raw, reading.usage, reading.done, reading.finished, reading.has_output, repr(reading.failure)


PIECES = st.sampled_from(
    [
        sse(ROLE),
        sse(delta(content="h\u00e9")),
        sse(delta(content="\U0001f98a fox")),
        sse(delta(1, content="other")),
        sse(delta(reasoning_content="hm")),
        sse(delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}])),
        sse(delta(finish="stop")),
        sse(delta(1, finish="length")),
        sse({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}),
        sse({"choices": [], "prompt_filter_results": []}),
        b": comment\n\n",
        b"event: ping\ndata: {}\n\n",
        b"data: {\r\ndata: }\r\n\r\n",
        b"data: [DONE]\n\n",
        b"data: null\n\n",
        sse({"error": {"message": "boom", "code": 500}}),
        b"data: {broken\n\n",
        b"data:  [DONE] \n\n",
        sse(delta(content="b") | {"error": {"message": "boom"}}),
        sse(delta(content="c", finish="error")),
        sse({"object": "error", "message": "boom"}),
        sse(delta(content="d") | {"usage": {"prompt_tokens": 9, "completion_tokens": 1}}),
    ]
)


@given(pieces=st.lists(PIECES, max_size=14), cuts=st.lists(st.integers(0, 900), max_size=10), usage=st.booleans())
def test_any_split_gives_the_same_output(pieces: list[bytes], cuts: list[int], *, usage: bool) -> None:
    """Any split of a stream's bytes gives the same output and the same usage."""
    stream = b"".join(pieces)
    whole = read(stream, shows_usage=usage)

    assert summary(*read(stream, cuts, shows_usage=usage)) == summary(*whole)


@given(pieces=st.lists(PIECES, max_size=14), cut=st.integers(0, 900))
def test_cut_stream_is_complete_only_behind_its_end(pieces: list[bytes], cut: int) -> None:
    """A cut stream is complete only if its end came before the cut, and shows no more bytes than were read."""
    stream = b"".join(pieces)
    reading, batches = read(stream[:cut])
    raw = b"".join(batch.raw for batch in batches)
    if b"[DONE]" not in stream[:cut] and b'"finish_reason": "' not in stream[:cut]:
        assert (reading.done, reading.finished) == (False, False)
    assert reading.has_output or not raw
    assert len(raw) <= cut + len(b"\n\n")


def test_usage_beside_a_short_piece_counts() -> None:
    """A report in a chunk of text is read, and what is read after it is added, also if all chunks came at once."""
    usage = {"usage": {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}}
    texts = [sse(delta(content=each)) for each in "abcdef"]
    reading, _ = read(b"".join([*texts[:4], sse(delta(content="x") | usage), *texts[4:]]))
    assert reading.usage == Usage(9, 9)


def test_choices_behind_a_short_one_count() -> None:
    """All choices of a chunk are read, also if the first one is a short piece of a choice that is known."""
    second = {"index": 1, "delta": {"content": "y"}, "finish_reason": None}
    texts = b"".join(sse(delta(content=each)) for each in "abcd")
    reading, batches = read(texts + sse({"choices": [*delta(content="x")["choices"], second]}))
    assert reading.usage.output == 6
    assert [event.text for batch in batches for event in batch.events] == [*"abcdxy"]


@pytest.mark.parametrize("name", [b"", b"event: error\n"], ids=["field", "event"])
def test_error_beside_a_short_piece_is_a_failure(name: bytes) -> None:
    """An error beside text, in its field or by the name of its event, ends the stream behind the text before it."""
    error = {} if name else {"error": {"message": "x"}}
    texts = [sse(delta(content=each)) for each in "abcd"]
    reading, batches = read(b"".join([*texts, name + sse(delta(content="e") | error), *texts]))
    assert reading.failure is not None
    assert b"".join(batch.raw for batch in batches).startswith(b"".join(texts))
    assert 4 <= reading.usage.output <= 5


def test_events_are_held_until_output() -> None:
    """A role alone is not output: events are held until the first output, then returned in order."""
    first = sse(ROLE) + sse({"choices": [], "prompt_filter_results": []})
    reading, batches = read(first + sse(delta(content="a")), [len(first)])

    assert len(batches) == 1
    assert batches[0].raw == first + sse(delta(content="a"))
    assert reading.usage == Usage(output=1, unreported=1)


def test_split_surrogate_pair_is_forwarded() -> None:
    """A surrogate pair that a server splits over two events is not an error; the bytes are forwarded unchanged."""
    stream = b"".join(
        b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n' % half
        for half in (rb"a \ud83e", rb"\uDD8A b")
    )
    reading, batches = read(stream)

    assert reading.failure is None
    assert b"".join(batch.raw for batch in batches) == stream
    assert [event.text for batch in batches for event in batch.events] == ["a \ufffd", "\ufffd b"]


def test_error_beside_choices_counts() -> None:
    """An error object counts even beside choices (diegosouzapw/OmniRoute#8210)."""
    event = {"error": {"code": 502, "message": "x"}, "choices": [{"delta": {"content": ""}, "finish_reason": "error"}]}
    for each in (event, event | {"choices": []}):
        reading, _ = read(sse(delta(content="a"), each))
        assert reading.failure == {"code": 502, "message": "x"}
        assert (reading.done, reading.finished) == (False, False)


FAILED = {"code": 502, "message": "key sk-of-ours at gpu7"}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("content", ["", "b"])
def test_error_object_of_a_failed_choice_is_not_forwarded(content: str, count: int) -> None:
    """A choice that ends with `error` is forwarded without the server's error object, which is not redacted."""
    choices = [
        {"index": at, "delta": {"content": content}, "finish_reason": "error", "error": FAILED} for at in range(count)
    ]
    reading, batches = read(sse(delta(content="a"), {"id": "x", "choices": choices, "error": None}))

    raw = b"".join(batch.raw for batch in batches)
    assert reading.failure == {"message": "the model failed", "code": "error"}
    assert b"gpu7" not in raw + b"".join(event.raw + event.payload for batch in batches for event in batch.events)
    assert raw.count(b'"finish_reason":"error"') == count
    assert raw.startswith(sse(delta(content="a")))
    assert [event.text for batch in batches for event in batch.events] == ["a", *[content] * count]


@given(st.binary(max_size=60))
def test_any_bytes_are_a_chunk_or_a_value_error(payload: bytes) -> None:
    """Any bytes are a chunk or raise ValueError."""
    with contextlib.suppress(ValueError):
        read_chunk(payload)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["choices", "delta", "content", "index", "usage", "error", "message", "finish_reason"]), x, max_size=4), max_leaves=12))  # fmt: skip
@example({"choices": [None, {}]})
@example([{"error": "boom"}])
@example([{"error": [None]}])
def test_any_json_is_read_without_an_exception(value: object) -> None:
    """Any JSON in a stream is an event, an error, null or malformed; reading it never raises."""
    reading, _ = read(b"data: " + json.dumps(value).encode() + b"\n\n")
    whole = AnswerReader()
    whole.take_whole(json.dumps(value).encode(), as_stream=True)
    is_error_list = isinstance(value, list) and value and isinstance(value[0], dict) and value[0].get("error")
    if is_error_list:
        assert isinstance(reading.failure, dict)
    else:
        assert value is None or isinstance(value, dict) or isinstance(reading.failure, MalformedAnswer)


def test_held_events_are_bounded() -> None:
    """Events held before the first output are bounded by number and by bytes, for any split."""
    small, large = sse({"choices": []}), sse({"choices": [], "pad": "x" * 60_000})
    for stream in (small * 1_001, large * 17):
        for cuts in ([], list(range(0, len(stream), 5_000))):
            reading, batches = read(stream + sse(delta(content="a")), cuts)
            assert isinstance(reading.failure, MalformedAnswer)
            assert batches == []
            assert objects_of(reading) < 100, "the held events are released"
    assert read(small * 1_000 + sse(delta(content="a")))[0].failure is None
    assert read(sse(delta(content="a")) + large * 17)[0].failure is None


@pytest.mark.parametrize("finish", [None, "stop", "error"])
def test_text_beside_an_error_is_returned(finish: str | None) -> None:
    """Text in the chunk of an error is returned as a chunk without the error, and its finish does not count."""
    reading, (batch,) = read(sse(delta(content="a", finish=finish) | {"id": "1", "error": {"message": "x"}}))

    assert json.loads(batch.raw[6:]) == delta(content="a", finish=finish) | {"id": "1"}
    assert batch.events[0].data == json.loads(batch.raw[6:])
    assert (reading.failure, reading.finished, reading.usage.output) == ({"message": "x"}, False, 1)
    assert not reading.done


@pytest.mark.parametrize(
    ("chunk", "fails"),
    [
        ({"object": "error", "message": "boom", "code": 500}, True),
        ({"object": "error", "message": "boom"}, True),
        ({"message": "boom", "type": "server_error"}, True),
        ({"choices": [], "prompt_filter_results": [], "object": "", "model": "", "id": "", "created": 0}, False),
        ({"choices": [], "usage": {}, "message": "done", "type": "usage"}, False),
        ({"type": "progress", "progress": 0.5}, False),
        ({"error": {}}, False),
        ({"detail": "boom"}, True),
        ({"detail": "loading", "progress": 0.5}, False),
        (delta(content="b") | {"message": "x", "code": 1, "object": "error"}, False),
    ],
)
def test_error_object_needs_no_wrapper(chunk: dict[str, Any], fails: bool) -> None:  # noqa: FBT001  # a column of the table
    """An error object needs no wrapper; a filter result, a usage chunk and anything with choices is not an error."""
    assert (read(sse(delta(content="a"), chunk))[0].failure is not None) is fails


def test_whole_answer_becomes_chunks() -> None:
    """A whole answer becomes chunks that SDKs can read: choices and tool calls have an index, requested usage follows."""
    calls = [{"id": "x", "function": {"name": "f", "arguments": "{}"}}, {"id": "y", "function": {}}]
    choices = [{"message": {"content": "a"}}, {"message": {"tool_calls": calls}, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    body = json.dumps({"id": "1", "choices": choices, "usage": usage}).encode()
    for shows_usage in (True, False):
        batch = AnswerReader(shows_usage=shows_usage).take_whole(body, as_stream=True)
        assert batch is not None
        pieces = [json.loads(event.payload) for event in batch.events]
        assert [(event.index, event.whole) for event in batch.events] == [(0, False), (1, False), (-1, False)][
            : len(pieces)
        ]
        assert [piece["choices"][0]["index"] for piece in pieces[:2]] == [0, 1]
        assert [call["index"] for call in pieces[1]["choices"][0]["delta"]["tool_calls"]] == [0, 1]
        assert [(piece["choices"], piece["usage"]) for piece in pieces[2:]] == [([], usage)] * shows_usage
        assert batch.raw == b"".join(b"data: " + event.payload + b"\n\n" for event in batch.events)


def test_whole_answer_is_utf8() -> None:
    """A whole answer is forwarded as valid UTF-8, which OpenAI's SDK requires."""
    batch = AnswerReader().take_whole(b'{"x":"\xff","choices":[{"message":{"content":"a\xe2"}}]}', as_stream=False)

    assert batch is not None
    assert batch.raw == '{"x":"\ufffd","choices":[{"message":{"content":"a\ufffd"}}]}'.encode()


@pytest.mark.parametrize("index", [-1, 10**6, 2**70, 1.5, None, True])
def test_impossible_index_is_zero(index: object) -> None:
    """An index that no choice can have is read as 0."""
    _, (batch,) = read(sse({"choices": [{"index": index, "delta": {"content": "a"}}]}))

    assert [event.index for event in batch.events] == [0]


def test_failure_between_two_choices_counts() -> None:
    """A failure counts while a requested choice is unfinished; after the last finish it is ignored."""
    for answers, failed in ((2, True), (1, False)):
        reading, reader = AnswerReader(answers=answers), SSEReader()
        reading.take(reader.feed(sse(delta(content="a", finish="stop"), {"error": {"message": "x"}})))
        assert (reading.failure is not None) is failed


def test_frames_do_not_combine() -> None:
    """Frames that are JSON only when joined are malformed."""
    torn = [
        b'{"choices":[{"index":0,"delta":{"content":"a"}}],"x":',
        b'{"error":{"message":"no"}}}',
        b'{"choices":[{"index":0,"delta":{"content":"b"}}]}{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
    ]
    stream = b"".join(b"data: " + frame + b"\n\n" for frame in torn)
    apart = list(range(0, len(stream), 7))

    assert summary(*read(stream)) == summary(*read(stream, apart))
    assert read(stream)[0].failure is not None


@pytest.mark.parametrize("null", [b"data: null\n\n", b"data:  null \r\n\r\n"])
def test_event_of_null_is_dropped(null: bytes) -> None:
    """`data: null`, with which llama.cpp begins the stream of several prompts, reaches no client and is no failure."""
    reading, batches = read(null + sse(ROLE) + sse(delta(content="a")) + null + sse(delta(finish="stop")))

    assert reading.failure is None
    assert b"".join(batch.raw for batch in batches) == sse(ROLE) + sse(delta(content="a")) + sse(delta(finish="stop"))


def test_error_event_of_null_is_a_failure() -> None:
    """An `error` event stays a failure where its data are null."""
    reading, _ = read(sse(delta(content="a")) + b"event: error\ndata: null\n\n")

    assert reading.failure is not None
