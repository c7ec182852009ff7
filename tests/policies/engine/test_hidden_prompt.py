"""The part of a prompt that only upstream has: limits count it, and estimates do not learn from it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from policies import Budget, Call, Fallback, Lease, MaxTokens, Outcome, Policy, Rejection, RetryClassifier
from policies.api.failure import Cause
from policies.api.upstream import UpstreamError
from policies.api.usage import Usage
from policies.builtin.prices import Price
from policies.engine.chain import Chain
from policies.testing import CollectingSink, ScriptedUpstream, make_call, make_services, serve

pytestmark = pytest.mark.anyio

LONG = "word " * 100


@pytest.mark.parametrize("reserve", ["estimate", "bound"])
async def test_budget_reserves_the_hidden_prompt(reserve: str) -> None:
    """A budget in tokens claims the hidden prompt in addition to the body's, whatever its way to count."""
    bases = []
    for hidden in (0, 5_000):
        lease = await Budget(name="b", tokens=9_999, reserve=reserve).admit(  # type: ignore[arg-type]  # one of the two
            make_call("hi", hidden_prompt_tokens=hidden)
        )
        assert lease is not None
        bases.append(lease.claims()[0].base)
    assert bases[1] - bases[0] == 5_000


async def test_budget_in_dollars_reserves_the_hidden_prompt() -> None:
    """A budget in dollars claims the price of the hidden prompt, and charges it where upstream reports no usage."""
    prices = {"test-model": Price(input=2.0, output=1.0)}
    call = make_call("hi", hidden_prompt_tokens=1_000_000)
    lease = await Budget(name="b", usd=9.0, prices=prices).admit(call)
    assert lease is not None
    (claim,) = lease.claims()
    assert claim.base >= 2_000_000
    assert lease.charge(claim, Usage(unreported=1, model="test-model")) >= 2_000_000


async def test_call_without_a_report_is_charged_its_hidden_prompt() -> None:
    """Where upstream reports no usage, the prompt is charged as reserved, with its hidden part."""
    call = make_call("hi", hidden_prompt_tokens=700)
    await serve([Budget(name="b", tokens=9_999)], call)
    (account,) = await call.services.store.accounts()
    assert account.spent > 700


async def test_hidden_prompt_counts_for_the_size_of_a_request() -> None:
    """`max_tokens.request` bounds the visible and the hidden prompt together."""
    policy = MaxTokens(name="m", output=50, request=100)
    await policy.admit(make_call("x" * 40, hidden_prompt_tokens=40))
    with pytest.raises(Rejection) as refused:
        await policy.admit(make_call("x" * 40, hidden_prompt_tokens=41))
    assert (refused.value.code, refused.value.details["needed"]) == ("request_too_large", 101)


async def test_hidden_prompt_teaches_nothing() -> None:
    """The reported tokens of a call with a hidden prompt do not change the estimates of later calls."""
    upstream = ScriptedUpstream(["ok"], usage=Usage(input=400, output=1))
    for hidden, changes in ((300, False), (0, True)):
        call = make_call(LONG, hidden_prompt_tokens=hidden)
        await serve([Budget(name="b", tokens=9_999)], call, upstream)
        assert call.size is not None
        before = make_services().tokens.estimate("test-model", call.size)
        assert (call.services.tokens.estimate("test-model", call.size, tenant="default") != before) is changes


FAILED = UpstreamError(Cause(Exception, "InternalServerError", "Busy.", status=503), "overloaded")


async def test_call_stays_at_the_upstream_that_has_its_response() -> None:
    """A call with a required upstream goes there first, whatever a policy sets, and a fallback sends it to no other."""

    class Route(Policy, frozen=True):
        async def admit(self, call: Call) -> None:
            call.upstream = "main"

    services = make_services(upstreams=("main", "spare"))
    call = make_call("hi", services=services, required_upstream="spare")
    upstream = ScriptedUpstream([FAILED], ["ok"])
    policies = [Route(name="r"), Fallback(name="f"), RetryClassifier(name="x")]
    assert (await serve(policies, call, upstream)).text == "ok"
    assert upstream.names == ["spare", "spare"]


async def test_another_upstream_of_the_model_does_not_get_a_bound_call() -> None:
    """A failed call with a required upstream is not repeated at another upstream that serves the model as well."""

    class Shared(ScriptedUpstream):
        def another(self, call: Call, tried: Sequence[str]) -> str | None:
            return next((name for name in ("main", "spare") if name not in tried), None)

    call = make_call("hi", services=make_services(upstreams=("main", "spare")), required_upstream="spare")
    upstream = Shared([FAILED], ["ok"])
    assert (await serve([RetryClassifier(name="x")], call, upstream)).text == "ok"
    assert upstream.names == ["spare", "spare"]


async def test_last_lease_is_settled_before_the_last_batch() -> None:
    """The caller's own lease is settled once, after those of policies and before the client can read the end."""
    steps: list[str] = []

    class Noting(Lease):
        def __init__(self, name: str) -> None:
            self._name = name

        async def settle(self, outcome: Outcome) -> None:
            steps.append(f"{self._name} {outcome.usage.output} {sink.ended}")

    class Own(Policy, frozen=True):
        async def admit(self, call: Call) -> Lease:
            return Noting("policy")

    class Sink(CollectingSink):
        ended = False

        def write_nowait(self, batch: object) -> bool:
            self.ended = self.ended or batch.last  # type: ignore[attr-defined]  # a batch
            return super().write_nowait(batch)  # type: ignore[arg-type]  # as above

    sink, call = Sink([]), make_call("hi")
    await Chain([Own(name="o")], ScriptedUpstream(["a", "b"]), call.services).run(call, sink, last_lease=Noting("own"))
    assert steps == ["policy 2 False", "own 2 False"]
    assert sink.ended
