"""Changed events: text, tools and reasoning, in streams and in whole answers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from policies.api.event import Event
from policies.engine.rebuilt_answer import rebuilt_answer
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


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
PICTURE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


@pytest.mark.parametrize(
    ("content", "text", "expected"),
    [
        ([{"type": "text", "text": "a"}], "b", [{"type": "text", "text": "b"}]),
        (
            [THINKING, {"type": "text", "text": "a", "x": 1}, PICTURE, {"type": "text", "text": "c"}],
            "b",
            [THINKING, {"type": "text", "text": "b", "x": 1}, PICTURE],
        ),
        ([{"type": "text", "text": "a"}, PICTURE], "", [PICTURE]),
        ([THINKING], "b", [THINKING, {"type": "text", "text": "b"}]),
        ([], "b", [{"type": "text", "text": "b"}]),
        (["a", "c"], "b", ["b"]),
        ({"type": "text", "text": "a"}, "b", [{"type": "text", "text": "b"}]),
        ([{"type": "refusal", "refusal": "no"}], "b", [{"type": "refusal", "refusal": "b"}]),
        ([{"text": {"value": "a", "annotations": []}}], "b", [{"text": {"value": "b", "annotations": []}}]),
    ],
)
def test_text_of_parts_is_changed_in_its_part(content: object, text: str, expected: object) -> None:
    """Other text of a list of parts stands in its first part with text; other parts stay as they were."""
    changed = event({"content": content}).with_text(text)

    assert delta_of(changed) == {"content": expected}
    payload = msgspec.json.encode({"choices": [{"index": 0, "message": {"content": content}}]})
    whole = event({"content": content}, part="message").with_text(text)
    answer = msgspec.json.decode(rebuilt_answer(payload, [whole]))
    assert answer["choices"][0]["message"] == {"content": expected}


def test_unchanged_parts_are_kept() -> None:
    """An event whose text did not change keeps its parts as they were, when another field of it is changed."""
    parts = [{"type": "text", "text": "a"}, THINKING, {"type": "text", "text": "c"}]
    was = event({"content": parts})

    assert delta_of(was.with_payload(was.data)) == {"content": parts}
    assert (was.text, was.reasoning) == ("ac", "hm")


@pytest.mark.parametrize("delta", [{"images": [PICTURE]}, {"content": [PICTURE]}, {"vendor": {"a": ["b"]}}])
def test_other_output_stays_in_a_changed_event(delta: dict[str, Any]) -> None:
    """Output in other fields stays in an event whose text is changed, and counts as output."""
    changed = event({"role": "assistant", **delta}).with_text("")

    assert (changed.is_output, changed.has_answer, changed.text) == (True, True, "")
    assert delta_of(changed) == {"role": "assistant", **delta}


def test_deep_nesting_is_bounded() -> None:
    """Parts nested too deeply have no text, and raise nothing."""
    deep: Any = "hm"
    for _ in range(400):
        deep = [deep]
    found = event({"content": [{"type": "thinking", "thinking": deep}], "reasoning": deep})

    assert (found.reasoning, found.text, found.is_output) == ("", "", True)
