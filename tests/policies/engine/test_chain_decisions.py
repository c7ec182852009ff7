"""What policies decide about attempts: the first upstream, and after a failure."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from policies import Call, Decision, Failure, Policy, RetryClassifier, UpstreamError
from policies.api.failure import Cause
from policies.testing import ScriptedUpstream, make_call, make_services, serve

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
