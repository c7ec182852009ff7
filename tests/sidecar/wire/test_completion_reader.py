"""Whole answers of completions and embeddings whose values have other types, and texts that policies have changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies.api.event import Event
from sidecar.wire.completions.completion_reader import CompletionReader
from sidecar.wire.completions.text_events import TEXT_EVENTS
from sidecar.wire.embeddings.embedding_reader import EmbeddingReader
from sidecar.wire.error_object import MalformedAnswer

ODD = (
    *(b"null", b"-1", b"1e999", b"9" * 400, b"true", b'"x"', b"[]", b"{}", b"[{}]", b"1.5", b"[1e999]"),
    *(b"[" * 90 + b"]" * 90, b'{"a":' * 90 + b"1" + b"}" * 90, b'{"prompt_tokens":1e400}', b'{"prompt_tokens":-5}'),
)


def choices(*texts: Any, **fields: Any) -> bytes:
    listed = [{"text": text, "index": at, "finish_reason": "stop", **fields} for at, text in enumerate(texts)]
    return json.dumps({"id": "c", "choices": listed, "usage": {"prompt_tokens": 1}}).encode()


def read(body: bytes, *, as_stream: bool = False) -> tuple[CompletionReader, list[Event]]:
    reader = CompletionReader(answers=8)
    batch = reader.take_whole(body, as_stream=as_stream)
    assert (batch is None) == (reader.failure is not None)
    return reader, [] if batch is None else batch.events


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd[:12].decode())
@pytest.mark.parametrize("as_stream", [True, False])
def test_values_of_other_types_break_no_answer(odd: bytes, *, as_stream: bool) -> None:
    """A text, an index, a finish or a report of another type is read as absent; the answer is a failure or complete."""
    for field in (b'"text":%b', b'"text":"a","index":%b', b'"text":"a","finish_reason":%b'):
        read(b'{"choices":[{' + field % odd + b'}],"usage":{"prompt_tokens":3}}', as_stream=as_stream)
    read(b'{"choices":[{"text":"a"}],"usage":%b}' % odd, as_stream=as_stream)
    read(b'{"choices":%b}' % odd, as_stream=as_stream)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd[:12].decode())
def test_report_of_another_type_breaks_no_embedding(odd: bytes) -> None:
    """Vectors pass with whatever upstream reports beside them."""
    reader = EmbeddingReader()
    assert reader.take_whole(b'{"data":[{"embedding":[1]}],"usage":%b}' % odd, as_stream=False) is not None
    assert reader.usage.input >= 0


def test_text_beside_one_of_another_type_is_read() -> None:
    """A choice without a readable text hides no text of another choice, also in an answer of many values."""
    many = b'"logprobs":[' + b"0," * 60_000 + b"0]"
    body = b'{"choices":[{"text":7,%b},{"index":1,"text":"word word word",%b}]}' % (many, many)
    reader, events = read(body)
    assert [event.text for event in events] == ["", "word word word"]
    assert reader.outputs >= 3


def test_too_many_choices_are_a_failure() -> None:
    """More items of `choices` than are read are a failure, also where most of them are no objects."""
    reader, _ = read(b'{"choices":[' + b"1," * 2_000 + b'{"text":"a"}]}')
    assert isinstance(reader.failure, MalformedAnswer)


def changed(body: bytes, *texts: str | None) -> list[Any]:
    """Return the choices of the whole answer *body* with other *texts*; None drops one."""
    _, events = read(body)
    kept = [event.with_text(text) for event, text in zip(events, texts, strict=True) if text is not None]
    found: list[Any] = json.loads(TEXT_EVENTS.rebuilt_answer(body, kept, events))["choices"]
    return found


def test_dropped_choice_is_empty_and_finished() -> None:
    """A choice that a policy has dropped has no text, and a finish that says why, as in chat completions."""
    first, second = changed(choices("one", "two", logprobs={"tokens": ["x"]}), None, "TWO")
    assert (first["text"], first["finish_reason"], first["logprobs"]) == ("", "content_filter", None)
    assert (second["text"], second["finish_reason"], second["logprobs"]) == ("TWO", "stop", None)


def test_choice_with_an_impossible_index_keeps_its_text() -> None:
    """A choice whose index is out of range is choice 0, for policies and in the answer that they have changed."""
    (only,) = changed(choices("one", index=5_000), "ONE")
    assert (only["text"], only["index"]) == ("ONE", 5_000)


def test_unchanged_choice_passes_as_it_is() -> None:
    """Numbers and fields of a choice that no policy has changed stay as upstream wrote them."""
    raw = b'{"choices":[{"text":"a","index":0,"x":1.50,"finish_reason":null}],"y":1e999}'
    _, events = read(raw)
    assert TEXT_EVENTS.rebuilt_answer(raw, events, events) == raw
