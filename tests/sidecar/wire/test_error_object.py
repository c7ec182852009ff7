"""Error objects: every shape of body has one reading, as an event, as a whole answer and as an error response."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from chunks import delta, read, sse
from hypothesis import given
from hypothesis import strategies as st

from sidecar.upstream.errors.classify import from_object, from_status
from sidecar.wire.answer_reader import AnswerReader
from sidecar.wire.error_object import MalformedAnswer, error_object

REQUEST = httpx.Request("POST", "http://upstream/v1/chat/completions")
FASTAPI = [{"loc": ["body", "n"], "msg": "too big", "input": "PRIVATE"}, {"msg": "no"}, {"odd": 1}]
BOOM = {"message": "boom", "code": 429, "type": "t"}

SHAPES = [
    pytest.param({"error": BOOM}, BOOM, id="OpenAI"),
    pytest.param([{"error": BOOM}], BOOM, id="Google: a list"),
    pytest.param([{"error": BOOM}, {"error": {"message": "second"}}], BOOM, id="the first of a list"),
    pytest.param({"error": [BOOM]}, BOOM, id="a list in error"),
    pytest.param({"error": "boom"}, {"message": "boom"}, id="text in error"),
    pytest.param({"error": {"error": BOOM}}, BOOM, id="error in error"),
    pytest.param({"error": {"error": "boom", "code": 429}}, {"message": "boom", "code": 429}, id="text in error in error"),
    pytest.param({"error": BOOM | {"error": {"message": "inner"}}}, BOOM, id="own message"),
    pytest.param({"error": {"msg": "boom"}}, {"msg": "boom", "message": "boom"}, id="msg"),
    pytest.param({"error": {"detail": "boom"}}, {"message": "boom"}, id="detail in error"),
    pytest.param({"detail": "boom"}, {"message": "boom"}, id="FastAPI: text"),
    pytest.param({"detail": FASTAPI}, {"message": "body.n: too big; no"}, id="FastAPI: faults"),
    pytest.param({"detail": {"error": BOOM}}, BOOM, id="FastAPI: an object"),
    pytest.param({"type": "error", "error": BOOM}, BOOM, id="Anthropic"),
    pytest.param({"errors": [BOOM], "success": False, "result": {}, "messages": []}, BOOM, id="Cloudflare"),
    pytest.param({"errors": [BOOM, {"message": "second"}], "trace": "t", "status_code": 429}, BOOM, id="watsonx"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "error"), SHAPES)
def test_innermost_object_with_a_message_is_the_error(body: Any, error: dict[str, Any]) -> None:
    """The innermost object with a message is the error; text and FastAPI's faults become its message."""
    assert error_object(body) == error


@pytest.mark.parametrize(("body", "error"), SHAPES)
def test_every_response_reads_the_same_error(body: Any, error: dict[str, Any]) -> None:
    """An event of a stream, an `error` event, a whole answer and an error response read the same message and code."""
    raw = json.dumps(body).encode()
    whole = AnswerReader()
    whole.take_whole(raw, as_stream=False)
    readers = [
        read(sse(delta(content="a"), body))[0],
        read(sse(delta(content="a")) + b"event: error\n" + sse(body))[0],
        whole,
    ]
    refused = from_status(400, httpx.Headers(), raw, REQUEST, now=0.0)

    assert [reader.failure for reader in readers] == [error] * 3
    causes = [from_object(reader.failure, REQUEST).cause for reader in readers] + [refused.cause]
    code = str(error["code"]) if "code" in error else None
    assert [(cause.message, cause.code) for cause in causes] == [(error["message"], code)] * 4


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": True, "message": "boom"}, "boom"),
        ({"message": "boom", "error": {"message": "inner"}}, "inner"),
        ({"message": "boom", "error": "Bad Request"}, "boom"),
        ({"message": "boom", "detail": "more"}, "boom"),
        ({"message": "", "detail": "boom"}, "boom"),
        ({"message": {"text": "x"}, "error": "boom"}, "boom"),
        ({"error": [[]]}, ""),
        ({"error": {"error": {"error": {"error": {"error": {"error": "deep"}}}}}}, ""),
        ([], ""),
        (None, ""),
        (7, ""),
        ("boom", "boom"),
    ],
)
def test_wrapped_message_wins(body: Any, message: str) -> None:
    """The wrapped object wins over the wrapper, an object's own message over `error` and `detail`; nesting is bounded."""
    assert error_object(body).get("message", "") == message


@pytest.mark.parametrize("body", [b"<html>PRIVATE</html>", b"PRIVATE", b"\xff\xfe", b"", b"[" * 5_000])
def test_page_or_text_is_no_error_object(body: bytes) -> None:
    """A page or a text is not an error object: an error response is described by its status, a whole answer is malformed."""
    whole = AnswerReader()
    whole.take_whole(body, as_stream=False)

    assert (
        from_status(502, httpx.Headers(), body, REQUEST, now=0.0).cause.message
        == "The upstream answered with status 502."
    )
    assert isinstance(whole.failure, MalformedAnswer)


def test_page_in_an_error_event_is_not_quoted() -> None:
    """Text in an `error` event is the message; a page in it is not quoted."""
    text, _ = read(b"event: error\ndata: boom\n\n")
    page, _ = read(b"event: error\ndata: <html>PRIVATE</html>\n\n")

    assert text.failure == {"message": "boom"}
    assert "PRIVATE" not in from_object(page.failure, REQUEST).cause.message


def test_work_of_an_answer_that_is_an_error() -> None:
    """An error object did no work unless output came before it; a malformed answer may have worked."""
    assert not from_object(BOOM, REQUEST).worked
    assert from_object(BOOM, REQUEST, worked=True).worked
    assert from_object(MalformedAnswer("not JSON"), REQUEST).worked


def test_error_flag_with_a_broken_object_is_an_error() -> None:
    """A flag in `error` beside values that cannot be decoded is an error without a message."""
    reader, _ = read(sse(delta(content="a")) + b'data: {"error": true, "message": "x", "choices": 5, "n": 1e999}\n\n')
    assert reader.failure is not None


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["error", "detail", "message", "msg", "code", "loc"]), x, max_size=4), max_leaves=12))  # fmt: skip
def test_any_value_has_a_message(value: Any) -> None:
    """Any JSON value gives an object whose message is a string; reading the result again gives the same message."""
    error = error_object(value)
    assert isinstance(error.get("message", ""), str)
    assert error_object(error).get("message", "") == error.get("message", "")
    assert from_object(value, REQUEST).cause.message


HUGE = {"k" + str(at): at for at in range(20_000)}


@pytest.mark.parametrize(
    "error",
    [HUGE | {"message": "boom"}, [HUGE], {"message": "b" * 70_000}, {"detail": [{"msg": "m", "loc": [100] * 30_000}]}],
)
def test_huge_error_object_is_not_decoded(error: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error object of more than 64 kB is a failure whose start is classified; it makes no Python objects."""
    body = {"error": error}
    events, named = sse(body), b"event: error\n" + sse(body)
    monkeypatch.setattr("sidecar.wire.error_object.decode_json", lambda _: pytest.fail("decoded"))
    monkeypatch.setattr("sidecar.wire.error_object.decode_object", lambda _: pytest.fail("decoded"))
    whole = AnswerReader()
    whole.take_whole(json.dumps(body).encode(), as_stream=False)

    for reader in (read(events)[0], read(named)[0], whole):
        assert isinstance(reader.failure, dict)
        assert len(reader.failure["message"]) <= 4_096
        assert from_object(reader.failure, REQUEST).cause.error_fields == {}


def test_large_event_that_is_no_error_passes() -> None:
    """An event without choices and of more than 64 kB is no error."""
    reader, _ = read(sse({"object": "vendor.event", "data": "x" * 70_000, "message": "m", "code": 1}))

    assert reader.failure is None
