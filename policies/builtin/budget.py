"""How much may be spent in a calendar window: tokens, or money."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import msgspec

from policies.api.claim import MILLION, Claim
from policies.api.identity import MANY, By, Identities, identity
from policies.api.policy import Policy
from policies.api.prompt_size import size_of
from policies.api.rejection import Rejection
from policies.api.tokens import MEDIA_TOKENS
from policies.api.window import Calendar, Period, zone_of

from .prices import Price, price_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.api.call import Call
    from policies.api.usage import Usage


class Budget(Policy, frozen=True):
    """Hold the worst case before the call, charge the real use after it.

    The hold is the prompt and, for each answer asked for, its ceiling: in tokens, or in dollars by `prices` (a model
    without a price is refused; of the names that the upstreams have for it, the dearest is held).  Where less than that is left, the ceiling is lowered, down to `floor`; below it the call is
    refused.  A call without a ceiling gets `answer`.  With `reserve = "bound"` the prompt is taken for the most that any
    tokenizer makes of it, so spent never passes the limit; with `"estimate"` it may by the estimate's error, which stays on
    the books.  An image, or anything else that is no text, counts as `media` tokens; with `"bound"` a file also as its
    bytes.  The client's own `dailyTokenLimit` lowers a daily budget of tokens.  When the store is down, calls are refused
    unless `when_store_fails = "admit"`.
    """

    tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    usd: Annotated[float, msgspec.Meta(gt=0, le=1_000_000_000)] | None = None
    prices: dict[str, Price] = msgspec.field(default_factory=dict)
    window: Period = "day"
    timezone: str = "UTC"
    by: By = "tenant"
    floor: Annotated[int, msgspec.Meta(ge=1)] = 64
    reserve: Literal["estimate", "bound"] = "estimate"
    answer: Annotated[int, msgspec.Meta(ge=1)] = 16_384
    media: Annotated[int, msgspec.Meta(ge=1)] = MEDIA_TOKENS
    identities: Identities = MANY

    lowers: ClassVar[tuple[str, ...]] = ("tokens", "usd", "answer")
    pinned: ClassVar[tuple[str, ...]] = (*Policy.pinned, "window", "timezone", "by", "prices", "media", "identities")

    def __post_init__(self) -> None:
        zone_of(self.timezone)
        if (self.tokens is None) == (self.usd is None):
            msg = "a budget is of `tokens` or of `usd`; give it one of them"
            raise ValueError(msg)
        if self.usd is not None and not self.prices:
            msg = 'prices: a budget of dollars has no prices; write [prices."MODEL"] with input and output per million'
            raise ValueError(msg)
        if self.usd is None and self.prices:
            msg = "prices: a budget of tokens needs none; give it `usd`, or leave them out"
            raise ValueError(msg)

    async def admit(self, call: Call) -> None:
        """Give *call* a ceiling where the client set none: without one nothing bounds what it may cost."""
        if call.operation == "chat" and call.max_tokens is None:
            call.max_tokens = self.answer

    def claims(self, call: Call) -> Sequence[Claim]:
        """Return the worst case of *call*.  Raises `Rejection` where it is to be paid in dollars and has no price."""
        if call.operation != "chat":
            return ()
        if call.size is None:
            call.size = size_of(call)
        size = call.size
        if self.reserve == "bound":
            prompt = size.bound(self.media)
        else:
            prompt = call.services.tokens.estimate(call.model, size, self.media)
        counted = identity(call, self.by)
        if self.tokens is not None:
            own = call.caps.day_tokens if self.window == "day" else None
            limit, base, each = self.tokens if own is None else min(self.tokens, own), prompt, call.n
        else:
            limit, base, each = self._in_dollars(call, prompt)
        return (
            Claim(
                policy=self.name,
                identity=counted.identity,
                unit="tokens" if self.usd is None else "usd",
                limit=limit,
                window=Calendar(self.window, self.timezone),
                base=base,
                each=each,
                floor=self.floor,
                bound=0 if counted.crowd is None else self.identities,
                crowd=counted.crowd or "",
            ),
        )

    def _in_dollars(self, call: Call, prompt: int) -> tuple[int, int, int]:
        assert self.usd is not None  # for the type: it is of tokens or of dollars
        prices = self._prices(call, call.served_models)
        call.prompts[self.name] = prompt
        base = max(price.prompt(prompt) for price in prices)
        return round(self.usd * MILLION), base, call.n * max(price.per_output for price in prices)

    def _prices(self, call: Call, models: Sequence[str]) -> list[Price]:
        """Return what each of *models* costs.  Raises `Rejection` where one of them has no price."""
        found = []
        for model in models:
            price = price_of(model, self.prices)
            if price is None:
                raise self._unpriced(model, call)
            found.append(price)
        return found

    def _unpriced(self, model: str, call: Call) -> Rejection:
        if not call.names_model:
            what = "The call names no model, and the one that it would get has no price"
        else:
            what = f"The model {model[:100]!r} has no price"
        msg = (
            f"{what} in the budget {self.name!r}. Name a model that has one, or ask the operator to add it to `prices`."
        )
        return Rejection(400, "model_not_priced", msg, details={"policy": self.name})

    def charge(self, call: Call, claim: Claim, usage: Usage) -> int:
        """Return what was spent, in the claim's unit; a prompt whose size was not reported has as many tokens as were held."""
        if self.usd is None:
            return usage.input + usage.output + usage.unreported * claim.base
        return sum(self._cost(call, part) for part in usage.each)

    def _cost(self, call: Call, usage: Usage) -> int:
        # A router, or whoever does not say what it was asked for, may have served any of them.
        sure = usage.model and not call.others
        models = [usage.model] if sure else call.served_models
        unreported = usage.unreported * call.prompts[self.name]
        return max(price.cost(usage) + price.prompt(unreported) for price in self._prices(call, models))

    def refusal(self, call: Call, claim: Claim) -> Rejection:
        """Return the 429 of this limit; careful clients stop at its type."""
        limit = f"{claim.limit} tokens" if self.usd is None else f"${claim.limit / MILLION:.10g}"
        msg = f"Budget {self.name!r} of {limit} a {self.window} has no room for this call."
        return Rejection(429, "budget_exceeded", msg, kind="insufficient_quota", final=True)
