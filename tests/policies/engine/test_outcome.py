"""What leases learn about the end of a call, which upstream a policy may choose, and what stays out of the log."""

from __future__ import annotations

import contextlib
from typing import Any

import anyio
import openai
import pytest

from policies import (
    GIVE_UP,
    Batch,
    Budget,
    Call,
    Chain,
    Decision,
    Ending,
    Failure,
    Lease,
    MaxTokens,
    Outcome,
    Policy,
    Rejection,
    Retry,
    RetryClassifier,
    Trim,
    UpstreamError,
    Usage,
)
from policies.api.failure import Cause
from policies.testing import CollectingSink, FakeClock, ScriptedUpstream, make_call, make_services, serve

pytestmark = pytest.mark.anyio

SECRET = "the prompt says hunter2"


class Keeps(Lease):
    def __init__(self, outcomes: list[Outcome]) -> None:
        self.outcomes = outcomes

    async def settle(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


class Watch(Policy, frozen=True):
    outcomes: Any

    async def admit(self, call: Call) -> Lease:
        return Keeps(self.outcomes)


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
async def test_outcome(policies: list[Policy], script: list[Any], expected: tuple[object, ...]) -> None:
    """An outcome says how a call ended, with which status, code, kind and words, where, and by which model."""
    outcomes: list[Outcome] = []
    call = make_call("hi")
    chain = Chain([Watch(name="w", outcomes=outcomes), *policies], ScriptedUpstream(script), call.services)
    with contextlib.suppress(KeyError):
        await serve([], call, chain=chain)
    (end,) = outcomes

    assert (end.ending, end.status, end.code, end.kind, end.message, end.upstream, end.model, end.attempts) == expected


async def test_model_of_the_upstream() -> None:
    """The model is the one that the last upstream was asked for, by its own name."""
    outcomes: list[Outcome] = []
    upstream = ScriptedUpstream(["a"], usage=Usage(input=1, output=1, model="theirs"))
    await serve([Watch(name="w", outcomes=outcomes)], make_call("hi"), upstream)

    assert outcomes[0].model == "theirs"


async def test_times() -> None:
    """Times are seconds since 1970 and never run backwards: to the first output, and to the end."""
    clock, outcomes = FakeClock(1000.0), list[Outcome]()
    services = make_services(clock=clock)

    class SlowClient(CollectingSink):
        def write_nowait(self, batch: Batch) -> bool:
            clock.advance(3.0)
            return super().write_nowait(batch)

    class Slow(Policy, frozen=True):
        async def admit(self, call: Call) -> None:
            clock.advance(2.0)

    chain = Chain([Watch(name="w", outcomes=outcomes), Slow(name="s")], ScriptedUpstream(["a", "b"]), services)
    await chain.run(make_call("hi", services=services), SlowClient([]))
    (end,) = outcomes

    assert (end.started_at, end.first_output_at, end.ended_at) == (1000.0, 1002.0, 1008.0)
    assert (end.seconds_to_first_output, end.seconds) == (2.0, 8.0)


async def test_no_output() -> None:
    """A call without output has no time of its first one."""
    outcomes: list[Outcome] = []
    await serve([Watch(name="w", outcomes=outcomes)], make_call("hi"), ScriptedUpstream([FAILED]))

    assert (outcomes[0].first_output_at, outcomes[0].seconds_to_first_output) == (None, None)


async def test_policy_chooses_the_upstream() -> None:
    """A policy may choose the upstream of the first attempt."""

    class Route(Policy, frozen=True):
        async def admit(self, call: Call) -> None:
            call.upstream = "spare"

    upstream = ScriptedUpstream([FAILED], ["ok"])
    services = make_services(upstreams=("main", "spare"))
    served = await serve([Route(name="r"), RetryClassifier(name="x")], make_call("hi", services=services), upstream)

    assert (upstream.names, served.text) == (["spare", "spare"], "ok")


@pytest.mark.parametrize(
    ("decision", "told"), [(True, "returned a bool"), (0.5, "returned a float"), ("no", "returned a str")]
)
async def test_wrong_decision(decision: Any, told: str) -> None:
    """What `retry` returns is a `Retry`, `GIVE_UP` or None; the error names the class of anything else."""

    class Odd(Policy, frozen=True):
        def retry(self, call: Call, failure: Failure) -> Decision | None:
            chosen: Decision | None = decision
            return chosen

    with pytest.raises(TypeError, match=f"Odd.retry {told}; return a Retry, GIVE_UP or None"):
        await serve([Odd(name="o")], make_call("hi"), ScriptedUpstream([FAILED]))


def test_a_wait_is_not_negative() -> None:
    """A negative wait is refused with the cure: it used to mean no retry."""
    for after in (-1, float("nan")):
        with pytest.raises(ValueError, match="return GIVE_UP to end the call"):
            Retry(after=after)
    assert Retry() == Retry(0.0)
    assert repr(GIVE_UP) == "GiveUp()"


class Revealing:
    def __repr__(self) -> str:
        return SECRET


class RevealingLease(Lease):
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __repr__(self) -> str:
        return SECRET

    async def settle(self, outcome: Outcome) -> None:
        if self.error is None:
            await anyio.sleep_forever()
        else:
            raise self.error


class Returns(Policy, frozen=True):
    what: Any

    async def admit(self, call: Call) -> Lease | None:
        lease: Lease | None = self.what
        return lease


async def test_wrong_lease() -> None:
    """`admit` that returns no lease is an error at the first call, which names the class and quotes nothing."""
    with pytest.raises(TypeError) as found:
        await serve([Returns(name="x", what=Revealing())], make_call("hi"))
    assert str(found.value) == "Returns.admit returned a Revealing; return a Lease or None"


@pytest.mark.parametrize(
    ("lease", "told"),
    [
        (RevealingLease(ValueError(SECRET)), "RevealingLease.settle failed: ValueError"),
        (RevealingLease(), "RevealingLease.settle took more than 0.01 s: cancelled"),
    ],
)
async def test_nothing_of_a_lease_in_the_log(lease: Lease, told: str, caplog: pytest.LogCaptureFixture) -> None:
    """A lease that fails or hangs is logged by its class, and its exception by class and place: they may hold a prompt."""
    call = make_call("hi")
    chain = Chain([Returns(name="x", what=lease)], ScriptedUpstream(), call.services, settle_within=0.01)
    served = await serve([], call, chain=chain)

    assert served.outcome is not None
    assert told in caplog.text
    assert "hunter2" not in caplog.text


async def test_nothing_of_a_charge_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """So is a `charge` that fails."""
    from policies import Calendar, Claim, ClaimLease

    class Broken(ClaimLease):
        def charge(self, claim: Claim, usage: Usage) -> int:
            raise ValueError(SECRET)

    class Charges(Policy, frozen=True):
        async def admit(self, call: Call) -> Lease:
            return Broken(self.claim(call, 5, limit=1000, window=Calendar("day"), unit="tokens"))

    await serve([Charges(name="c")], make_call("hi"))

    assert "policy 'c': charge failed: ValueError" in caplog.text
    assert "test_outcome.py" in caplog.text
    assert "hunter2" not in caplog.text


async def test_notes_of_built_in_policies() -> None:
    """Trim, max_tokens and budget note what they changed, and nothing where they changed nothing."""
    said = [{"role": "user", "content": "hi"}] * 5
    call = make_call(messages=said, body={"max_tokens": 100})
    await serve([Trim(name="t", max_messages=2), MaxTokens(name="m", output=50), Budget(name="b", tokens=80)], call)
    assert call.notes == [
        "kept 2 of 5 messages",
        "lowered the answer's ceiling from 100 to 50 tokens",
    ]

    call = make_call("hi", body={"max_tokens": 100})
    await serve([Budget(name="b", tokens=80)], call)
    assert call.notes == ["lowered the answer's ceiling from 100 to 75 tokens, which the limits have left"]

    call = make_call("hi", body={"max_tokens": 10})
    await serve([Trim(name="t", max_messages=2), MaxTokens(name="m", output=50), Budget(name="b", tokens=80)], call)
    assert call.notes == []

    call = make_call("hi")
    await serve([Budget(name="b", tokens=80_000)], call)
    assert call.notes == ["set the answer's ceiling to 16384 tokens"]
