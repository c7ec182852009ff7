"""Changed events: text, tools and reasoning, in streams and in whole answers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from policies.api.event import Event, rebuilt_answer
from sidecar.wire.chunk import event_of, read_chunk


def event(delta: dict[str, Any], finish: str | None = None, *, part: str = "delta", index: int = 0) -> Event:
    payload = msgspec.json.encode(
        {"id": "x", "choices": [{"index": index, part: delta, "finish_reason": finish}], "extra": [1]}
    )
    (choice,) = read_chunk(payload).choices or []
    return event_of(choice, b"data: " + payload + b"\n\n", payload)


TOOL = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": '{"a": 1}'}}]}


def delta_of(changed: Event) -> dict[str, Any]:
    data = msgspec.json.decode(changed.encode().removeprefix(b"data: "))
    assert data["extra"] == [1]
    delta: dict[str, Any] = data["choices"][0]["delta"]
    return delta


def test_policy_changes_a_tool_call() -> None:
    """A policy may change a tool call; the fields and the bytes follow."""
    was = event(TOOL)
    data = was.data
    data["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] = "{}"
    now = was.with_payload(data)

    assert (now.tool, now.text, now.raw) == (True, "", b"")
    assert delta_of(now)["tool_calls"][0]["function"]["arguments"] == "{}"
    assert delta_of(was)["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'


def test_policy_removes_reasoning() -> None:
    """A policy may remove reasoning; what remains of the event is text."""
    was = event({"content": "hi", "reasoning_content": "hm"})
    data = was.data
    del data["choices"][0]["delta"]["reasoning_content"]
    now = was.with_payload(data)

    assert (was.reasoning, now.reasoning, now.text) == ("hm", "", "hi")
    assert delta_of(now) == {"content": "hi"}


def test_changes_of_an_event_add_up() -> None:
    """Changes add up: other tools, then other text and another finish."""
    now = event(TOOL).with_payload({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "extra": [1]})

    assert (now.text, now.tool, now.finish) == ("a", False, "stop")
    assert delta_of(now.with_text("b")) == {"content": "b"}


@pytest.mark.parametrize("empty", [None, [], [{}], [None], [{"x": []}], ""])
def test_payload_and_parser_agree(empty: object) -> None:
    """`with_payload` and the parser of upstream's chunks agree on what an event holds."""
    for delta in (
        {"tool_calls": empty},
        {"function_call": {"name": "f"}, "content": None},
        {"refusal": "no"},
        {"reasoning": "hm", "audio": empty},
    ):
        was = event(delta, "stop")
        now = was.with_payload(was.data)
        assert (now.text, now.reasoning, now.tool, now.finish) == (was.text, was.reasoning, was.tool, was.finish)


def test_refusal_keeps_its_field() -> None:
    """Other text of a refusal goes where the refusal stood, and not beside it."""
    assert delta_of(event({"refusal": "no", "content": None}).with_text("sorry")) == {
        "refusal": "sorry",
        "content": None,
    }


def test_payload_without_its_choice_is_refused() -> None:
    """An object without the event's choice is refused: the answer would lose it."""
    with pytest.raises(ValueError, match="with_payload: the object has no choice with index 2"):
        event({"content": "a"}, index=2).with_payload({"choices": [{"index": 0, "delta": {}}]})


def test_whole_answer_is_joined_from_its_choices() -> None:
    """A whole answer is put together of its choices, changed ones as they are now."""
    choices = [{"index": at, "message": {"role": "assistant", "content": None, **TOOL}} for at in (0, 1)]
    payload = msgspec.json.encode({"id": "x", "choices": choices, "usage": {"total_tokens": 3}})
    first, second = (event_of(choice, b"", payload) for choice in read_chunk(payload).choices or [])
    data = first.data
    data["choices"][0]["message"] = {"role": "assistant", "content": "no tools"}
    data["choices"][0]["finish_reason"] = "stop"

    made = msgspec.json.decode(rebuilt_answer(payload, [first.with_payload(data), second]))
    assert made["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "no tools"},
        "finish_reason": "stop",
    }
    assert made["choices"][1]["message"]["tool_calls"] == TOOL["tool_calls"]
    assert made["usage"] == {"total_tokens": 3}
