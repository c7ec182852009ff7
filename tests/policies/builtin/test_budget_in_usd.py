"""Budgets of dollars."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import settings_of, sidecar
from wire import HEAD, Connection, sse, token, upstream

from policies.api.usage import Usage
from policies.builtin.budget import Budget
from policies.builtin.prices import Price, price_of
from policies.testing import make_call, make_services
from sidecar.config.tables import ConfigError

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
HI = {"model": "small-1", "messages": [{"role": "user", "content": "hi"}], "stream": True}
MONEY = """
[prices."small*"]
input = 0.15
cached_input = 0.075
output = 0.60
[prices.big]
input = 10
output = 30
[[policy]]
use = "budget"
usd = 0.001
"""


async def answered(connection: Connection) -> None:
    await connection.send(HEAD)
    await connection.chunk(token("hello"))
    await connection.chunk(sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    usage = {"prompt_tokens": 1001, "completion_tokens": 101, "prompt_tokens_details": {"cached_tokens": 1000}}
    await connection.chunk(sse({"choices": [], "usage": usage}))
    await connection.chunk(b"data: [DONE]\n\n")
    await connection.send(b"0\r\n\r\n")


async def test_charged_by_the_price(tmp_path: Path) -> None:
    """A call costs its input, cached input and output at the model's price, in whole micro-dollars, rounded up once."""
    async with upstream(answered) as up, sidecar(settings_of(tmp_path, up.url, MONEY, model=None)) as served:
        status, headers, _ = await served.post(V1, HI | {"max_tokens": 200})
        account = await served.account()

    assert status == 200
    assert (account.unit, account.spent, account.reserved) == ("usd", 136, 0)  # 0.15 + 75 + 60.6, rounded up
    assert headers["ratelimit-policy"] == '"budget";q=1000;w=86400'
    assert headers["ratelimit"].startswith('"budget";r=879;')  # 5 tokens and 200 at the price: 0.75 and 120


async def test_clamped_to_what_is_left(tmp_path: Path) -> None:
    """The ceiling is what the money that is left pays for: no more, and no less."""
    async with upstream(answered) as up, sidecar(settings_of(tmp_path, up.url, MONEY, model=None)) as served:
        await served.post(V1, HI | {"max_tokens": 100_000})
        status, _, body = await served.post(V1, HI | {"model": "big", "max_tokens": 400})

    assert up.requests[0].body["max_tokens"] == 1665  # (1000 - 1) / 0.6
    told = json.loads(body)["error"]
    assert (status, told["code"], told["limit"], told["used"]) == (429, "budget_exceeded", 0.001, 0.000136)
    assert "of $0.001 a day" in told["message"]


@pytest.mark.parametrize("body", [{"model": "other"}, {"model": ""}, {"model": "small-1", "models": ["other"]}])
async def test_unpriced(tmp_path: Path, body: dict[str, object]) -> None:
    """A model without a price is refused, never free; so are those that a router may fall back to."""
    async with upstream(answered) as up, sidecar(settings_of(tmp_path, up.url, MONEY, model=None)) as served:
        status, headers, said = await served.post(V1, HI | body)
        assert not up.requests

    error = json.loads(said)["error"]
    assert (status, error["code"], error["policy"]) == (400, "model_not_priced", "budget")
    assert "Name a model with a price, or ask the operator to add it to `prices`." in error["message"]
    assert headers["x-should-retry"] == "false"


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
        ("[prices.other]\ninput = 1\noutput = 1\n[[policy]]\nuse = 'budget'\nusd = 1", "prices: no price for model 'test-model', which the budget 'budget' needs; add [prices.\"test-model\"] with input and output, in dollars per million tokens"),
    ],
)  # fmt: skip
def test_faults(tmp_path: Path, text: str, line: str) -> None:
    """What is wrong with prices is told once, at its place; a default model without one is refused at start."""
    with pytest.raises(ConfigError) as found:
        settings_of(tmp_path, "http://h/v1", text)
    assert [fault.line("F").removeprefix("F: ") for fault in found.value.faults] == [line]


def test_price_of() -> None:
    """A model's own price wins, then the longest pattern that it fits."""
    prices = {name: Price(1, at) for at, name in enumerate(["*", "gpt-*", "gpt-4o*", "gpt-4o-mini"])}

    found = [price_of(name, prices) for name in ("gpt-4o-mini", "gpt-4o-2024", "gpt-5", "llama")]
    assert [price.output for price in found if price] == [3, 2, 1, 0]
    assert price_of("", prices) is None


@pytest.mark.parametrize(("model", "spent"), [("cheap", 1 + 3 * 5), ("dear", 100 + 3 * 5), ("", 3 * 50)])
async def test_unreported_prompt(model: str, spent: int) -> None:
    """A prompt whose size was not reported costs what it does at the model that was asked; the hold is of the dearest."""
    prices = {"cheap": Price(0.01, 5), "dear": Price(1, 5), "other": Price(0, 50)}
    services = make_services()
    services.names_of = lambda *_, **__: ["cheap", "dear", "other"]
    call = make_call("x" * 92, services=services, body={"max_tokens": 10})
    budget = Budget(name="b", usd=1.0, prices=prices, reserve="bound")
    lease = await budget.admit(call)
    assert lease is not None
    (claim,) = lease.claims()

    assert claim.base == 100
    assert lease.charge(claim, Usage(output=3, unreported=1, model=model)) == spent


@given(
    output=st.floats(0, 100),
    base=st.floats(0, 100),
    size=st.integers(1, 10_000),
    many=st.integers(1, 4),
    ceiling=st.integers(1, 10**6),
)
def test_hold_covers_the_charge(output: float, base: float, size: int, many: int, ceiling: int) -> None:
    """What is held is never less than what the worst answer costs."""
    price = Price(base, output)
    budget = Budget(name="b", usd=1.0, prices={"*": price}, reserve="bound")
    call = make_call("x" * size, body={"n": many, "max_tokens": ceiling})
    lease = asyncio.run(budget.admit(call))
    assert lease is not None
    (claim,) = lease.claims()

    worst = Usage(input=size + 8, output=many * ceiling)
    assert claim.needs(ceiling) >= lease.charge(claim, worst)
    assert claim.needs(ceiling) <= lease.charge(claim, worst) + 2
