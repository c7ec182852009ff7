"""How many tokens may be spent in a calendar window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import msgspec

from .base import Policy, Rejection
from .identity import By, identity
from .store import Claim
from .tokens import size_of
from .window import Calendar, Period, zone_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .call import Call
    from .event import Usage


class Budget(Policy, frozen=True):
    """Hold the worst case before the call, charge the real use after it.

    The hold is the prompt and `n` times the answer's ceiling.  Where less than that is left, the ceiling is lowered, down
    to `floor`; below it the call is refused.  A call without a ceiling gets `answer`.  With `reserve = "bound"` the prompt
    is taken for the most that any tokenizer makes of it, so spent never passes the limit; with `"estimate"` it may by the
    estimate's error, which stays on the books.  The client's own `dailyTokenLimit` lowers a daily budget.  When the store
    is down, calls are refused unless `when_store_fails = "admit"`.
    """

    tokens: Annotated[int, msgspec.Meta(ge=1)]
    window: Period = "day"
    timezone: str = "UTC"
    by: By = "tenant"
    floor: Annotated[int, msgspec.Meta(ge=1)] = 64
    reserve: Literal["estimate", "bound"] = "estimate"
    answer: Annotated[int, msgspec.Meta(ge=1)] = 16_384

    lowers: ClassVar[tuple[str, ...]] = ("tokens", "answer")
    pinned: ClassVar[tuple[str, ...]] = (*Policy.pinned, "window", "timezone", "by")

    def __post_init__(self) -> None:
        zone_of(self.timezone)

    async def admit(self, call: Call) -> None:
        """Give *call* a ceiling where the client set none: without one nothing bounds what it may cost."""
        if call.operation == "chat" and call.max_tokens is None:
            call.max_tokens = self.answer

    def claims(self, call: Call) -> Sequence[Claim]:
        """Return the worst case of *call*, in tokens."""
        if call.operation != "chat":
            return ()
        if call.size is None:
            call.size = size_of(call)
        size = call.size
        prompt = size.bound if self.reserve == "bound" else call.process.tokens.estimate(call.model, size)
        own = call.caps.day_tokens if self.window == "day" else None
        return (
            Claim(
                policy=self.name,
                identity=identity(call, self.by),
                unit="tokens",
                limit=self.tokens if own is None else min(self.tokens, own),
                window=Calendar(self.window, self.timezone),
                base=prompt,
                each=call.n,
                floor=self.floor,
            ),
        )

    def charge(self, claim: Claim, usage: Usage) -> int:
        """Return the tokens spent; a prompt whose size was not reported counts as it was held."""
        return usage.input + usage.output + usage.unreported * claim.base

    def refusal(self, call: Call, claim: Claim) -> Rejection:
        """Return the 429 of this limit; careful clients stop at its type."""
        msg = f"Budget {self.name!r} of {claim.limit} tokens a {self.window} has no room for this call."
        return Rejection(429, "budget_exceeded", msg, kind="insufficient_quota", final=True)
