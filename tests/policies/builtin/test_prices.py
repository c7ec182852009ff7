"""Prices of models."""

from __future__ import annotations

from policies.builtin.prices import Price, price_of


def test_longest_pattern_gives_the_price() -> None:
    """A model has its own price, else that of the longest matching pattern."""
    prices = {name: Price(1, at) for at, name in enumerate(["*", "gpt-*", "gpt-4o*", "gpt-4o-mini"])}

    found = [price_of(name, prices) for name in ("gpt-4o-mini", "gpt-4o-2024", "gpt-5", "llama")]
    assert [price.output for price in found if price] == [3, 2, 1, 0]
    assert price_of("", prices) is None
