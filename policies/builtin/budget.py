"""How much may be spent in a calendar window: tokens, or money."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import msgspec

from policies.api.call import Call
from policies.api.claim import DEFAULT_MAX_IDENTITIES, MILLION, By, Claim, Identities
from policies.api.lease import Lease
from policies.api.policy import Policy
from policies.api.prompt_size import size_of
from policies.api.rejection import Rejection
from policies.api.store import Standing
from policies.api.tokens import MEDIA_TOKENS
from policies.api.usage import Usage
from policies.api.window import Calendar, Period, zone_of

from .prices import Price, price_of


class Budget(Policy, frozen=True):
    """Reserve the worst case before the call, charge the real use after it.

    The reservation is the prompt and, for each answer asked for, its ceiling: in tokens, or in dollars by `prices` (a model
    without a price is refused; of the upstreams' names for it, the most expensive counts). Where less than that is left, the
    ceiling is lowered, down to `floor`; below it the call is refused. A call without a ceiling gets `answer`. With
    `reserve = "bound"` the prompt counts as the most tokens that any tokenizer makes of it, so spent never passes the limit;
    with `"estimate"` it may pass it by the estimate's error, which is charged as debt. An image, or anything else that is
    no text, counts as `media` tokens; with `"bound"` a file also as its bytes. The client's own `dailyTokenLimit` lowers a
    daily budget of tokens. When the store is down, calls are refused unless `when_store_fails = "admit"`.
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
    identities: Identities = DEFAULT_MAX_IDENTITIES

    tightened_by_profiles: ClassVar[tuple[str, ...]] = ("tokens", "usd", "answer")
    fixed_in_profiles: ClassVar[tuple[str, ...]] = (
        *Policy.fixed_in_profiles, "window", "timezone", "by", "prices", "media", "identities",
    )  # fmt: skip

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

    async def admit(self, call: Call) -> Lease | None:
        """Set a ceiling where the client set none, because without one the cost has no bound; return the claiming lease."""
        if not call.has_completion:
            return None
        if call.max_tokens is None:
            call.max_tokens = self.answer
            call.note(f"set the answer's ceiling to {self.answer} tokens")
        return _TokenLease(self, call) if self.usd is None else _DollarLease(self, call)


class _BudgetLease(Lease):
    """What tokens and dollars have in common: the prompt's size, whose account it is, and the refusal."""

    __slots__ = ("_call", "_policy", "_prompt")

    def __init__(self, policy: Budget, call: Call) -> None:
        self._policy, self._call, self._prompt = policy, call, 0

    def _measure(self) -> int:
        """Return the prompt's tokens as they are reserved."""
        call, policy = self._call, self._policy
        model, size = call.model, call.size
        if size is None:
            size = call.size = size_of(call)
        if policy.reserve == "bound":
            self._prompt = size.bound(policy.media)
        else:
            self._prompt = call.services.tokens.estimate(model, size, policy.media)
        return self._prompt

    def _refused(self, amount: str) -> Rejection:
        """Return the 429 of this limit; careful clients stop at its type."""
        policy = self._policy
        msg = f"Budget {policy.name!r} of {amount} a {policy.window} has no room for this call."
        return Rejection(429, "budget_exceeded", msg, error_type="insufficient_quota", final=True)


class _TokenLease(_BudgetLease):
    __slots__ = ()

    def claims(self) -> Sequence[Claim]:
        policy, call = self._policy, self._call
        assert policy.tokens is not None  # for the type: `admit` chooses this class
        own = call.caps.day_tokens if policy.window == "day" else None
        return (
            policy.claim(
                call,
                self._measure(),
                limit=policy.tokens if own is None else min(policy.tokens, own),
                window=Calendar(policy.window, policy.timezone),
                by=policy.by,
                unit="tokens",
                per_token=call.choices_generated,
                floor=policy.floor,
                max_identities=policy.identities,
            ),
        )

    def refusal(self, claim: Claim, standing: Standing) -> Rejection:
        return self._refused(f"{claim.limit} tokens")


class _DollarLease(_BudgetLease):
    __slots__ = ()

    def claims(self) -> Sequence[Claim]:
        policy, call = self._policy, self._call
        assert policy.usd is not None  # for the type: `admit` chooses this class
        prices = self._prices(call.served_models)
        prompt = self._measure()
        return (
            policy.claim(
                call,
                max(price.prompt(prompt) for price in prices),
                limit=round(policy.usd * MILLION),
                window=Calendar(policy.window, policy.timezone),
                by=policy.by,
                unit="usd",
                per_token=call.choices_generated * max(price.per_output for price in prices),
                floor=policy.floor,
                max_identities=policy.identities,
            ),
        )

    def charge(self, claim: Claim, usage: Usage) -> int:
        """Return what was spent; a prompt whose size was not reported has as many tokens as were reserved."""
        return sum(self._cost(part) for part in usage.each)

    def refusal(self, claim: Claim, standing: Standing) -> Rejection:
        return self._refused(f"${claim.limit / MILLION:.10g}")

    def _cost(self, usage: Usage) -> int:
        # Behind a router, or where the attempt's model is not known, any of the models may have served it.
        is_sure = usage.model and not self._call.fallback_models
        models = [usage.model] if is_sure else self._call.served_models
        unreported = usage.unreported * self._prompt
        return max(price.cost(usage) + price.prompt(unreported) for price in self._prices(models))

    def _prices(self, models: Sequence[str]) -> list[Price]:
        """Return what each of *models* costs. Raises `Rejection` where one of them has no price."""
        found = []
        for model in models:
            price = price_of(model, self._policy.prices)
            if price is None:
                raise self._unpriced(model)
            found.append(price)
        return found

    def _unpriced(self, model: str) -> Rejection:
        if not self._call.names_model:
            what = "The call names no model, and the one that it would get has no price"
        else:
            what = f"The model {model[:100]!r} has no price"
        name = self._policy.name
        msg = f"{what} in the budget {name!r}. Name a model that has one, or ask the operator to add it to `prices`."
        return Rejection(400, "model_not_priced", msg, details={"policy": name})
