"""What models cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from policies.api.claim import MILLION
from policies.api.match import longest_match
from policies.api.usage import Usage

Dollars = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model's tokens cost, in US dollars per million; cached input costs as input where it has no price."""

    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None

    def __post_init__(self) -> None:
        if self.cached_input is not None and self.cached_input > self.input:
            msg = f"cached_input: {self.cached_input:g} is more than input, by which a prompt is held; lower it"
            raise ValueError(msg)

    @property
    def per_output(self) -> int:
        """Micro-dollars for a million tokens of an answer."""
        return round(self.output * MILLION)

    def prompt(self, tokens: int) -> int:
        """Return what a prompt of *tokens* costs, in micro-dollars, rounded up."""
        return -(-tokens * round(self.input * MILLION) // MILLION)

    def cost(self, usage: Usage) -> int:
        """Return what *usage* costs, in micro-dollars, rounded up once."""
        cached = min(usage.cached, usage.input)
        of_cached = self.input if self.cached_input is None else self.cached_input
        total = (usage.input - cached) * round(self.input * MILLION)
        total += cached * round(of_cached * MILLION) + usage.output * self.per_output
        return -(-total // MILLION)


def price_of(model: str, prices: Mapping[str, Price]) -> Price | None:
    """Return the price under *model*'s name, else under the longest pattern that matches it, else None."""
    pattern = longest_match(model, prices)
    return None if pattern is None else prices[pattern]
