"""The client's name of a model in answers: which `model` fields are replaced, and that nothing else changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.decoding.model_echo import MAX_ECHOED_BYTES, ModelEcho
from sidecar.wire.sse_reader import EchoingReader, SSEReader

ECHO = ModelEcho("chat")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["model", "a", "message"]) | st.text(), inner),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"id":"1", "model" : "llama3","choices":[]}', b'{"id":"1", "model" : "chat","choices":[]}'),
        (b'{"type":"response.created","response":{"model":"x","a": 1}}', b'{"type":"response.created","response":{"model":"chat","a": 1}}'),
        (b'{"type":"message_start","message":{"model":"x"}}', b'{"type":"message_start","message":{"model":"chat"}}'),
        (b'{"model":"a\\"b\\\\","x":1}', b'{"model":"chat","x":1}'),
        (b'{"model":"a","response":{"model":"b"}}', b'{"model":"chat","response":{"model":"chat"}}'),
        (b'{"\\u006dodel":"a"}', b'{"model":"chat"}'),
        (b'{"mod\\u0065l":"a","x":{"model":"a"}}', b'{"model":"chat","x":{"model":"a"}}'),
        (b'{"model":"a","model":"b"}', b'{"model":"chat"}'),
    ],
)  # fmt: skip
def test_model_fields_are_replaced(before: bytes, after: bytes) -> None:
    """The `model` of the object, of `response` and of `message` is replaced; other bytes stay where the field is written plainly."""
    assert ECHO.payload(before) == after


@pytest.mark.parametrize(
    "payload",
    [
        b"[DONE]",
        b'{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":{"model":"x"}}}]}}]}',
        b'{"choices":[{"delta":{"content":"{\\"model\\": \\"x\\"}"}}]}',
        b'{"model":null,"usage":{"model":"x"}}',
        b'{"model":7}',
        b'[{"model":"x"}]',
        b'{"model":"x"',
        b'{"message":"model"}',
        b'{"message":["model"],"response":{"models":{"model":"x"}}}',
        b'{"model":"x","pad":"' + b"x" * MAX_ECHOED_BYTES + b'"}',
    ],
)
def test_other_names_stay(payload: bytes) -> None:
    """A `model` elsewhere, in a text, or of another type is not replaced, and neither is one in an answer over the limit."""
    assert ECHO.payload(payload) is payload


def test_deep_json_is_left_alone() -> None:
    """JSON that cannot be decoded is passed on as it is."""
    payload = b'{"model":"x","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert ECHO.payload(payload) == payload


def test_only_known_names_of_several_models_are_replaced() -> None:
    """Where a router chooses among several models, each known name is replaced by the client's, and others stay."""
    echo = ModelEcho("chat", {"llama3": "chat", "qwen": "small"})
    answers = [echo.payload(b'{"model":"%s"}' % name) for name in (b"llama3", b"qwen", b"else")]
    assert answers == [b'{"model":"chat"}', b'{"model":"small"}', b'{"model":"else"}']


@given(st.dictionaries(st.sampled_from(["model", "message", "response"]) | st.text(max_size=5), JSON), st.booleans())
def test_all_other_values_stay(body: dict[str, Any], escapes: bool) -> None:  # noqa: FBT001  # drawn
    """Whatever the answer: only strings in the three places change, to the client's name."""
    written = json.dumps(body, ensure_ascii=escapes).encode("utf-8", "surrogatepass")
    expected = json.loads(written)
    for place in (expected, expected.get("response"), expected.get("message")):
        if isinstance(place, dict) and isinstance(place.get("model"), str):
            place["model"] = "chat"
    try:
        written.decode()
    except UnicodeDecodeError:
        assert ECHO.payload(written) == written
        return
    assert json.loads(ECHO.payload(written)) == expected


@given(st.data())
def test_split_reads_give_the_same_events(data: st.DataObject) -> None:
    """Whatever the split of the reads, each event has the client's name, once, and its other lines."""
    stream = (
        b'data: {"model":"x","choices":[{"delta":{"content":"a"}}]}\n\n'
        b'event: message_start\ndata: {"message":{"model":"x"}}\n\n'
        b'data: {"model":\ndata: "x"}\n\ndata: [DONE]\n\n'
    )
    expected = (
        b'data: {"model":"chat","choices":[{"delta":{"content":"a"}}]}\n\n'
        b'event: message_start\ndata: {"message":{"model":"chat"}}\n\n'
        b'data: {"model": "chat"}\n\ndata: [DONE]\n\n'
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader = EchoingReader(echo=ECHO)
    pieces = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    frames = [frame for piece in pieces for frame in reader.feed(piece)] + reader.end()

    assert b"".join(frame.raw for frame in frames) == expected
    assert [frame.payload for frame in SSEReader().feed(expected)] == [frame.payload for frame in frames]


def test_events_with_the_same_head_are_replaced_alike() -> None:
    """The remembered head of the last event changes no result: neither a second `model` behind it, nor another head."""
    echo = ModelEcho("chat")
    events = [
        b'{"id":1,"model":"x","a":1}',
        b'{"id":1,"model":"x","a":{"model":"x"}}',
        b'{"id":1,"model":"x","model":"y"}',
        b'{"id":1,"model":"xy","a":1}',
        b'{"id":1,"model":"x","a":2}',
        b'{"response":{"id":1,"model":"x"}}',
        b'{"id":1,"model":"x","response":{"model":"z"}}',
    ]
    assert [echo.payload(event) for event in events] == [ModelEcho("chat").payload(event) for event in events]
