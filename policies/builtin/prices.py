"""Prices of models, and the cost of usage by them."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated

import msgspec

from policies.api.claim import MICRO_DOLLARS_PER_DOLLAR
from policies.api.match import longest_match
from policies.api.usage import Usage

Dollars = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]

TOKENS_PER_PRICE = 1_000_000
"""Prices are per this many tokens."""


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The price of a model's tokens, in US dollars per million.

    Without `cached_input`, input that is read from a cache costs as much as other input, and without `cache_write` so does
    input that is written to one. Prompts are reserved at the higher price of both.
    """

    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None
    cache_write: Dollars | None = None

    def __post_init__(self) -> None:
        if self.cached_input is not None and self.cached_input > self.input:
            msg = f"cached_input: {self.cached_input:g} is more than input, the price at which prompts are reserved; lower it"
            raise ValueError(msg)
        if self.cache_write is not None and self.cache_write < self.input:
            msg = f"cache_write: {self.cache_write:g} is less than input; raise it, or remove it if writes cost as much as input"
            raise ValueError(msg)

    @property
    def highest_input(self) -> float:
        """The highest price of an input token, per million."""
        return self.input if self.cache_write is None else self.cache_write

    @property
    def per_output(self) -> int:
        """Micro-dollars per million output tokens."""
        return round(self.output * MICRO_DOLLARS_PER_DOLLAR)

    def prompt(self, tokens: int) -> int:
        """Return the cost of a prompt of *tokens*, in micro-dollars, rounded up."""
        return -(-tokens * round(self.highest_input * MICRO_DOLLARS_PER_DOLLAR) // TOKENS_PER_PRICE)

    def cost(self, usage: Usage, *, unreported: int = 0) -> Fraction:
        """Return the exact cost of *usage* and of *unreported* prompt tokens, in micro-dollars."""
        cached = min(usage.cached, usage.input)
        of_cached = self.input if self.cached_input is None else self.cached_input
        written = 0 if self.cache_write is None else min(usage.written, usage.input - cached)
        total = (usage.input - cached - written) * round(self.input * MICRO_DOLLARS_PER_DOLLAR)
        total += (unreported + written) * round(self.highest_input * MICRO_DOLLARS_PER_DOLLAR)
        total += cached * round(of_cached * MICRO_DOLLARS_PER_DOLLAR) + usage.output * self.per_output
        return Fraction(total, TOKENS_PER_PRICE)


def price_of(model: str, prices: Mapping[str, Price]) -> Price | None:
    """Return the price for *model*: under its own name, else under the longest pattern that matches in any case, else None."""
    pattern = longest_match(model, prices, ignore_case=True)
    return None if pattern is None else prices[pattern]
