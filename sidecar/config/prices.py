"""`[prices]`: what models cost, for all budgets of dollars that have no prices of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from policies.api.policy import Policy
from policies.builtin.budget import Budget
from policies.builtin.prices import Price, price_of

from .tables import ConfigFault, to_struct
from .upstream import ResolvedUpstream


def with_prices(entries: object, table: object, faults: list[ConfigFault]) -> Any:
    """Return the `[[policy]]` *entries*, each budget of dollars with the prices of *table* unless it has its own."""
    if table is None:
        return entries
    if not isinstance(table, dict):
        faults.append(ConfigFault("prices", "is no table", 'write each price below a [prices."MODEL"]'))
        return entries
    before = len(faults)
    for model, price in table.items():
        to_struct(Price, price, f"prices.{model}", faults)
    if not isinstance(entries, list):
        return entries
    # Prices with a fault are told once, here, and not again for each budget.
    sound = table if len(faults) == before else {"*": {"input": 0, "output": 0}}
    return [{**entry, "prices": sound} if _lacks_prices(entry) else entry for entry in entries]


def _lacks_prices(entry: object) -> bool:
    return isinstance(entry, dict) and "usd" in entry and "prices" not in entry


def check_prices(policies: Sequence[Policy], choices: Sequence[ResolvedUpstream], faults: list[ConfigFault]) -> None:
    """Add a fault for each model of the upstreams' own that a budget of dollars has no price for."""
    for policy in policies:
        if not isinstance(policy, Budget) or policy.usd is None:
            continue
        own = [model for choice in choices for model in (choice.named(choice.model or ""), *choice.models.values())]
        for model in dict.fromkeys(filter(None, own)):
            if price_of(model, policy.prices) is None:
                right = f'write [prices."{model}"] with input and output, in dollars per million tokens'
                faults.append(ConfigFault("prices", f"{model!r} has no price for the budget {policy.name!r}", right))
