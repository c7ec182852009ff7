"""A call: body, notes, state and headers."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from policies import Call
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


@pytest.mark.parametrize(("operation", "has"), [("chat", True), ("models", False)])
def test_model_list_has_no_completion(operation: str, has: bool) -> None:  # noqa: FBT001  # a column of the table
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
