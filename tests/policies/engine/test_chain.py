"""The chain: order of the hooks, rejections, retries, cancellation, and the end of a call."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import openai
import pytest
from claims import totals
from counting_store import services_with_counting_store
from hook_log import LoggedPolicy
from watched_sink import WatchedSink

from policies import (
    GIVE_UP,
    Batch,
    Budget,
    Call,
    Chain,
    Decision,
    Ending,
    Failure,
    Match,
    Outcome,
    Policy,
    Retry,
    RetryClassifier,
    UpstreamError,
)
from policies.engine.call_control import CallControl
from policies.testing import Hang, ScriptedUpstream, make_call, make_services, serve

pytestmark = pytest.mark.anyio

BROKEN = UpstreamError(openai.OpenAIError("down"), "overloaded")


async def test_policies_admit_in_order_and_settle_in_reverse() -> None:
    """Policies admit in order, enter after all have admitted, and settle in reverse."""
    log: list[str] = []
    served = await serve([LoggedPolicy(log, name="a"), LoggedPolicy(log, name="b")], make_call("hi"))

    assert served.text == "Hello world"
    assert log == ["a admits", "b admits", "a enters", "b enters", "b settled", "a settled"]


async def test_rejection_ends_the_call_before_upstream() -> None:
    """Behind a rejection no policy and no upstream is called; the leases before it settle with the rejection."""
    log: list[str] = []
    outcomes: list[Outcome] = []
    upstream = ScriptedUpstream()
    policies = [
        LoggedPolicy(log, name="a", outcomes=outcomes),
        LoggedPolicy(log, name="b", rejects=True),
        LoggedPolicy(log, name="c"),
    ]
    served = await serve(policies, make_call("hi"), upstream)

    assert served.rejection is not None
    assert log == ["a admits", "b admits", "a settled"]
    assert (outcomes[0].ending, outcomes[0].attempts, upstream.calls) == (Ending.REJECTED, 0, [])


async def test_failing_settlement_does_not_stop_the_others() -> None:
    """A lease whose `settle` raises or hangs does not prevent the settlement of the others."""
    log: list[str] = []
    policies = [
        LoggedPolicy(log, name="a"),
        LoggedPolicy(log, name="b", error="boom"),
        LoggedPolicy(log, name="c", error="hang"),
    ]
    call = make_call("hi")
    chain = Chain(policies, ScriptedUpstream(), call.services, settle_within=0.01)
    served = await serve(policies, call, chain=chain)

    assert served.outcome is not None
    assert log[-3:] == ["c settled", "b settled", "a settled"]


async def test_cancellation_waits_for_the_settlement() -> None:
    """A task that is cancelled during a settlement settles the other leases before it is cancelled."""
    log: list[str] = []
    policies = [LoggedPolicy(log, name="a"), LoggedPolicy(log, name="b"), LoggedPolicy(log, name="c", error="hang")]
    call = make_call("hi")
    chain = Chain(policies, ScriptedUpstream(), call.services)
    task = asyncio.get_running_loop().create_task(serve(policies, call, chain=chain))
    while "c settled" not in log:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert log[-3:] == ["c settled", "b settled", "a settled"]


async def test_last_batch_follows_the_settlement() -> None:
    """The last batch is written after settlement: a client that read it may call again (BerriAI/litellm#40846)."""
    log: list[str] = []
    call = make_call("hi")

    sink = WatchedSink(lambda batch: log.append("last" if batch.last else "batch"))
    await Chain([LoggedPolicy(log, name="a")], ScriptedUpstream(["x"]), call.services).run(call, sink)

    assert log[-3:] == ["batch", "a settled", "last"]


@pytest.mark.parametrize(
    ("hangs", "attempts", "spent"),
    [([Hang()], 1, 5), (["a", Hang()], 1, 6), ([BROKEN], 1, 0)],
    ids=["before output", "mid-stream", "in the backoff"],
)
async def test_cancelled_call_settles_once(hangs: Any, attempts: int, spent: int) -> None:
    """A cancelled call closes its attempt, then settles once with what it used."""
    services, store = services_with_counting_store()
    outcomes: list[Outcome] = []
    asleep = anyio.Event()

    async def sleep(_: float) -> None:
        asleep.set()
        await anyio.sleep_forever()

    services.sleep = sleep
    upstream = ScriptedUpstream(hangs)
    policies = [LoggedPolicy([], name="a", outcomes=outcomes), Budget(name="b", tokens=1000), RetryClassifier(name="r")]
    call = make_call("hi", services=services)
    hang = next((step for step in hangs if isinstance(step, Hang)), None)
    if hang is not None:
        hang.reached = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(serve, policies, call, upstream)
        await (hang.reached if hang else asleep).wait()
        group.cancel_scope.cancel()

    assert [(o.ending, o.attempts) for o in outcomes] == [(Ending.CANCELLED, attempts)]
    assert store.steps == ["reserve 1", "settle"]
    assert await totals(store) == [(spent, 0)]
    assert upstream.open_attempts == 0


async def test_failing_sink_ends_the_call() -> None:
    """A sink that raises ends the call; it is charged what was read, and upstream is closed."""
    services, store = services_with_counting_store()
    upstream = ScriptedUpstream(["a", "b", "c"])

    def fail(_: Batch) -> None:
        raise BrokenPipeError

    call = make_call("hi", services=services)
    with pytest.raises(BrokenPipeError):
        await Chain([Budget(name="b", tokens=1000)], upstream, services).run(call, WatchedSink(fail))

    assert await totals(store) == [(6, 0)]
    assert upstream.open_attempts == 0


async def test_retries_are_not_admitted_again() -> None:
    """Policies admit a call once; its retries use the same reservation."""
    services, store = services_with_counting_store()
    log: list[str] = []
    upstream = ScriptedUpstream([BROKEN], [BROKEN], ["ok"])
    policies = [LoggedPolicy(log, name="a"), Budget(name="b", tokens=1000), RetryClassifier(name="r")]
    served = await serve(policies, make_call("hi", services=services), upstream)

    assert (served.text, len(upstream.calls)) == ("ok", 3)
    assert log.count("a admits") == 1
    assert store.steps == ["reserve 1", "settle"]


async def test_no_retry_after_output() -> None:
    """An attempt that fails after output is not retried."""
    upstream = ScriptedUpstream(["a", BROKEN], ["b"])
    served = await serve([RetryClassifier(name="r")], make_call("hi"), upstream)

    assert (served.text, served.failure, len(upstream.calls)) == ("a", BROKEN, 1)


async def test_first_decision_wins() -> None:
    """The first policy that returns a decision about a failure wins; it can name another upstream."""

    class Elsewhere(Policy, frozen=True):
        def retry(self, call: Call, failure: Failure) -> Decision | None:
            return Retry(upstream="spare") if failure.attempt == 1 else GIVE_UP

    upstream = ScriptedUpstream([BROKEN])
    call = make_call("hi", services=make_services(upstreams=("upstream-1", "spare")))
    served = await serve([Elsewhere(name="e"), RetryClassifier(name="r")], call, upstream)

    assert (upstream.names, served.failure) == (["upstream-1", "spare"], BROKEN)


async def test_no_retry_beyond_the_deadline() -> None:
    """A call does not wait for a retry that would start after its deadline."""
    call = make_call("hi")
    call.deadline = call.services.monotonic() + 5
    late = UpstreamError(openai.OpenAIError("x"), "overloaded", retry_after=6)
    served = await serve([RetryClassifier(name="r")], call, ScriptedUpstream([late], ["ok"]))

    assert served.failure is late


async def test_policy_covers_calls_that_match_all_patterns() -> None:
    """A policy applies to calls that match all its patterns; claims use the call as policies rewrote it."""

    class Reroute(Policy, frozen=True):
        async def admit(self, call: Call) -> None:
            call.model = "big"

    services, store = services_with_counting_store()
    policies = [
        Budget(name="big", tokens=1000, match=Match(model="b*")),
        Budget(name="other", tokens=1000, match=Match(tenant=["x", "y?"])),
        Reroute(name="r", match=Match(path="/v1/*")),
    ]
    await serve(policies, make_call("hi", services=services))

    assert [account.policy for account in await store.accounts()] == ["big"]


async def test_native_cancellation_settles() -> None:
    """A call that is cancelled by asyncio's own means settles, too."""
    services, store = services_with_counting_store()
    hang = Hang()
    call = make_call("hi", services=services)
    task = asyncio.create_task(serve([Budget(name="b", tokens=1000)], call, ScriptedUpstream(["a", hang])))
    await hang.reached.wait()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert await totals(store) == [(6, 0)]


async def test_failed_attempts_are_reported() -> None:
    """The owner of a call learns which attempts failed before the last one, when, and how the call ended."""
    control = CallControl()
    call = make_call("hi")
    upstream, sink = ScriptedUpstream([BROKEN], ["fine"]), WatchedSink(lambda _: None)
    await Chain([RetryClassifier(name="r")], upstream, call.services).run(call, sink, control=control)

    (failed,) = control.failed_attempts
    assert (failed.upstream, failed.error_kind, failed.started_after_seconds) == ("upstream-1", "overloaded", 0.0)
    assert control.outcome is not None
    assert (control.outcome.ending, control.outcome.attempts) == (Ending.DONE, 2)
    assert control.upstream_after_seconds is not None
    assert control.upstream_after_seconds > failed.seconds
