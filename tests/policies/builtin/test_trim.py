"""The policy `trim`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Trim
from policies.builtin.trim import trimmed
from policies.testing import make_call

pytestmark = pytest.mark.anyio

NAMES = {"u": "user", "a": "assistant", "s": "system", "d": "developer", "t": "tool"}
Turn = Callable[[int], list[dict[str, Any]]]


def conversation(roles: str) -> list[dict[str, Any]]:
    """Return messages of the *roles* that the letters stand for, numbered in their content."""
    return [{"role": NAMES[letter], "content": str(at)} for at, letter in enumerate(roles)]


def numbers(messages: list[dict[str, Any]]) -> str:
    """Return the contents of *messages* in one string."""
    return " ".join(message["content"] for message in messages)


@pytest.mark.parametrize(
    ("roles", "keep", "kept"),
    [
        ("uauau", 3, "2 3 4"),
        ("uauau", 4, "2 3 4"),
        ("uauau", 9, "0 1 2 3 4"),
        ("suauau", 2, "0 5"),
        ("sduau", 1, "0 1 4"),
        ("uatttu", 3, "5"),
        ("uatttu", 5, "5"),
        ("uauatau", 6, "2 3 4 5 6"),
        ("uauatau", 4, "6"),
        ("uattt", 2, "0 1 2 3 4"),
        ("uaaaa", 2, "0 1 2 3 4"),
        ("uauaaaa", 2, "2 3 4 5 6"),
        ("aaaa", 2, "2 3"),
        ("tttt", 2, ""),
        ("uausu", 2, "2 3 4"),
        ("auau", 4, "0 1 2 3"),
        ("sauau", 4, "0 1 2 3 4"),
        ("staua", 4, "0 2 3 4"),
    ],
)
def test_newest_messages_stay(roles: str, keep: int, kept: str) -> None:
    """The newest messages stay, from one of the user on, with all instructions and the whole last turn of the user."""
    assert numbers(trimmed(conversation(roles), keep)) == kept


@pytest.mark.parametrize(
    ("path", "roles", "kept"),
    [
        ("/api/chat", "auauau", "1 2 3 4 5"),
        ("/api/chat", "sauauau", "0 2 3 4 5 6"),
        ("/api/chat", "uauaua", "0 1 2 3 4 5"),
        ("/api/chat", "auau", "0 1 2 3"),
        ("/api/chat", "aaaaaa", "0 1 2 3 4 5"),
        ("/v1/chat/completions", "auauau", "0 1 2 3 4 5"),
    ],
)
async def test_window_of_the_client_begins_with_the_user(path: str, roles: str, kept: str) -> None:
    """On /api/chat, whose clients send the newest messages, a full window begins with the user too; a shorter one is whole."""
    call = make_call(messages=conversation(roles), path=path)
    await Trim(max_messages=6).admit(call)
    assert numbers(call.messages) == kept


CALL: dict[str, Any] = {"role": "assistant", "tool_calls": [{"id": "1"}, {"id": "2"}], "content": None}


@pytest.mark.parametrize(
    "results",
    [
        [{"role": "tool", "content": "r"}, {"role": "user", "content": "image"}, {"role": "tool", "content": "r"}],
        [{"role": "ipython", "content": "r"}, {"role": "User", "content": "x"}, {"role": "function", "content": "r"}],
        [{"role": "user", "content": [{"type": "tool_result", "content": "r"}]}],
        [{"role": "user", "content": {"type": "tool_result", "content": "r"}}],
    ],
)
@pytest.mark.parametrize("stable", [True, False])
def test_call_and_results_stay_together(results: list[dict[str, Any]], stable: bool) -> None:  # noqa: FBT001  # a column of the table
    """No window begins between a call and the last of its results, also where a user's message stands between them."""
    turn = [{"role": "user", "content": "q"}, CALL, *results, {"role": "assistant", "content": "a"}]
    messages: list[dict[str, Any]] = [*turn * 9, {"role": "user", "content": "end"}]
    for keep in range(1, len(messages)):
        kept = trimmed(messages, keep, stable=stable)
        assert kept[0] in (turn[0], messages[-1])
        assert len(kept) <= keep


@pytest.mark.parametrize(
    "result", [{"role": "tool", "content": "r"}, {"role": "user", "content": [{"type": "tool_result", "content": "r"}]}]
)
def test_conversation_without_a_question_begins_with_a_call(result: dict[str, Any]) -> None:
    """Where only results of tools are the user's, the window begins at a call, never at a result without one."""
    messages = [CALL, result] * 9
    for keep in range(2, len(messages)):
        kept = trimmed(messages, keep)
        assert kept[0] is CALL
        assert len(kept) <= keep


@given(
    roles=st.text(st.sampled_from("uuuaast"), max_size=60),
    keep=st.integers(1, 24),
    stable=st.booleans(),
)
def test_trim_keeps_the_end_in_order(roles: str, keep: int, stable: bool) -> None:  # noqa: FBT001  # hypothesis gives it by place
    """Trim keeps the end of the conversation in order, behind all instructions, and no more than the limit or the last turn."""
    messages = conversation(roles)
    kept = trimmed(messages, keep, stable=stable)
    talk = [x for x in messages if x["role"] != "system"]
    rest = [x for x in kept if x["role"] != "system"]
    last_user = max((at for at, x in enumerate(talk) if x["role"] == "user"), default=len(talk))

    assert [x for x in kept if x["role"] == "system"] == [x for x in messages if x["role"] == "system"]
    assert rest == talk[len(talk) - len(rest) :]
    assert not rest or rest[0]["role"] != "tool"
    assert len(rest) >= len(talk) - last_user
    if len(talk) > keep and last_user < len(talk):
        assert rest[0]["role"] == "user"
        assert (
            len(rest) <= keep or not any(x["role"] == "user" for x in rest[1:]) or "tool" in {x["role"] for x in rest}
        )


@pytest.mark.parametrize("keep", [12, 13, 15, 20, 40])
def test_stable_window_keeps_a_quarter(keep: int) -> None:
    """At least a quarter of the limit stays at each length of a conversation."""
    for size in range(keep + 1, 6 * keep):
        kept = trimmed(conversation(("ua" * size)[:size]), keep, stable=True)
        assert keep / 4 <= len(kept) <= keep


def spoken(at: int) -> list[dict[str, Any]]:
    """Return a turn of two messages."""
    return [{"role": "user", "content": f"question {at}" * 5}, {"role": "assistant", "content": f"answer {at}" * 20}]


def with_tools(at: int) -> list[dict[str, Any]]:
    """Return a turn with two tool calls, and one after their results."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": f"{at}a"}, {"id": f"{at}b"}]}
    results = [{"role": "tool", "tool_call_id": f"{at}{each}", "content": "result" * 9} for each in "ab"]
    return [spoken(at)[0], call, *results, spoken(at)[1]]


def growing(turn: Turn, turns: int, system: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the messages of each request: one when the user or the tools have spoken last."""
    requests, messages = [], list(system)
    for at in range(turns):
        for message, following in zip(turn(at), [*turn(at)[1:], None], strict=True):
            messages.append(message)
            if message["role"] != "assistant" and (following is None or following["role"] == "assistant"):
                requests.append(list(messages))
    return requests


@pytest.mark.parametrize("keep", [12, 20, 50])
@pytest.mark.parametrize("turn", [spoken, with_tools])
@pytest.mark.parametrize("system", [0, 2])
async def test_trimmed_prompts_share_their_beginning(keep: int, turn: Turn, system: int) -> None:
    """Most trimmed prompts of a growing conversation begin with 90 % of the one before, so that engines reuse it."""
    begin = [{"role": role, "content": "instruction" * 9} for role in ("system", "developer")[:system]]
    policy, before, shared, trims = Trim(max_messages=keep), "", 0, 0
    for messages in growing(turn, 100, begin):
        call = make_call(messages=messages, path="/v1/chat/completions")
        await policy.admit(call)
        prompt = json.dumps(call.messages)
        if call.notes:
            trims += 1
            shared += prompt.startswith(before[: int(len(before) * 0.9)])
            assert call.messages[: system + 1] == [*begin, call.messages[system]]
            assert call.messages[system]["role"] == "user"
            assert keep / 4 <= len(call.messages) - system <= keep
        before = prompt

    assert trims > 100 - keep
    assert shared > trims * 0.7


@pytest.mark.parametrize(
    ("path", "keep", "kept"),
    [
        ("/v1/chat/completions", 12, 3),
        ("/v1/chat/completions", 11, 11),
        ("/api/chat", 12, 11),
        ("/api/chat", 20, 19),
    ],
)
async def test_only_long_windows_outside_chat_nest_move_in_steps(path: str, keep: int, kept: int) -> None:
    """On `/api/chat`, whose clients slide a window of their own, and below 12 messages, the newest messages stay."""
    sizes = []
    for size in range(keep + 1, 5 * keep, 2):
        call = make_call(messages=conversation(("ua" * size)[: size | 1]), path=path)
        await Trim(max_messages=keep).admit(call)
        sizes.append(len(call.messages))
    assert min(sizes) == kept


async def test_short_conversation_is_unchanged() -> None:
    """Trim does not change a conversation within its limit, whatever it begins with."""
    for roles in ("ua", "au", "sdau", "aa"):
        call = make_call(messages=conversation(roles))
        before = list(call.messages)
        await Trim(max_messages=2).admit(call)
        assert call.messages == before
