"""Drop the oldest messages of a conversation, and keep tool results together with their calls."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from policies.api.call import Call, Message
from policies.api.policy import Policy

INSTRUCTION_ROLES = frozenset({"system", "developer"})
NEVER_FIRST_ROLES = INSTRUCTION_ROLES | {"tool", "function"}
"""Roles that the kept part of a conversation does not begin with; instructions are kept anyway."""


class Trim(Policy, frozen=True):
    """Keep the last `max_messages` messages.

    Instructions (system, developer) are kept and do not count. A tool result is dropped with the call it answers
    (BerriAI/litellm#10696), and the last user message is always kept.
    """

    max_messages: Annotated[int, msgspec.Meta(ge=1)]

    tightened_by_profiles: ClassVar[tuple[str, ...]] = ("max_messages",)

    async def admit(self, call: Call) -> None:
        """Drop the oldest messages of *call* beyond the limit."""
        messages = call.messages
        if len(messages) > self.max_messages:
            kept = trimmed(messages, self.max_messages)
            if len(kept) < len(messages):
                call.messages = kept
                call.note(f"kept {len(kept)} of {len(messages)} messages")


def trimmed(messages: list[Message], keep: int) -> list[Message]:
    """Return the last *keep* of *messages* in order, and all instructions.

    There are fewer where the kept part would start with a tool result, and more where the last user message is older.
    """
    first, counted = len(messages), 0
    while first and counted < keep:
        first -= 1
        counted += messages[first].get("role") not in INSTRUCTION_ROLES
    while first < len(messages) and messages[first].get("role") in NEVER_FIRST_ROLES:
        first += 1
    last_user = next((at for at in reversed(range(len(messages))) if messages[at].get("role") == "user"), first)
    first = min(first, last_user)
    return [message for message in messages[:first] if message.get("role") in INSTRUCTION_ROLES] + messages[first:]
