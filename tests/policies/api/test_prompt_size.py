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
