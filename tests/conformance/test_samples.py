"""The samples of the APIs: complete, and valid as the pinned OpenAI SDK reads them. `make test-clients` checks Anthropic's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, get_args

import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from openai.types.responses.input_token_count_response import InputTokenCountResponse
from pydantic import BaseModel
from samples import completions, embeddings, messages, response_object, responses
from samples.recorded_answers import ERROR_STATUS, LLAMA_CPP
from samples.sample import Sample, data_event, named_event

EVENT_CLASSES: tuple[type[BaseModel], ...] = get_args(get_args(ResponseStreamEvent)[0])
BY_TYPE = {get_args(each.model_fields["type"].annotation)[0]: each for each in EVENT_CLASSES}
UNDECLARED = {"obfuscation", "store", "name", "logprobs", "status"}
"""Fields that OpenAI sends and that some of the SDK's classes do not declare."""
TERMINAL = {"response.completed", "response.incomplete", "response.failed", "error"}


def undeclared(model: Any) -> Iterator[str]:
    """Yield the fields of *model* and of the models in it that the SDK does not declare."""
    if isinstance(model, BaseModel):
        yield from model.model_extra or {}
        for each in dict(model).values():
            yield from undeclared(each)
    elif isinstance(model, list):
        for each in model:
            yield from undeclared(each)


def with_finish(sample: Sample) -> Sample:
    """Return *sample* with a finish reason: the SDK declares it as never null, and OpenAI's chunks before the last have null."""
    choices = [{**each, "finish_reason": each["finish_reason"] or "stop"} for each in sample.fields["choices"]]
    return sample._replace(fields={**sample.fields, "choices": choices})


def test_every_event_class_of_responses_has_one_sample() -> None:
    """Each class of `ResponseStreamEvent` of the pinned openai package has exactly one sample."""
    assert sorted(each.kind for each in responses.EVENTS) == sorted(each.__name__ for each in EVENT_CLASSES)
    assert {each.source for each in responses.EVENTS} == {f"types of openai {version('openai')}"}


@pytest.mark.parametrize("sample", responses.EVENTS, ids=str)
def test_event_of_responses_is_read_by_its_class(sample: Sample) -> None:
    """The SDK's class accepts the sample with strict types, and knows its fields."""
    read = BY_TYPE[sample.fields["type"]].model_validate(sample.fields)

    assert type(read).__name__ == sample.kind
    assert set(undeclared(read)) <= UNDECLARED
    assert sample.output in str(sample.fields)


@pytest.mark.parametrize("name", responses.STREAMS)
def test_stream_of_responses_is_complete(name: str) -> None:
    """A stream is numbered without gaps, begins with `response.created` and ends with its only terminal event."""
    events = responses.STREAMS[name]
    kinds = [event["type"] for event in events]

    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert kinds[0] == "response.created"
    assert [kind for kind in kinds if kind in TERMINAL] == kinds[-1:]
    for event in events:
        assert set(undeclared(BY_TYPE[event["type"]].model_validate(event))) <= UNDECLARED


@pytest.mark.parametrize(
    ("model", "sample"),
    [
        *((Response, each) for each in response_object.ANSWERS),
        (ResponseItemList, response_object.STORED[0]),
        (InputTokenCountResponse, response_object.STORED[1]),
        *((Completion, with_finish(each)) for each in (*completions.CHUNKS, *completions.ANSWERS)),
        *((CreateEmbeddingResponse, each) for each in embeddings.ANSWERS if each.kind != "base64"),
    ],
    ids=str,
)
def test_answer_is_read_by_its_class(model: type[BaseModel], sample: Sample) -> None:
    """The SDK's class accepts the sample, and knows its fields."""
    assert set(undeclared(model.model_validate(sample.fields))) <= UNDECLARED


def test_encodings_of_embeddings_mean_the_same() -> None:
    """The base64 text of a vector decodes to the numbers of the other encoding."""
    from array import array
    from base64 import b64decode

    floats, text = (each.fields["data"][0]["embedding"] for each in embeddings.ANSWERS[:2])
    assert list(array("f", b64decode(text))) == floats


@pytest.mark.parametrize("name", messages.STREAMS)
def test_stream_of_messages_is_complete(name: str) -> None:
    """A stream begins with `message_start` and ends with `message_stop` or an error; each block starts and stops."""
    kinds = [event["type"] for event in messages.STREAMS[name]]

    assert kinds[0] == "message_start"
    assert kinds[-1] in ("message_stop", "error")
    if kinds[-1] == "message_stop":
        assert kinds[-2] == "message_delta"
        assert kinds.count("content_block_start") == kinds.count("content_block_stop")


def test_events_on_the_wire() -> None:
    """Events of Responses and Messages repeat their type in the `event:` line; those of completions have data alone."""
    assert named_event(messages.PING) == b'event: ping\ndata: {"type": "ping"}\n\n'
    assert data_event({"a": "ë"}) == 'data: {"a": "ë"}\n\n'.encode()


def test_recorded_answers_are_whole() -> None:
    """Each recorded JSON answer decodes, and each stream ends with its last event."""
    ends = ("[DONE]", "response.completed", "message_stop")
    for name, body in LLAMA_CPP.items():
        if name.endswith(".sse"):
            assert body.endswith(b"\n\n"), name
            assert any(end in body.decode().split("\n\n")[-2] for end in ends), name
        else:
            assert ("error" in json.loads(body)) == (name in ERROR_STATUS), name
