"""Prices in the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving import settings_of

from sidecar.config.tables import ConfigError


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[[policy]]\nuse = 'budget'", "policy[0]: a budget needs either `tokens` or `usd`; set one of them"),
        ("[[policy]]\nuse = 'budget'\ntokens = 1\nusd = 1.0", "policy[0]: a budget needs either `tokens` or `usd`; set one of them"),
        ("[[policy]]\nuse = 'budget'\nusd = 1", 'policy[0].prices: a budget in `usd` needs prices; add [prices."MODEL"] with input and output per million tokens'),
        ("[[policy]]\nuse = 'budget'\nusd = 0\nprices = { m = { input = 1, output = 1 } }", "policy[0].usd: invalid value 0: expected a number > 0; see `sidecar config` for an example"),
        ("prices = 3\n[store]", 'prices: expected a table; write each price below [prices."MODEL"]'),
        ("[prices.m]\ninput = 1", "prices.m.output: required key is missing; set it to a number"),
        ("[prices.m]\ninput = -1\noutput = 1\n[[policy]]\nuse = 'budget'\nusd = 1", "prices.m.input: invalid value -1: expected a number >= 0; see `sidecar config` for an example"),
        ("[prices.m]\ninput = 1\ncached_input = 2.5\noutput = 3\n[[policy]]\nuse = 'budget'\nusd = 1", "prices.m.cached_input: 2.5 is more than input, the price at which prompts are reserved; lower it"),
        ("[prices.m]\ninput = 1\ncache_write = 0.5\noutput = 3\n[[policy]]\nuse = 'budget'\nusd = 1", "prices.m.cache_write: 0.5 is less than input; raise it, or remove it if writes cost as much as input"),
        ("[prices.other]\ninput = 1\noutput = 1\n[[policy]]\nuse = 'budget'\nusd = 1", "prices: no price for model 'test-model', which the budget 'budget' needs; add [prices.\"test-model\"] with input and output, in dollars per million tokens"),
    ],
)  # fmt: skip
def test_fault_of_a_price_names_its_place(tmp_path: Path, text: str, line: str) -> None:
    """Each fault of prices is reported once, at its place; a default model without a price is refused at start."""
    with pytest.raises(ConfigError) as found:
        settings_of(tmp_path, "http://h/v1", text)
    assert [fault.line("F").removeprefix("F: ") for fault in found.value.faults] == [line]
