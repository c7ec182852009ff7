"""Keep a conversation's end, without tearing apart what belongs together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec

from policies.api.policy import Policy

if TYPE_CHECKING:
    from policies.api.call import Call, Message

INSTRUCTIONS = frozenset({"system", "developer"})
TORN = INSTRUCTIONS | {"tool", "function"}
"""What no kept part of a conversation begins with; instructions are kept anyway."""


class Trim(Policy, frozen=True):
    """Keep the last `max_messages` messages.

    Instructions (system, developer) are kept and not counted.  A tool's result never stands without the call that it
    answers (BerriAI/litellm#10696), and the last user message always stays.
    """

    max_messages: Annotated[int, msgspec.Meta(ge=1)]

    lowers: ClassVar[tuple[str, ...]] = ("max_messages",)

    async def admit(self, call: Call) -> None:
        """Drop the oldest messages of *call* beyond the limit."""
        if len(call.messages) > self.max_messages:
            call.messages = trimmed(call.messages, self.max_messages)


def trimmed(messages: list[Message], keep: int) -> list[Message]:
    """Return the last *keep* of *messages*, moved to where no group is torn, and all instructions in their places."""
    first, talk = len(messages), 0
    while first and talk < keep:
        first -= 1
        talk += messages[first].get("role") not in INSTRUCTIONS
    while first < len(messages) and messages[first].get("role") in TORN:
        first += 1
    asked = next((at for at in reversed(range(len(messages))) if messages[at].get("role") == "user"), first)
    first = min(first, asked)
    return [message for message in messages[:first] if message.get("role") in INSTRUCTIONS] + messages[first:]
