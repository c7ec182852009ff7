"""A call: notes, state, headers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from policies.testing import make_call


def test_notes() -> None:
    """A note keeps 200 printable characters, a call keeps 16 notes; an empty one is none."""
    call = make_call("hi")
    call.note("kept 6 of 14 messages")
    call.note("a\r\nforged: line\x1b[31m\x00")
    call.note("\n")
    call.note("x" * 10_000)
    for at in range(100):
        call.note(f"note {at}")

    assert call.notes[:3] == ["kept 6 of 14 messages", "aforged: line[31m", "x" * 200]
    assert len(call.notes) == 16


def test_calls_share_nothing() -> None:
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
        headers["x"] = "y"  # type: ignore[index]


@pytest.mark.parametrize(("operation", "has"), [("chat", True), ("models", False)])
def test_has_completion(operation: str, has: bool) -> None:  # noqa: FBT001  # a column of the table
    """A list of models costs no tokens."""
    assert make_call("hi", operation=operation).has_completion is has
