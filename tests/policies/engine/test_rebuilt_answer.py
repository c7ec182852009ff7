"""Whole answers that policies change: the changed choices are written again, the others stay as upstream sent them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pytest
from hostile_answers import logprobs

from policies.api.event import Batch, Event, WholeBatch
from policies.api.lease import Lease
from policies.engine.event_filters import EventFilters
from sidecar.wire.answer_reader import AnswerReader


class Changing(Lease):
    """Changes each event by *change*."""

    def __init__(self, change: Callable[[Event], Event | None]) -> None:
        self.change = change

    def on_event(self, event: Event) -> Event | None:
        return self.change(event)


def filtered(body: bytes, change: Callable[[Event], Event | None], choices: int = 1) -> bytes:
    """Return the bytes that a client gets of the whole answer *body* through a policy that makes *change*."""
    batch = AnswerReader(answers=choices).take_whole(body, as_stream=False)
    assert isinstance(batch, WholeBatch)
    return EventFilters([Changing(change)], choices, copy_context()).apply(batch).raw


def choice(index: int, text: str, **more: Any) -> dict[str, Any]:
    return {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", **more}


@pytest.mark.parametrize("count", [1, 3])
def test_answer_that_a_policy_leaves_alone_passes_byte_for_byte(count: int) -> None:
    """An answer whose events a policy only reads keeps its bytes, spaces, order and numbers included."""
    body = b' {"x": 1.50,\n"choices": %b, "y": NaN}' % json.dumps([choice(at, "a") for at in range(count)]).encode()

    assert filtered(body, lambda event: event, count) == body


def test_only_changed_choices_are_written_again() -> None:
    """Of several choices, the one with another text is written again; the others keep their bytes."""
    kept = b'{"index": 1,  "message": {"content": "b"}, "x": 1.50}'
    body = b'{"id":"1","choices":[' + json.dumps(choice(0, "a", x=7)).encode() + b"," + kept + b"]}"
    made = filtered(body, lambda event: event.with_text("z") if event.index == 0 else event, 2)

    assert kept in made
    assert json.loads(made) == {"id": "1", "choices": [choice(0, "z", x=7), json.loads(kept)]}


@pytest.mark.parametrize("as_stream", [False, True])
def test_number_out_of_range_does_not_hinder_a_change(*, as_stream: bool) -> None:
    """A policy can change the text of an answer that has a number which no float can hold."""
    batch = AnswerReader().take_whole(b'{"choices":[{"message":{"content":"a"},"x":1e400}]}', as_stream=as_stream)
    assert batch is not None
    made = EventFilters([Changing(lambda event: event.with_text("z"))], 1, copy_context()).apply(batch).raw

    assert b'"content":"z"' in made


@pytest.mark.parametrize("index", [{}, {"index": 0}, {"index": 3}])
def test_choices_with_equal_indexes_keep_their_own_texts(index: dict[str, int]) -> None:
    """Choices that upstream numbers alike, or not at all, are told apart by their positions.

    Otherwise each would get the texts of all: 1,000 choices of 1 kB would become 1 GB.
    """
    choices = [{**index, "message": {"content": text}, "finish_reason": "stop"} for text in "abc"]
    body = json.dumps({"choices": [choices[0], None, *choices[1:]]}).encode()
    made = json.loads(filtered(body, lambda event: event.with_text(event.text.upper()), 3))["choices"]

    assert [None if each is None else each["message"]["content"] for each in made] == ["A", None, "B", "C"]


def test_dropped_choice_becomes_empty() -> None:
    """A choice that a policy drops stays in the answer, without text and with a finish."""
    made = filtered(json.dumps({"choices": [choice(0, "a"), choice(1, "b")]}).encode(), drop_second, 2)

    assert [each["message"]["content"] for each in json.loads(made)["choices"]] == ["a", ""]


def drop_second(event: Event) -> Event | None:
    return event if event.index == 0 else None


@pytest.mark.parametrize("count", [1, 2])
def test_answer_with_many_values_is_changed(count: int) -> None:
    """The text of an answer with log probabilities is changed, and the other fields stay: they are not decoded."""
    choices = [choice(at, "a", logprobs=logprobs(600)) for at in range(count)]
    body = json.dumps({"id": "1", "model": "m", "choices": choices, "usage": {"total_tokens": 3}}).encode()
    made = filtered(body, lambda event: event.with_text("z"), count)

    expected = [{**each, "message": {"role": "assistant", "content": "z"}} for each in choices]
    assert json.loads(made) == {"id": "1", "model": "m", "choices": expected, "usage": {"total_tokens": 3}}


def test_change_of_other_fields_is_kept_whatever_the_size() -> None:
    """What a policy removes with `with_payload` does not come back, however many values the answer has."""
    message = {"role": "assistant", "content": "a", "tool_calls": [{"id": "c", "function": {"name": "f"}}]}
    body = json.dumps({"choices": [choice(0, "a", logprobs=logprobs(600)) | {"message": message}]}).encode()

    def without_tools(event: Event) -> Event:
        data = event.data
        del data["choices"][0]["message"]["tool_calls"]
        return event.with_payload(data)

    (made,) = json.loads(filtered(body, without_tools))["choices"]
    assert made["message"] == {"role": "assistant", "content": "a"}


def test_answer_of_many_unknown_fields_keeps_the_known_ones() -> None:
    """Of an answer with too many values, a policy that changes its text leaves the fields of OpenAI's protocol."""
    many: dict[str, Any] = {f"x{at}": [] for at in range(50_000)}
    body = json.dumps({"id": "1", **many, "choices": [choice(0, "a")]}).encode()

    assert json.loads(filtered(body, lambda event: event.with_text("z"))) == {"id": "1", "choices": [choice(0, "z")]}


def test_output_in_many_values_is_output() -> None:
    """An event with too many values to be decoded for one question counts as output by its size."""
    event = Event(payload=b'{"choices":[{"delta":{"x":[' + b"1," * 50_000 + b"1]}}]}")

    assert (event.is_output, event.has_answer) == (True, True)
    assert isinstance(Batch(events=[event]).events[0], Event)
