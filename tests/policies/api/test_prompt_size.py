"""The size of a prompt."""

from __future__ import annotations

from typing import Any

import pytest

from policies.api.prompt_size import size_of
from policies.api.tokens import Size
from policies.testing import make_call


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ({"role": "user", "content": "abc"}, Size(3, 1)),
        ({"role": "user", "content": "\U0001f98a"}, Size(4, 1)),
        ({"role": "user", "content": [{"type": "text", "text": "ab"}] * 50}, Size(100, 1, parts=49)),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:" + "x" * 999}}]},
            Size(0, 1, media=1),
        ),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}, Size(27, 1)),
        ({"role": "user", "content": []}, Size(0, 1)),
        ({"content": None}, Size(0, 1)),
        ({"role": "user", "content": ["ab", "\U0001f98a"]}, Size(6, 1, parts=1)),
        ({"role": "user", "content": [{"text": "ab"}]}, Size(2, 1)),
        ({"role": "user", "content": [{"text": "ab", "x": 1}]}, Size(2 + 19 - 4, 1)),
        ({"role": "user", "content": {"type": "text", "text": "ab"}}, Size(2, 1)),
        ({"role": "user", "content": {"x": [1]}}, Size(9, 1)),
        ({"role": "user", "content": 12.5}, Size(4, 1)),
        ({"role": "user", "content": [{"x": "ab"}, None, 7]}, Size(10 + 4 + 1, 1, parts=2)),
        ({"role": "user", "content": [{"type": [], "x": "ab"}]}, Size(20, 1)),
        ({"role": "user", "content": [{"image_url": {"url": "u" * 99}}]}, Size(14, 1, media=1)),
        ({"role": "user", "content": [{"image_url": "u", "text": "ab"}]}, Size(2 + 29 - 4, 1, media=1)),
        ({"role": "assistant", "content": [{"type": "thinking", "thinking": "ab"}]}, Size(35, 1)),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "ab"}]}, Size(33, 1)),
        ({"role": "user", "content": [{"type": "thing", "thing": "ab"}]}, Size(29, 1, media=1)),
        ({"role": "control", "content": "ab"}, Size(2, 1)),
        ({"role": "r" * 500, "content": "ab"}, Size(504, 1)),
    ],
)
def test_all_that_a_model_reads_counts(message: dict[str, Any], size: Size) -> None:
    """The size of a prompt counts text in UTF-8, parts and tool calls, and the number of images."""
    assert size_of(make_call(messages=[message])) == size


def test_short_unread_fields_count_nothing() -> None:
    """A field that no model reads counts nothing up to 256 bytes, and fully above that."""
    usual = {"user": "u" * 254, "stop": ["a"], "reasoning_effort": "low", "stream_options": {"include_usage": True}}
    assert size_of(make_call("hi", body=usual)).bytes == 2
    assert size_of(make_call("hi", body={"user": "u" * 255})).bytes == 2 + 257
    assert size_of(make_call(messages=[{"role": "user", "content": "hi", "id": "i" * 254}])).bytes == 2


def test_tool_definitions_count() -> None:
    """Tool definitions and response formats are part of the prompt."""
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 1000}}]
    call = make_call("hi", body={"tools": tools, "response_format": {"type": "json_object"}})

    assert size_of(call).bytes > 1000
