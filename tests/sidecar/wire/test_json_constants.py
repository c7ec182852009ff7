"""`NaN` and `Infinity` in the JSON of upstream: no JSON, but what servers in Python write as log probabilities."""

from __future__ import annotations

import json

import pytest
from chunks import read, sse
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.answer_reader import AnswerReader
from sidecar.wire.chunk import read_repaired
from sidecar.wire.decoding.repair import MAX_CONSTANTS
from sidecar.wire.error_object import MalformedAnswer

NAN, INFINITY = float("nan"), float("inf")


def chunk(text: str, *numbers: float) -> bytes:
    """Return an event with *text* and log probabilities, as Python's `json` writes them."""
    logprobs = {"content": [{"token": text, "logprob": number, "top_logprobs": []} for number in numbers]}
    return sse({"choices": [{"index": 0, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": "stop"}]})


@pytest.mark.parametrize("number", [NAN, INFINITY, -INFINITY])
def test_constants_pass_untouched(number: float) -> None:
    """An event with NaN or Infinity passes as it was read, and policies see null there (sgl-project/sglang#4097)."""
    stream = chunk("a", number, -0.5, number)
    reading, (batch,) = read(stream)
    (event,) = batch.events

    assert (reading.failure, reading.finished, batch.raw, event.text) == (None, True, stream, "a")
    tokens = event.data["choices"][0]["logprobs"]["content"]
    assert [each["logprob"] for each in tokens] == [None, -0.5, None]
    assert json.loads(event.with_text("b").encode()[6:])["choices"][0]["delta"] == {"content": "b"}


@pytest.mark.parametrize("as_stream", [True, False])
def test_whole_answer_with_constants_passes(*, as_stream: bool) -> None:
    """A whole answer with them passes as it was read; as a stream it becomes valid JSON."""
    message = {"role": "assistant", "content": "NaN"}
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop", "x": NAN}]}).encode()
    reading = AnswerReader()
    batch = reading.take_whole(body, as_stream=as_stream)

    assert batch is not None
    assert (batch.events[0].text, reading.failure) == ("NaN", None)
    assert as_stream or batch.raw == body
    assert not as_stream or json.loads(batch.raw[6:], parse_constant=pytest.fail)["choices"][0]["x"] is None


TEXTS = st.text(st.sampled_from(list('"\\N nInfity:,[]{}-a')), max_size=12) | st.sampled_from(["NaN", "-Infinity"])
VALUES = st.recursive(
    st.none() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


@given(VALUES)
def test_texts_are_never_changed(value: object) -> None:
    """Only constants outside of strings become null, whatever the strings hold."""
    payload = json.dumps({"x": value}, ensure_ascii=False).encode()
    _, repaired = read_repaired(payload)

    expected = json.loads(payload, parse_constant=lambda _: None)
    assert json.loads(repaired, parse_constant=pytest.fail) == expected


def test_constant_beside_half_a_surrogate_pair_passes() -> None:
    """An event with both faults is repaired."""
    _, (batch,) = read(b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83e"},"logprob":NaN}]}\n\n')

    assert batch.events[0].text == "\ufffd"


@pytest.mark.parametrize(
    "payload", [b"{NaN}", b'{"a": NaNa}', b"NaN", b'{"choices": [NaN}', b'{"a": "NaN}', b"Infinity"]
)
def test_other_faults_stay_faults(payload: bytes) -> None:
    """What is not JSON for another reason is malformed."""
    assert isinstance(read(b"data: " + payload + b"\n\n")[0].failure, MalformedAnswer)


def test_repair_is_bounded() -> None:
    """An answer with more constants than the limit is malformed."""
    assert read(chunk("a", *[NAN] * 1_000))[0].failure is None
    for count, is_refused in ((MAX_CONSTANTS, False), (MAX_CONSTANTS + 1, True)):
        reading = AnswerReader()
        reading.take_whole(chunk("a", *[NAN] * count)[6:], as_stream=False)
        assert isinstance(reading.failure, MalformedAnswer) is is_refused
