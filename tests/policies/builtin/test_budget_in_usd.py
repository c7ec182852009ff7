"""The policy `budget` in dollars."""

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
from policies.builtin.prices import Price
from policies.testing import make_call, make_services

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
HI = {"model": "small-1", "messages": [{"role": "user", "content": "hi"}], "stream": True}
PRICES = """
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


async def test_call_is_charged_by_its_price(tmp_path: Path) -> None:
    """A call is charged input, cached input and output at the model's price, in micro-dollars, rounded up once."""
    async with upstream(answered) as up, sidecar(settings_of(tmp_path, up.url, PRICES, model=None)) as served:
        status, headers, _ = await served.post(V1, HI | {"max_tokens": 200})
        account = await served.account()

    assert status == 200
    assert (account.unit, account.spent, account.reserved) == ("usd", 136, 0)  # 0.15 + 75 + 60.6, rounded up
    assert not any("ratelimit" in name for name in headers), "neither the draft nor OpenAI has a unit for dollars"


async def test_ceiling_is_what_the_budget_can_pay(tmp_path: Path) -> None:
    """The ceiling is lowered to exactly the tokens that the rest of the budget pays for."""
    async with upstream(answered) as up, sidecar(settings_of(tmp_path, up.url, PRICES, model=None)) as served:
        await served.post(V1, HI | {"max_tokens": 100_000})
        status, _, body = await served.post(V1, HI | {"model": "big", "max_tokens": 400})

    assert up.requests[0].body["max_tokens"] == 1665  # (1000 - 1) / 0.6
    error = json.loads(body)["error"]
    assert (status, error["code"], error["limit"], error["used"]) == (429, "budget_exceeded", 0.001, 0.000136)
    assert "of $0.001 a day" in error["message"]


@pytest.mark.parametrize("body", [{"model": "other"}, {"model": ""}, {"model": "small-1", "models": ["other"]}])
async def test_model_without_a_price_is_refused(tmp_path: Path, body: dict[str, object]) -> None:
    """A call is refused if its model, or a fallback model, has no price."""
    async with upstream(answered) as up, sidecar(settings_of(tmp_path, up.url, PRICES, model=None)) as served:
        status, headers, answer = await served.post(V1, HI | body)
        assert not up.requests

    error = json.loads(answer)["error"]
    assert (status, error["code"], error["policy"]) == (400, "model_not_priced", "budget")
    assert "Name a model with a price, or ask the operator to add it to `prices`." in error["message"]
    assert headers["x-should-retry"] == "false"


@pytest.mark.parametrize(("model", "spent"), [("cheap", 1 + 3 * 5), ("dear", 100 + 3 * 5), ("", 3 * 50)])
async def test_unreported_prompt_is_charged_by_the_model(model: str, spent: int) -> None:
    """A prompt without reported usage is charged at the price of its model; the reservation uses the dearest one."""
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
    choices=st.integers(1, 4),
    ceiling=st.integers(1, 10**6),
)
def test_reservation_covers_the_charge(output: float, base: float, size: int, choices: int, ceiling: int) -> None:
    """The reservation is at least the charge of the largest answer, and at most 2 micro-dollars more."""
    price = Price(base, output)
    budget = Budget(name="b", usd=1.0, prices={"*": price}, reserve="bound")
    call = make_call("x" * size, body={"n": choices, "max_tokens": ceiling})
    lease = asyncio.run(budget.admit(call))
    assert lease is not None
    (claim,) = lease.claims()

    worst = Usage(input=size + 8, output=choices * ceiling)
    assert claim.needs(ceiling) >= lease.charge(claim, worst)
    assert claim.needs(ceiling) <= lease.charge(claim, worst) + 2
