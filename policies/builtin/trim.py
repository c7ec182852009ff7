"""Drop the oldest messages of a conversation, and keep tool results together with their calls."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from policies.api.call import Call
from policies.api.policy import Policy
from policies.api.requests.parts import Message

from .message_window import after_results, is_instruction, newest_window, stable_window

CHAT_NEST_PATH = "/api/chat"
"""The path whose clients send the newest messages only: their prompts share no beginning, and a full window was cut."""
MIN_STABLE_MESSAGES = 12
"""From this `max_messages` up the window moves in steps; the quarter of less is too short for an answer."""


class Trim(Policy, frozen=True):
    """Keep at most `max_messages` messages, the newest, from one of the user on.

    Instructions (system, developer) are kept and do not count. A tool result is dropped with the call it answers, and
    the last user message is always kept with all that follows.

    From `max_messages = 12` up, the oldest kept message stays the same for several turns, so that engines reuse the
    prompt's beginning. Then several turns are dropped at once, at most three quarters. `/api/chat` always gets the newest
    messages. Its clients cut conversations themselves, so exactly `max_messages` messages may begin in the middle of one.
    """

    max_messages: Annotated[int, msgspec.Meta(ge=1)]

    tightened_by_profiles: ClassVar[tuple[str, ...]] = ("max_messages",)

    async def admit(self, call: Call) -> None:
        """Drop the oldest messages of *call* beyond the limit."""
        messages = call.messages
        may_be_cut = call.path == CHAT_NEST_PATH
        if len(messages) > self.max_messages - may_be_cut:
            stable = self.max_messages >= MIN_STABLE_MESSAGES and not may_be_cut
            kept = trimmed(messages, self.max_messages, stable=stable, may_be_cut=may_be_cut)
            if len(kept) < len(messages):
                call.messages = kept
                call.note(f"kept {len(kept)} of {len(messages)} messages")


def trimmed(messages: list[Message], keep: int, *, stable: bool = False, may_be_cut: bool = False) -> list[Message]:
    """Return the last *keep* of *messages* in order, from one of the user on, and all instructions.

    There are more where the last turn of the user is longer, and fewer with *stable*: see `stable_window`.  *may_be_cut*:
    exactly *keep* messages may be the end of a longer conversation.
    """
    size = sum(1 for message in messages if not is_instruction(message))
    first = None
    if size > keep - may_be_cut:
        first = stable_window(messages, keep, size) if stable else newest_window(messages, keep)
    if first is None:
        first = after_results(messages, keep)
    if size == len(messages):
        return messages[first:]
    return [message for message in messages[:first] if is_instruction(message)] + messages[first:]
