"""Limit the tokens or dollars spent in a calendar window."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

import msgspec

from policies.api.call import Call
from policies.api.claim import (
    DEFAULT_MAX_IDENTITIES,
    MICRO_DOLLARS_PER_DOLLAR,
    By,
    Claim,
    Identities,
    Unit,
    counts_by_model,
)
from policies.api.decoding.token_counts import MEDIA_TOKENS
from policies.api.lease import ExactCharge, Lease
from policies.api.match import longest_match
from policies.api.policy import Policy
from policies.api.prompt_size import bound_tokens, size_of
from policies.api.rejection import Rejection
from policies.api.store import Standing
from policies.api.usage import Usage
from policies.api.window import Calendar, Period, zone_of

from .budget_refusal import budget_refusal
from .fixed_cost import FixedCost, flat_price
from .option_checks import raise_faults
from .prices import Price, price_of

DEFAULT_ANSWER_TOKENS = 2_048
MIN_BOUND_TOKENS = 64
"""Smallest `answer` that `reserve = "bound"` sets as a ceiling: a shorter answer is rarely of use."""

AnswerTokens = Annotated[int, msgspec.Meta(ge=1)]


class Budget(Policy, frozen=True):
    """Reserve the expected cost before the call, and charge the actual usage after it.

    The reservation is the prompt plus the ceiling of each requested answer, in tokens, or in dollars by `prices`. A
    model without a price is refused; if upstreams know it by several names, the most expensive one counts.

    If less than that is left, the answer's ceiling is lowered, but not below `floor`: then the call is refused.

    A call without a ceiling reserves `answer` tokens (a number, or a table by model). With `reserve = "estimate"` a
    stream is sent without one: its reservation grows by `answer` tokens at a time. It ends with `length` where there is
    no room for `floor` more. A call without `stream` gets a ceiling only if less than `answer` is left. With `"bound"`
    every such call gets `answer` as its ceiling.

    With `reserve = "bound"` the prompt counts as the most tokens that any tokenizer can make of it. So spending never
    exceeds the limit while upstream obeys its ceiling. With `"estimate"` it can: by the error of the estimate, and by
    what an answer without a ceiling uses beyond its reservation. That is charged as debt. An image or other media part
    counts as `media` tokens; with `"bound"` its bytes count too, and so do those of all fields that may enter the prompt.
    A prompt counts once more for each call of a tool that the server may run (`max_tool_calls`).
    What upstream keeps of earlier calls counts as the tokens that it last reported.

    A call of a relayed route costs its `tokens_each`, or what upstream reports if that is more. In dollars each of these
    tokens has the highest price of its model, or of all models if it names none.

    The client's `dailyTokenLimit` lowers a daily budget of tokens. When the store is down, calls are refused unless
    `when_store_fails = "admit"`.
    """

    tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    usd: Annotated[float, msgspec.Meta(gt=0, le=1_000_000_000)] | None = None
    prices: dict[str, Price] = msgspec.field(default_factory=dict)
    window: Period = "day"
    timezone: str = "UTC"
    by: By = "tenant"
    floor: Annotated[int, msgspec.Meta(ge=1)] = 64
    reserve: Literal["estimate", "bound"] = "estimate"
    answer: AnswerTokens | dict[str, AnswerTokens] = DEFAULT_ANSWER_TOKENS
    media: Annotated[int, msgspec.Meta(ge=1)] = MEDIA_TOKENS
    identities: Identities = DEFAULT_MAX_IDENTITIES

    admit_returns_lease: ClassVar[bool] = True
    tightened_by_profiles: ClassVar[tuple[str, ...]] = ("tokens", "usd")
    fixed_in_profiles: ClassVar[tuple[str, ...]] = (
        *Policy.fixed_in_profiles, "window", "timezone", "by", "prices", "media", "identities",
    )  # fmt: skip

    def __post_init__(self) -> None:
        raise_faults(self._zone_faults(), self._unit_faults(), self._answer_faults())

    def _zone_faults(self) -> Iterator[str]:
        try:
            zone_of(self.timezone)
        except ValueError as error:
            yield f"timezone: {error}"

    def _unit_faults(self) -> Iterator[str]:
        if (self.tokens is None) == (self.usd is None):
            yield "a budget needs either `tokens` or `usd`; set one of them"
        elif self.usd is not None and not self.prices:
            yield 'prices: a budget in `usd` needs prices; add [prices."MODEL"] with input and output per million tokens'
        elif self.usd is None and self.prices:
            yield "prices: only a budget in `usd` uses prices; set `usd`, or remove them"

    def _answer_faults(self) -> Iterator[str]:
        least = min([self.answer] if isinstance(self.answer, int) else self.answer.values(), default=MIN_BOUND_TOKENS)
        if self.reserve == "bound" and least < MIN_BOUND_TOKENS:
            yield f'answer: {least} is too short for an answer with reserve = "bound"; use at least {MIN_BOUND_TOKENS}'

    @property
    def model_options(self) -> Mapping[str, Sequence[str]]:
        """See `Policy.model_options`: prices are by model, and so may be the counters."""
        own: dict[str, Sequence[str]] = {"prices": tuple(self.prices)} if self.usd is not None else {}
        return {**super().model_options, **own, **({"by": ()} if counts_by_model(self.by) else {})}

    @property
    def amount(self) -> int:
        """The limit in tokens, or in micro-dollars."""
        return round((self.usd or 0) * MICRO_DOLLARS_PER_DOLLAR) if self.tokens is None else self.tokens

    def limits_for(self, call: Call) -> Sequence[Claim]:
        """Return a claim of nothing: what a call reserves depends on its prompt and its model's price."""
        window = Calendar(self.window, self.timezone)
        unit: Unit = "tokens" if self.usd is None else "usd"
        most = self.identities
        return (self.claim(call, 0, limit=self.amount, window=window, by=self.by, unit=unit, max_identities=most),)

    async def admit(self, call: Call) -> Lease | None:
        """Return the lease that claims. With `reserve = "bound"`, set a ceiling if the call has none."""
        if not call.has_completion:
            return None
        if call.tokens_each:
            return self._fixed_cost(call, call.tokens_each)
        if self.reserve == "bound" and call.max_tokens is None and call.has_ceiling:
            call.max_tokens = ceiling = self.expected_answer(call)
            call.note(f"set the answer's ceiling to {ceiling} tokens")
        return _TokenLease(self, call) if self.usd is None else _DollarLease(self, call)

    def _fixed_cost(self, call: Call, tokens: int) -> Lease:
        """Return the lease of a call that costs *tokens* each. In dollars they have the price of its dearest token."""
        price = None if self.usd is None else flat_price(call, self.prices, self.name)
        claim = self.claim(
            call,
            tokens if price is None else math.ceil(price * tokens),
            limit=round(self.usd * MICRO_DOLLARS_PER_DOLLAR) if self.usd is not None else self.tokens or 0,
            window=Calendar(self.window, self.timezone),
            by=self.by,
            unit="tokens" if price is None else "usd",
            max_identities=self.identities,
        )
        return FixedCost(claim, tokens, price)

    def expected_answer(self, call: Call) -> int:
        """Return `answer` in tokens: that of the longest pattern that matches the model; the largest for several models."""
        if isinstance(self.answer, int):
            return self.answer
        patterns = [longest_match(model, self.answer) for model in call.served_models]
        any_model = self.answer.get("*", DEFAULT_ANSWER_TOKENS)
        return max((any_model if pattern is None else self.answer[pattern] for pattern in patterns), default=any_model)


class _BudgetLease(Lease):
    """The parts that leases of tokens and dollars share: the prompt's size, and the refusal."""

    __slots__ = ("_call", "_policy", "_prompt")

    def __init__(self, policy: Budget, call: Call) -> None:
        self._policy, self._call, self._prompt = policy, call, 0

    def _measure(self) -> int:
        """Return the prompt tokens to reserve."""
        call, policy = self._call, self._policy
        model, size = call.model, call.size
        if size is None:
            size = call.size = size_of(call)
        if policy.reserve == "bound":
            self._prompt = bound_tokens(call, policy.media)
        else:
            self._prompt = call.services.tokens.estimate(model, size, policy.media, tenant=call.tenant)
        self._prompt += call.hidden_prompt_tokens
        self._prompt *= call.prompt_turns
        return self._prompt

    def refusal(self, claim: Claim, standing: Standing) -> Rejection:
        return budget_refusal(claim, standing)


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
                answer=policy.expected_answer(call),
                max_identities=policy.identities,
            ),
        )


class _DollarLease(_BudgetLease):
    __slots__ = ()

    def claims(self) -> Sequence[Claim]:
        policy, call = self._policy, self._call
        prices = self._prices(call.served_models)
        prompt = self._measure()
        return (
            policy.claim(
                call,
                max(price.prompt(prompt) for price in prices),
                limit=policy.amount,
                window=Calendar(policy.window, policy.timezone),
                by=policy.by,
                unit="usd",
                per_token=call.choices_generated * max(price.per_output for price in prices),
                floor=policy.floor,
                answer=policy.expected_answer(call),
                max_identities=policy.identities,
            ),
        )

    def charge(self, claim: Claim, usage: Usage) -> int:
        """Return the cost in micro-dollars. A prompt whose size upstream did not report costs its reserved tokens."""
        return ExactCharge(sum(map(self._cost, usage.each), Fraction()))

    def _cost(self, usage: Usage) -> Fraction:
        # With fallback models, or without a known model, any of the models may have served the attempt.
        is_sure = usage.model and not self._call.fallback_models
        models = [usage.model] if is_sure else self._call.served_models
        unreported = usage.unreported * self._prompt
        return max(price.cost(usage, unreported=unreported) for price in self._prices(models))

    def _prices(self, models: Sequence[str]) -> list[Price]:
        """Return the price of each of *models*. Raises `Rejection` if one has no price."""
        found = []
        for model in models:
            price = price_of(model, self._policy.prices)
            if price is None:
                raise self._unpriced(model)
            found.append(price)
        return found

    def _unpriced(self, model: str) -> Rejection:
        if not self._call.names_model:
            problem = "The call names no model, and the default model has no price"
        else:
            problem = f"The model {model[:100]!r} has no price"
        name = self._policy.name
        msg = f"{problem} in the budget {name!r}. Name a model with a price, or ask the operator to add it to `prices`."
        return Rejection(400, "model_not_priced", msg, details={"policy": name})
