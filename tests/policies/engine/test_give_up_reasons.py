"""Why a call ends with its failure: clients are told to retry, or not to."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from policies import (
    GIVE_UP,
    Budget,
    Call,
    Chain,
    Decision,
    Failure,
    Fallback,
    Policy,
    Retry,
    RetryClassifier,
    UpstreamError,
)
from policies.api.failure import GiveUp, GiveUpReason
from policies.api.failure_kinds import FAILURE_CLASSES, give_up_reason
from policies.testing import FakeClock, ScriptedUpstream, make_call, make_services, serve

pytestmark = pytest.mark.anyio

QUICK = RetryClassifier(name="retry", base=0.001, cap=0.001)


def failure(kind: str, **more: Any) -> UpstreamError:
    return UpstreamError(openai.OpenAIError("down"), kind, **more)


async def reason_of(*policies: Policy, script: list[UpstreamError], **more: Any) -> tuple[GiveUpReason, int]:
    """Return the reason and the number of attempts of a call whose attempts fail by *script*."""
    upstream = ScriptedUpstream(*([error] for error in script))
    services = make_services(upstreams=("upstream-1", "upstream-2"))
    served = await serve(policies, make_call("hi", services=services, **more), upstream)
    assert served.failure is not None
    return served.failure.give_up_reason, len(upstream.calls)


@pytest.mark.parametrize(
    ("policies", "script", "reason", "attempts"),
    [
        pytest.param([QUICK], [failure("server")], "spent", 3, id="retried to the end"),
        pytest.param([QUICK], [failure("empty")], "spent", 2, id="empty, repeated once"),
        pytest.param([RetryClassifier(name="r", attempts=1)], [failure("server")], "declined", 1, id="attempts = 1"),
        pytest.param([], [failure("server")], "declined", 1, id="no retry policy"),
        pytest.param([], [failure("empty")], "declined", 1, id="empty, no retry policy"),
        pytest.param([QUICK], [failure("rate", retry_after=60.0)], "declined", 1, id="wait beyond patience"),
        pytest.param([QUICK], [failure("server"), failure("rate", retry_after=60.0)], "declined", 2, id="later wait"),
        pytest.param([RetryClassifier(name="r", never=("rate",))], [failure("rate")], "declined", 1, id="never"),
        pytest.param([RetryClassifier(name="r", on=("rate",))], [failure("server")], "declined", 1, id="not in on"),
        pytest.param([QUICK], [failure("unavailable", retry_after=5.0)], "declined", 1, id="open breaker"),
        *[pytest.param([QUICK], [failure(kind)], "useless", 1, id=kind) for kind in ("quota", "context", "auth", "request")],
        pytest.param([QUICK], [failure("server"), failure("request")], "useless", 2, id="useless in the end"),
        pytest.param([QUICK], [failure("server", should_retry=False)], "useless", 1, id="x-should-retry: false"),
        pytest.param([], [failure("quota", should_retry=True)], "declined", 1, id="x-should-retry: true"),
        pytest.param([], [failure("quota", should_retry=True, kind_is_certain=True)], "useless", 1, id="a certain code"),
        pytest.param([Fallback(name="f")], [failure("server")], "spent", 2, id="each upstream was tried"),
        pytest.param([Fallback(name="f")], [failure("quota"), failure("rate", retry_after=9.0)], "declined", 2, id="both refuse, no wait"),
        pytest.param([Fallback(name="f"), QUICK], [failure("server"), failure("rate", retry_after=60.0)], "declined", 2, id="wait of the last"),
    ],
)  # fmt: skip
async def test_reason_follows_from_decision_and_failure(
    policies: list[Policy], script: list[UpstreamError], reason: GiveUpReason, attempts: int
) -> None:
    """`spent` after own repeats, `useless` where none can help, `declined` where one was possible and not made."""
    assert await reason_of(*policies, script=script) == (reason, attempts)


async def test_retry_that_would_miss_the_deadline_is_declined() -> None:
    """A retry for which the call has no time left is declined, also after another one."""
    clock = FakeClock()
    services = make_services(clock=clock)
    upstream = ScriptedUpstream([failure("rate", retry_after=5.0)])
    call = make_call("hi", services=services, deadline=clock() + 8.0)
    served = await serve([QUICK], call, upstream)

    assert served.failure is not None
    assert (served.failure.give_up_reason, len(upstream.calls)) == ("declined", 2)


async def test_empty_retry_budget_declines() -> None:
    """Calls that the retry budget leaves without a repeat are declined; the others are spent."""
    services = make_services()
    upstream = ScriptedUpstream([failure("server")])
    chain = Chain([RetryClassifier(name="r", attempts=2, base=0.0, cap=0.0)], upstream, services)
    reasons = []
    for _ in range(14):
        served = await serve([], make_call("hi", services=services), chain=chain)
        assert served.failure is not None
        reasons.append(served.failure.give_up_reason)

    assert reasons == ["spent"] * 11 + ["declined"] * 3


async def test_budget_without_room_for_the_retry_declines() -> None:
    """A retry whose prompt the budget cannot pay is declined."""
    script = [failure("head_timeout", worked=True)]
    reason, attempts = await reason_of(
        Budget(name="b", tokens=30, floor=10), QUICK, script=script, body={"max_tokens": 20}
    )

    assert (reason, attempts < 3) == ("declined", True)


@pytest.mark.parametrize(
    ("decision", "kind", "reason"),
    [
        (GIVE_UP, "server", "declined"),
        (GIVE_UP, "quota", "useless"),
        (None, "server", "declined"),
        (None, "request", "useless"),
        (GiveUp("useless"), "server", "useless"),
        (GiveUp("spent"), "server", "spent"),
        (GiveUp("declined"), "quota", "declined"),
    ],
)
async def test_policy_can_give_the_reason(decision: Decision | None, kind: str, reason: GiveUpReason) -> None:
    """A policy gives a reason with `GiveUp`; without one, and without an opinion, it follows from the failure."""

    class Own(Policy, frozen=True):
        def retry(self, call: Call, failure: Failure) -> Decision | None:
            return decision

    assert await reason_of(Own(name="own"), script=[failure(kind)]) == (reason, 1)


async def test_own_retries_of_a_policy_are_spent() -> None:
    """A policy that repeats a call and then returns `GIVE_UP` has spent its retries."""

    class Own(Policy, frozen=True):
        def retry(self, call: Call, failure: Failure) -> Decision | None:
            return Retry() if failure.attempt < 2 else GIVE_UP

    assert await reason_of(Own(name="own"), script=[failure("server")]) == ("spent", 2)


async def test_failure_after_output_is_declined() -> None:
    """A call that has sent output is not repeated, so its client may repeat it."""
    upstream = ScriptedUpstream(["text", failure("interrupted")])
    served = await serve([QUICK], make_call("hi"), upstream)

    assert served.failure is not None
    assert served.failure.give_up_reason == "declined"


def test_every_kind_has_a_reason() -> None:
    """A first failure is useless if its class is final, else declined; a later one is spent if it could be repeated."""
    for kind, each in FAILURE_CLASSES.items():
        assert not (each.retry and each.final)
        assert give_up_reason(Failure(kind=kind)) == ("useless" if each.final else "declined"), kind
        later = "useless" if each.final else "spent" if each.retry else "declined"
        assert give_up_reason(Failure(kind=kind, attempt=2)) == later, kind
    assert give_up_reason(Failure(kind="of a third party", attempt=2)) == "spent"


def test_unknown_reason_is_refused() -> None:
    """A misspelt reason is an error that lists the valid ones."""
    with pytest.raises(ValueError, match="reason: 'tired' is unknown; use one of spent, declined, useless, or None"):
        GiveUp("tired")  # type: ignore[arg-type]  # the mistake
