"""Find where the kept part of a conversation begins: at a user's message, behind which each tool result has its call.

Two rules choose among these beginnings. `newest_window` keeps the newest messages. `stable_window` moves seldom, so that
prompts begin alike: an engine with a prefix cache then reuses what it computed for the previous one.

Instructions, which are kept anyway, do not count. Messages are counted from the end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias

from policies.api.requests.parts import Message, parts_of

Kind: TypeAlias = Literal["user", "instruction", "result"]
SHARE_THAT_STAYS = 4
"""A stable window that moves keeps at least its maximum divided by this number."""


def _spellings(kind: Kind, roles: Iterable[str]) -> dict[object, Kind]:
    """Return *roles* in the spellings that SGLang and Ollama accept too: they compare in lower case."""
    return {spelt: kind for role in roles for spelt in (role, role.capitalize(), role.upper())}


_KINDS_BY_ROLE = {
    **_spellings("user", ["user"]),
    **_spellings("instruction", ["system", "developer", "control"]),
    **_spellings("result", ["tool", "function", "ipython"]),
}
"""What a message is by its role; the others, the assistant's, may hold calls.

`control` switches the reasoning of IBM's Granite models, `ipython` is Llama's role for tool results.
"""


Beginning: TypeAlias = tuple[int, int]
"""A place where a window may begin: its index, and how many messages there are from it on, without instructions."""


def is_instruction(message: Message) -> bool:
    """Whether *message* is an instruction (system, developer)."""
    return _KINDS_BY_ROLE.get(message.get("role")) == "instruction"


def newest_window(messages: Sequence[Message], keep: int) -> int | None:
    """Return where the newest *keep* messages begin, and more only where the last turn of the user is longer.

    None for a conversation without a user.
    """
    first = None
    for place, counted in beginnings(messages):
        if first is not None and counted > keep:
            break
        first = place
    return first


def stable_window(messages: Sequence[Message], keep: int, size: int) -> int | None:
    """Return a beginning that stays the same for several turns, with at most *keep* messages as in `newest_window`.

    *size* is the number of messages without instructions, more than *keep*. None for a conversation without a user.

    The beginning is found in steps from the start of the conversation. When a window would exceed *keep* messages, the
    next one begins at the last place that leaves a quarter of them, rounded up. Where turns are too long for that, it
    begins at the next place. A step depends only on the messages up to its end, so longer conversations share it.
    """
    found = list(beginnings(messages))[::-1]
    if not found:
        return None
    numbers = [size - counted for _, counted in found]
    at, first, staying = 0, 0, -(-keep // SHARE_THAT_STAYS)
    while size - first > keep:
        following = bisect_right(numbers, first)
        if following == len(numbers):
            break  # all of it is the last turn
        at = max(bisect_right(numbers, first + keep + 1 - staying) - 1, following)
        first = numbers[at]
    return found[at][0]


def beginnings(messages: Sequence[Message]) -> Iterator[Beginning]:
    """Yield the user's messages in front of which no tool result behind them has its call, the last one first.

    Where there is none, the last message of the user stands for them (BerriAI/litellm#10696).
    """
    counted, lacks_call = 0, False
    uncertain: list[Beginning] = []
    last_user: Beginning | None = None
    found = False
    for at in range(len(messages) - 1, -1, -1):
        kind = _KINDS_BY_ROLE.get((message := messages[at]).get("role"))
        if kind == "instruction":
            continue
        counted += 1
        if kind is None:
            if lacks_call:  # this message may be the call
                lacks_call = False
                uncertain.clear()
        elif kind == "result" or _has_result(message):
            lacks_call = True
        else:
            if last_user is None:
                last_user = at, counted
            if lacks_call:
                uncertain.append((at, counted))
            else:
                found = True
                yield at, counted
    if uncertain or found:
        yield from uncertain  # no message before them has a call
    elif last_user is not None:
        yield last_user


def after_results(messages: Sequence[Message], keep: int) -> int:
    """Return where the newest *keep* messages begin, without tool results in front of the first call."""
    first = counted = 0
    for first in range(len(messages), -1, -1):
        if counted == keep or first == 0:
            break
        counted += not is_instruction(messages[first - 1])
    while first < len(messages) and _cannot_begin(messages[first]):
        first += 1
    return first


def _cannot_begin(message: Message) -> bool:
    kind = _KINDS_BY_ROLE.get(message.get("role"))
    return kind in ("result", "instruction") or (kind == "user" and _has_result(message))


def _has_result(message: Message) -> bool:
    """Whether a user's message holds a tool result as one of its parts, as in Anthropic's messages."""
    if isinstance(message.get("content"), str):
        return False
    return any(isinstance(part, dict) and part.get("type") == "tool_result" for part in parts_of(message))
