"""The budget's lease for a call whose prompt and answer are not read: each costs a fixed number of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from policies.api.call import Call
from policies.api.claim import MICRO_DOLLARS_PER_DOLLAR, Claim
from policies.api.lease import ExactCharge, Lease
from policies.api.rejection import Rejection
from policies.api.store import Standing
from policies.api.usage import Usage

from .budget_refusal import budget_refusal
from .prices import TOKENS_PER_PRICE, Price, price_of


def flat_price(call: Call, prices: Mapping[str, Price], policy: str) -> Fraction:
    """Return the micro-dollars of one token of *call*: the highest of input and output, over all models that may serve it.

    A call that names no model may be served by any. Raises `Rejection` for a model without a price.
    """
    found: list[Price] = []
    for model in call.served_models if call.model else ():
        price = price_of(model, prices)
        if price is None:
            msg = f"The model {model[:100]!r} has no price in the budget {policy!r}. Name another one, or ask the operator to add it to `prices`."
            raise Rejection(400, "model_not_priced", msg, details={"policy": policy})
        found.append(price)
    dearest = max(max(price.highest_input, price.output) for price in found or prices.values())
    return Fraction(round(dearest * MICRO_DOLLARS_PER_DOLLAR), TOKENS_PER_PRICE)


class FixedCost(Lease):
    """Takes *claim*, and charges *tokens* for each attempt that may have worked, or what upstream reported if that is more.

    *price* is in micro-dollars per token; None for a claim of tokens.
    """

    __slots__ = ("_claim", "_price", "_tokens")

    def __init__(self, claim: Claim, tokens: int, price: Fraction | None) -> None:
        self._claim, self._tokens, self._price = claim, tokens, price

    def claims(self) -> Sequence[Claim]:
        """See `Lease.claims`."""
        return (self._claim,)

    def charge(self, claim: Claim, usage: Usage) -> int:
        """See `Lease.charge`."""
        tokens = sum(max(self._tokens, each.input + each.output) for each in usage.each if each.paid_prompt)
        return tokens if self._price is None else ExactCharge(self._price * tokens)

    def refusal(self, claim: Claim, standing: Standing) -> Rejection:
        """See `Lease.refusal`."""
        return budget_refusal(claim, standing)
