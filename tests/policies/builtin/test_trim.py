"""The policy `trim`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Trim
from policies.builtin.trim import trimmed
from policies.testing import make_call

pytestmark = pytest.mark.anyio


def conversation(*roles: str) -> list[dict[str, Any]]:
    """Return messages of *roles*, numbered in their content."""
    return [{"role": role, "content": str(at)} for at, role in enumerate(roles)]


def numbers(messages: list[dict[str, Any]]) -> str:
    """Return the contents of *messages* in one string."""
    return "".join(message["content"] for message in messages)


@pytest.mark.parametrize(
    ("roles", "keep", "kept"),
    [
        ("uauau", 3, "234"),
        ("uauau", 9, "01234"),
        ("suauau", 2, "045"),
        ("sduau", 1, "014"),
        ("uatttu", 3, "5"),
        ("uatttu", 5, "12345"),
        ("uattt", 2, "01234"),
        ("uaaaa", 2, "01234"),
        ("aaaa", 2, "23"),
        ("tttt", 2, ""),
        ("uausu", 2, "234"),
    ],
)
def test_trim_keeps_instructions_and_the_last_user_message(roles: str, keep: int, kept: str) -> None:
    """Trim keeps instructions and the last user message, and no tool result without its call."""
    names = {"u": "user", "a": "assistant", "s": "system", "d": "developer", "t": "tool"}
    assert numbers(trimmed(conversation(*(names[x] for x in roles)), keep)) == kept


@given(roles=st.lists(st.sampled_from(["user", "assistant", "system", "tool"]), max_size=12), keep=st.integers(1, 6))
def test_trim_keeps_order(roles: list[str], keep: int) -> None:
    """Trim keeps the end of the conversation in order, behind all instructions."""
    messages = conversation(*roles)
    kept = trimmed(messages, keep)
    talk = [x for x in messages if x["role"] != "system"]
    rest = [x for x in kept if x["role"] != "system"]

    assert [x for x in kept if x["role"] == "system"] == [x for x in messages if x["role"] == "system"]
    assert rest == talk[len(talk) - len(rest) :]
    assert not rest or rest[0]["role"] != "tool"


async def test_short_conversation_is_unchanged() -> None:
    """Trim does not change a conversation within its limit."""
    call = make_call(messages=conversation("user", "assistant"))
    before = call.messages
    await Trim(max_messages=2).admit(call)

    assert call.messages is before
