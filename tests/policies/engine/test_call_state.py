"""The state of a call, from which leases get its outcome."""

from __future__ import annotations

import contextlib
from typing import Any

import openai
import pytest
from recorded_outcomes import RecordOutcomes

from policies import Batch, Call, Chain, Ending, Outcome, Policy, Rejection, UpstreamError, Usage
from policies.api.failure import Cause
from policies.testing import CollectingSink, FakeClock, ScriptedUpstream, make_call, make_services, serve

pytestmark = pytest.mark.anyio

SECRET = "the prompt says hunter2"


class Refuses(Policy, frozen=True):
    async def admit(self, call: Call) -> None:
        raise Rejection(403, "forbidden", "Not you.")


class Breaks(Policy, frozen=True):
    async def admit(self, call: Call) -> None:
        raise KeyError(SECRET)


FAILED = UpstreamError(
    Cause(lambda: openai.OpenAIError("x"), "RateLimitError", "Slow down.", status=429, error_fields={"code": "slow"}),
    "rate",
)


@pytest.mark.parametrize(
    ("policies", "script", "expected"),
    [
        ([], ["a"], (Ending.DONE, 200, "", "", "", "upstream-1", "test-model", 1)),
        ([Refuses(name="r")], ["a"], (Ending.REJECTED, 403, "forbidden", "", "Not you.", "", "test-model", 0)),
        ([], [FAILED], (Ending.FAILED, 429, "slow", "rate", "Slow down.", "upstream-1", "test-model", 1)),
        ([Breaks(name="b")], ["a"], (Ending.FAILED, None, "", "internal", "", "", "test-model", 0)),
    ],
)
async def test_outcome_describes_the_end_of_a_call(
    policies: list[Policy], script: list[Any], expected: tuple[object, ...]
) -> None:
    """An outcome has ending, status, code, kind, message, upstream, model and attempts of a call."""
    outcomes: list[Outcome] = []
    call = make_call("hi")
    chain = Chain([RecordOutcomes(name="w", outcomes=outcomes), *policies], ScriptedUpstream(script), call.services)
    with contextlib.suppress(KeyError):
        await serve([], call, chain=chain)
    (end,) = outcomes

    assert (end.ending, end.status, end.code, end.kind, end.message, end.upstream, end.model, end.attempts) == expected


async def test_outcome_has_upstreams_model_name() -> None:
    """The model of an outcome is the name by which the last upstream was asked."""
    outcomes: list[Outcome] = []
    upstream = ScriptedUpstream(["a"], usage=Usage(input=1, output=1, model="theirs"))
    await serve([RecordOutcomes(name="w", outcomes=outcomes)], make_call("hi"), upstream)

    assert outcomes[0].model == "theirs"


async def test_outcome_has_the_times_of_a_call() -> None:
    """The start, the first output and the end are seconds since 1970 in this order."""
    clock, outcomes = FakeClock(1000.0), list[Outcome]()
    services = make_services(clock=clock)

    class SlowClient(CollectingSink):
        def write_nowait(self, batch: Batch) -> bool:
            clock.advance(3.0)
            return super().write_nowait(batch)

    class Slow(Policy, frozen=True):
        async def admit(self, call: Call) -> None:
            clock.advance(2.0)

    chain = Chain([RecordOutcomes(name="w", outcomes=outcomes), Slow(name="s")], ScriptedUpstream(["a", "b"]), services)
    await chain.run(make_call("hi", services=services), SlowClient([]))
    (end,) = outcomes

    assert (end.started_at, end.first_output_at, end.ended_at) == (1000.0, 1002.0, 1008.0)
    assert (end.seconds_to_first_output, end.seconds) == (2.0, 8.0)


async def test_call_without_output_has_no_first_output() -> None:
    """The outcome of a call without output has no time of the first output."""
    outcomes: list[Outcome] = []
    await serve([RecordOutcomes(name="w", outcomes=outcomes)], make_call("hi"), ScriptedUpstream([FAILED]))

    assert (outcomes[0].first_output_at, outcomes[0].seconds_to_first_output) == (None, None)
