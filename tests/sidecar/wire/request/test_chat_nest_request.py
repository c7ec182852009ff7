"""Read Chat Nest requests: answers that stayed empty after an error are left out."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.wire.request.chat_nest_request import chat_nest_messages
from sidecar.wire.request.json_body import BadRequest

ROLES = ("user", "assistant", "system")
NAMES = {"u": "user", "a": "assistant", "s": "system"}


def read(*messages: str) -> list[str]:
    """Return the messages that remain, each as the letter of its role and its content; so are *messages*."""
    sent: list[Any] = [{"role": NAMES[each[0]], "content": each[1:]} for each in messages]
    return [each["role"][0] + each["content"] for each in chat_nest_messages({"messages": sent}, ROLES)]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (["u1"], ["u1"]),
        (["u1", "a2", "u3"], ["u1", "a2", "u3"]),
        (["u1", "a", "u2"], ["u1\n\n2"]),
        (["u1", "a \n\t", "u2"], ["u1\n\n2"]),
        (["u1", "a", "u2", "a", "a", "u3"], ["u1\n\n2\n\n3"]),
        (["u1", "a2", "u3", "a", "u4", "a5", "u6"], ["u1", "a2", "u3\n\n4", "a5", "u6"]),
        (["u1", "a", "a2", "u3"], ["u1", "a2", "u3"]),
        (["u1", "a2", "a", "u3"], ["u1", "a2", "u3"]),
        (["a", "u1"], ["u1"]),
        (["u1", "a"], ["u1"]),
        (["u1", "u2", "a", "u3"], ["u1", "u2\n\n3"]),
        (["u1", "a", "s2", "u3"], ["u1", "s2", "u3"]),
        (["s", "u", "a", "u"], ["s", "u\n\n"]),
        (["a", "a"], ["a", "a"]),
    ],
)
def test_empty_answers_are_left_out(sent: list[str], kept: list[str]) -> None:
    """Empty answers are left out, and the messages of the user around them become one, with a blank line between."""
    assert read(*sent) == kept


@pytest.mark.parametrize("content", [None, [], {}, 1])
def test_answer_without_a_text_is_invalid(content: object) -> None:
    """Content that is not a string is still invalid, also of the assistant."""
    with pytest.raises(BadRequest, match="Invalid messages payload"):
        chat_nest_messages({"messages": [{"role": "assistant", "content": content}]}, ROLES)


def test_messages_are_limited() -> None:
    """More than 10,000 messages are invalid, and the detail names the limit."""
    assert len(read(*["u1"] * 10_000)) == 10_000
    with pytest.raises(BadRequest) as refused:
        read(*["u1"] * 10_001)
    assert refused.value.detail == "'messages' has more than 10000 messages."
