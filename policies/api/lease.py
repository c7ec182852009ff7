"""What a policy holds for one call, and how the call ended."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from .event import Event
from .usage import Usage


class Ending(StrEnum):
    """How a call ended."""

    DONE = "done"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Outcome(msgspec.Struct, frozen=True):
    """The end of a call; every lease is settled with the same one."""

    ending: Ending
    usage: Usage
    attempts: int


class Lease:
    """What one policy holds for one call, from its admission to its end."""

    __slots__ = ()

    def event(self, event: Event) -> Event | None:
        """See, change (`event.with_text`), drop (None) or `Stop` one piece of the answer.

        Called for each piece, synchronously, on the hot path: it must not block.  To hold text back, return None and
        put it in front of a later piece, or hand it out in `end`.
        """
        return event

    def end(self) -> Sequence[Event]:
        """Return the last word: pieces to send after the last one.  Once, only when the answer is complete."""
        return ()

    async def settle(self, outcome: Outcome) -> None:
        """Give back or charge.  Exactly once, however the call ended; newest lease first; shielded, in bounded time."""
