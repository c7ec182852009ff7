"""Read `[prices]`: the prices of models, for every budget in dollars that has no `prices` of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from policies.api.policy import Policy
from policies.builtin.budget import Budget
from policies.builtin.prices import Price, price_of

from .tables import ConfigFault, to_struct
from .upstream import ResolvedUpstream


def with_prices(entries: object, table: object, faults: list[ConfigFault]) -> Any:
    """Return the `[[policy]]` *entries* with the prices of *table* added to each budget in dollars without its own."""
    if table is None:
        return entries
    if not isinstance(table, dict):
        faults.append(ConfigFault("prices", "expected a table", 'write each price below [prices."MODEL"]'))
        return entries
    before = len(faults)
    for model, price in table.items():
        to_struct(Price, price, f"prices.{model}", faults)
    if not isinstance(entries, list):
        return entries
    # Faulty prices are reported once, here: each budget gets a valid placeholder instead.
    valid = table if len(faults) == before else {"*": {"input": 0, "output": 0}}
    return [{**entry, "prices": valid} if _lacks_prices(entry) else entry for entry in entries]


def _lacks_prices(entry: object) -> bool:
    return isinstance(entry, dict) and "usd" in entry and "prices" not in entry


def check_prices(policies: Sequence[Policy], choices: Sequence[ResolvedUpstream], faults: list[ConfigFault]) -> None:
    """Add a fault for each model configured at an upstream that a budget in dollars has no price for."""
    for policy in policies:
        if not isinstance(policy, Budget) or policy.usd is None:
            continue
        own = [model for choice in choices for model in (choice.named(choice.model or ""), *choice.models.values())]
        for model in dict.fromkeys(filter(None, own)):
            if price_of(model, policy.prices) is None:
                cure = f'add [prices."{model}"] with input and output, in dollars per million tokens'
                faults.append(
                    ConfigFault("prices", f"no price for model {model!r}, which the budget {policy.name!r} needs", cure)
                )
