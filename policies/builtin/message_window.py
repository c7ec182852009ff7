"""Find where the kept part of a conversation begins: at a user's message, behind which each tool result has its call.

Two rules choose among these beginnings. `newest_window` keeps the newest messages. `stable_window` moves seldom: an
engine keeps what it computed for a prompt (its prefix cache), and can use it as long as the next prompt begins alike.

Both take a conversation without its instructions, and return the place of the first message to keep.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from policies.api.call import Message, parts_of

INSTRUCTION_ROLES = frozenset({"system", "developer", "control"})
"""Roles whose messages are kept and do not count. `control` switches the reasoning of IBM's Granite models."""
RESULT_ROLES = frozenset({"tool", "function", "ipython"})
"""Roles of tool results; `ipython` is Llama's."""
SHARE_THAT_STAYS = 4
"""A stable window that moves keeps at least its maximum divided by this number."""


def role_of(message: Message) -> str:
    """Return the role in lower case, as SGLang and Ollama compare it; empty for a message without one."""
    role = message.get("role")
    return role.lower() if isinstance(role, str) else ""


def newest_window(talk: Sequence[Message], keep: int) -> int:
    """Keep at most *keep* messages, the newest, and more only where the last turn of the user is longer."""
    places = beginnings(talk)
    if not places:
        return without_results(talk, max(0, len(talk) - keep))
    return places[min(bisect_left(places, len(talk) - keep), len(places) - 1)]


def stable_window(talk: Sequence[Message], keep: int) -> int:
    """Keep at most *keep* messages as `newest_window` does, with a beginning that stays the same for several turns.

    It is found in steps from the start of the conversation. Each time that a window would exceed *keep* messages, the
    next one begins at the last place that leaves a quarter of them, rounded up; where turns are too long for that, at the
    next place. A step depends only on the messages up to its end, so a longer conversation has the same steps.
    """
    places = beginnings(talk)
    if not places:
        return without_results(talk, max(0, len(talk) - keep))
    first, staying = 0, -(-keep // SHARE_THAT_STAYS)
    while len(talk) - first > keep:
        last_that_leaves_enough = bisect_right(places, first + keep + 1 - staying) - 1
        following = bisect_right(places, first)
        if following == len(places):
            break  # all of it is the last turn
        first = places[max(last_that_leaves_enough, following)]
    return first


def beginnings(talk: Sequence[Message]) -> list[int]:
    """Return the places of the user's messages in front of which no tool result behind them has its call.

    The last message of the user stands for them where there is none (BerriAI/litellm#10696).
    """
    places: list[int] = []
    users_before_result: list[int] = []
    lacks_call, last_user = False, None
    for at in reversed(range(len(talk))):
        role = role_of(talk[at])
        if role in RESULT_ROLES or (role == "user" and _has_result(talk[at])):
            lacks_call = True
        elif role != "user":
            users_before_result.clear()  # this message may be the call
            lacks_call = False
        else:
            last_user = at if last_user is None else last_user
            (users_before_result if lacks_call else places).append(at)
    places += users_before_result
    places.reverse()
    return places or [last_user] if last_user is not None else []


def _has_result(message: Message) -> bool:
    """Whether a user's message holds a tool result as one of its parts, as in Anthropic's messages."""
    if isinstance(message.get("content"), str):
        return False
    return any(isinstance(part, dict) and part.get("type") == "tool_result" for part in parts_of(message))


def without_results(talk: Sequence[Message], first: int) -> int:
    """Return the place of the first message from *first* on that is no tool result."""
    while first < len(talk) and role_of(talk[first]) in RESULT_ROLES:
        first += 1
    return first
