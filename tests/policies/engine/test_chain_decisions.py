"""What policies decide about attempts: the first upstream, and after a failure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import openai
import pytest

from policies import Call, Chain, Decision, Failure, Policy, Retry, RetryClassifier, UpstreamError
from policies.api.failure import Cause
from policies.engine.call_control import CallControl
from policies.engine.error_report import HookMisuse
from policies.testing import CollectingSink, ScriptedUpstream, make_call, make_services, serve

pytestmark = pytest.mark.anyio

FAILED = UpstreamError(
    Cause(lambda: openai.OpenAIError("x"), "RateLimitError", "Slow down.", status=429, error_fields={"code": "slow"}),
    "rate",
)


async def test_policy_chooses_the_upstream() -> None:
    """A policy can set the upstream of the first attempt in `admit`."""

    class Route(Policy, frozen=True):
        async def admit(self, call: Call) -> None:
            call.upstream = "spare"

    upstream = ScriptedUpstream([FAILED], ["ok"])
    services = make_services(upstreams=("main", "spare"))
    served = await serve([Route(name="r"), RetryClassifier(name="x")], make_call("hi", services=services), upstream)

    assert (upstream.names, served.text) == (["spare", "spare"], "ok")


@pytest.mark.parametrize(
    ("decision", "problem"), [(True, "returned a bool"), (0.5, "returned a float"), ("no", "returned a str")]
)
async def test_wrong_decision_is_named_by_class(decision: Any, problem: str) -> None:
    """A value of `retry` other than a `Retry`, `GIVE_UP` or None is an error that names its class."""

    class Odd(Policy, frozen=True):
        def retry(self, call: Call, failure: Failure) -> Decision | None:
            chosen: Decision | None = decision
            return chosen

    with pytest.raises(TypeError, match=f"Odd.retry {problem}; return a Retry, GIVE_UP or None"):
        await serve([Odd(name="o")], make_call("hi"), ScriptedUpstream([FAILED]))


async def test_unknown_upstream_of_a_call_is_an_error() -> None:
    """An upstream that is not configured ends the call before an attempt; the error names the configured ones only."""

    class Route(Policy, frozen=True):
        async def admit(self, call: Call) -> None:
            call.upstream = "hunter2"

    upstream, control = ScriptedUpstream(), CallControl()
    services = make_services(upstreams=("main", "spare"))
    chain = Chain([Route(name="r")], upstream, services)
    with pytest.raises(HookMisuse) as caught:
        await chain.run(make_call("hi", services=services), CollectingSink([]), control=control)

    problem = "a policy set call.upstream to an upstream that is not configured; use one of 'main', 'spare'"
    assert str(caught.value) == problem
    assert control.outcome is not None
    assert (control.outcome.upstream, control.outcome.attempts, upstream.names) == ("", 0, [])


async def test_unknown_upstream_of_a_retry_is_an_error() -> None:
    """A `Retry` at an upstream that is not configured ends the call; its record has only the upstream of the attempt."""

    class Odd(Policy, frozen=True):
        def retry(self, call: Call, failure: Failure) -> Decision | None:
            return Retry(upstream="hunter2")

    upstream, control = ScriptedUpstream([FAILED]), CallControl()
    services = make_services(upstreams=("main", "spare"))
    chain = Chain([Odd(name="o")], upstream, services)
    with pytest.raises(HookMisuse) as caught:
        await chain.run(make_call("hi", services=services), CollectingSink([]), control=control)

    problem = "Odd.retry returned a Retry with an upstream that is not configured; use one of 'main', 'spare'"
    assert str(caught.value) == problem
    assert control.outcome is not None
    assert (control.outcome.upstream, control.outcome.attempts, upstream.names) == ("main", 1, ["main"])


class Serving(ScriptedUpstream):
    """Upstreams `b` and `c` serve the model; the call begins at `b`."""

    async def choose(self, call: Call) -> str:
        return "b"

    def another(self, call: Call, tried: Sequence[str]) -> str | None:
        return next((name for name in ("b", "c") if name not in tried), None)


@pytest.mark.parametrize(
    ("policies", "retry_after", "names"),
    [
        ([RetryClassifier(name="r", attempts=2)], None, ["b", "c", "c"]),
        ([RetryClassifier(name="r", attempts=2)], 3600.0, ["b", "c"]),
        ([RetryClassifier(name="r", attempts=1)], None, ["b"]),
        ([], None, ["b"]),
    ],
)
async def test_retry_goes_to_another_upstream_that_serves_the_model(
    policies: list[Policy], retry_after: float | None, names: list[str]
) -> None:
    """A retry goes at once to an upstream that was not tried, also if the failed one asks for a long wait; then it stays."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    upstream = Serving([UpstreamError(openai.OpenAIError("x"), "rate", retry_after=retry_after)])
    services = make_services(upstreams=("a", "b", "c"))
    services.sleep = sleep
    await serve(policies, make_call("hi", services=services), upstream)

    assert upstream.names == names
    assert slept[:1] == [0.0][: len(names) - 1]


@pytest.mark.parametrize("by", ["call", "retry"])
async def test_upstream_that_a_policy_names_takes_precedence(by: str) -> None:
    """`call.upstream` holds for all attempts, and `Retry(upstream=…)` for the next one, whatever serves the model."""

    class Names(Policy, frozen=True):
        async def admit(self, call: Call) -> None:
            call.upstream = "a" if by == "call" else ""

        def retry(self, call: Call, failure: Failure) -> Decision | None:
            return Retry(0.0, None if by == "call" else "a") if failure.attempt == 1 else None

    upstream = Serving([FAILED])
    services = make_services(upstreams=("a", "b", "c"))
    await serve([Names(name="n")], make_call("hi", services=services), upstream)

    assert upstream.names == (["a", "a"] if by == "call" else ["b", "a"])
