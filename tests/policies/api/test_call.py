"""A call: body, notes, state and headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from policies import Call
from policies.api.requests.request_form import CHAT_REQUEST, MODELS_REQUEST, RequestForm
from policies.testing import make_call


def test_notes_are_bounded() -> None:
    """A call keeps 16 notes of 200 characters each."""
    call = make_call("hi")
    call.note("kept 6 of 14 messages")
    call.note("x" * 10_000)
    for at in range(100):
        call.note(f"note {at}")

    assert call.notes[:3] == ["kept 6 of 14 messages", "x" * 200, "note 0"]
    assert len(call.notes) == 16


def test_note_is_a_string() -> None:
    """A note of another type is an error of the policy that made it; an empty one is left out."""
    call = make_call("hi")
    with pytest.raises(TypeError, match=r"call\.note got a bytes; pass a string"):
        call.note(b"kept 6 of 14 messages")  # type: ignore[arg-type]  # the mistake that is tested
    for _ in range(100):
        call.note("\n")
    call.note("kept 6 of 14 messages")
    assert call.notes == ["kept 6 of 14 messages"]


def test_calls_share_no_state() -> None:
    """State and notes belong to one call."""
    first, second = make_call("hi"), make_call("hi")
    first.state["spam.score"] = 0.9
    first.note("x")

    assert (second.state, second.notes) == ({}, [])


def test_headers_are_read_only() -> None:
    """A call without a client has no headers, and none can be set."""
    headers = make_call("hi").headers
    assert isinstance(headers, Mapping)
    assert dict(headers) == {}
    with pytest.raises(TypeError):
        headers["x"] = "y"  # type: ignore[index]  # the mistake that is tested


@pytest.mark.parametrize(("operation", "has"), [(CHAT_REQUEST, True), (MODELS_REQUEST, False)])
def test_model_list_has_no_completion(operation: RequestForm, has: bool) -> None:  # noqa: FBT001  # a column of the table
    """A chat call has a completion, a request for the list of models has none."""
    assert make_call("hi", operation=operation).has_completion is has


def test_call_reads_null_fields_and_keeps_unknown_ones() -> None:
    """A call reads null fields as absent, and keeps unknown fields in its body."""
    call = make_call("hi", body={"n": None, "max_tokens": None, "odd": {"x": [1]}, "user": None})
    assert (call.choices_generated, call.max_tokens, call.user, call.text) == (1, None, "", "hi")
    call.model = "other"
    assert json.loads(json.dumps(call.body))["odd"] == {"x": [1]}
    assert isinstance(call, Call)
    assert call.model == "other"


def test_text_has_all_texts_of_any_form() -> None:
    """The text of a call has the texts of strings, parts and objects, and the JSON of what has no known kind."""
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": ["b", {"type": "text", "text": "c"}, {"text": "d"}, {"x": "e"}]},
        {"role": "user", "content": {"type": "text", "text": "f"}},
        {"role": "tool", "content": {"y": "g"}},
        {"role": "tool", "content": 3},
        {"role": "tool", "content": None},
        {"role": "tool"},
        {"role": "user", "content": [{"type": "image_url", "image_url": "i"}, {"image_url": "j"}]},
    ]
    call = make_call(messages=messages)
    assert call.text == 'a b c d {"x":"e"} f {"y":"g"} 3'
    assert call.characters == len(call.text)


def test_text_has_what_servers_read_as_text() -> None:
    """Text in another field than `text`, which servers read by the part's type (vLLM: refusal, thinking), is text."""
    parts = [
        {"type": "refusal", "refusal": "a", "text": "b"},
        {"type": "thinking", "thinking": "c"},
        {"refusal": "d"},
        {"type": "reasoning", "reasoning": {"x": 1}},
    ]
    call = make_call(messages=[{"role": "user", "content": parts}])
    assert sorted(call.text.split()) == ["a", "b", "c", "d"]
    assert call.characters == len(call.text)


def test_parts_are_found_in_any_form_of_content() -> None:
    """A policy about parts sees those of lists and one that stands alone, and nothing that is no object."""
    image: dict[str, Any] = {"type": "image_url", "image_url": {"url": "u"}}
    text = {"text": "t"}
    call = make_call(
        messages=[{"content": [image, "x", None, text]}, {"content": image}, {"content": "x"}, {"content": 5}, {}]
    )
    assert call.parts == [image, text, image]


@pytest.mark.parametrize(("user", "read"), [("ann", "ann"), (42, "42"), (None, ""), (True, ""), (1.5, ""), ({}, "")])
def test_user_is_a_name_or_a_number(user: object, read: str) -> None:
    """A number as the user is the same user as its digits; other types name none."""
    assert make_call("hi", body={"user": user}).user == read
