"""Keep a conversation's end, without tearing apart what belongs together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec

from .base import Policy

if TYPE_CHECKING:
    from .call import Call, Message

INSTRUCTIONS = frozenset({"system", "developer"})
RESULTS = frozenset({"tool", "function"})


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
    talk = [at for at, message in enumerate(messages) if message.get("role") not in INSTRUCTIONS]
    cut = max(0, len(talk) - keep)
    while cut < len(talk) and messages[talk[cut]].get("role") in RESULTS:
        cut += 1
    asked = [at for at in talk if messages[at].get("role") == "user"]
    first = talk[cut] if cut < len(talk) else len(messages)
    first = min(first, asked[-1]) if asked else first
    return [message for at, message in enumerate(messages) if at >= first or message.get("role") in INSTRUCTIONS]
