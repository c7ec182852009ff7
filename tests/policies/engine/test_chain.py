"""The chain: order, one reservation, one settlement, retries, taps; with doubles alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
import openai
import pytest

from policies import (
    GIVE_UP,
    Batch,
    Budget,
    Calendar,
    Call,
    Chain,
    Claim,
    ClaimLease,
    Decision,
    Ending,
    Event,
    Failure,
    Grant,
    Lease,
    Match,
    Outcome,
    Policy,
    Rate,
    Rejection,
    Retry,
    RetryClassifier,
    RunningPolicy,
    Stop,
    StoreDown,
    UpstreamError,
    Usage,
)
from policies.api.services import Services
from policies.engine.call_control import CallControl
from policies.stores.memory import MemoryStore
from policies.testing import FakeClock, Hang, ScriptedUpstream, make_call, make_services, piece, serve

pytestmark = pytest.mark.anyio

BROKEN = UpstreamError(openai.OpenAIError("down"), "overloaded")
PAID = UpstreamError(openai.OpenAIError("silent"), "timeout", worked=True)


class Noted(Lease):
    def __init__(self, log: list[str], name: str, outcomes: list[Outcome] | None = None, error: str = "") -> None:
        self.log, self.name, self.outcomes, self.error = log, name, outcomes, error

    async def settle(self, outcome: Outcome) -> None:
        await anyio.lowlevel.checkpoint()
        self.log.append(f"{self.name} settled")
        if self.outcomes is not None:
            self.outcomes.append(outcome)
        if self.error == "hang":
            await anyio.sleep_forever()
        if self.error:
            raise RuntimeError(self.error)


class Note(Policy, frozen=True):
    """Notes everything that is asked of it."""

    log: Any
    rejects: bool = False
    error: str = ""
    outcomes: Any = None

    async def admit(self, call: Call) -> Lease:
        self.log.append(f"{self.name} admits")
        if self.rejects:
            raise Rejection(403, "forbidden", "no")
        return Noted(self.log, self.name, self.outcomes, self.error)

    async def enter(self, call: Call) -> Lease | None:
        self.log.append(f"{self.name} enters")
        return None


class CountingStore(MemoryStore):
    """Counts the steps that it is asked for, and waits in some."""

    is_remote = True

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.steps: list[str] = []

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        self.steps.append(f"reserve {len(claims)}")
        return await super().reserve(call_id, claims, ceiling, part)

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
        await anyio.lowlevel.checkpoint()
        self.steps.append("settle")
        await super().settle(call_id, charges, refund=refund)

    async def release(self, call_id: str) -> None:
        self.steps.append("release")
        await super().release(call_id)


def counting() -> tuple[Services, CountingStore]:
    clock = FakeClock()
    store = CountingStore(clock)
    return make_services(clock=clock, store=store), store


def limits() -> list[Policy]:
    return [
        Rate(name="rate", requests=5),
        Budget(name="day", tokens=1000),
        Budget(name="min", tokens=900, window="minute"),
    ]


async def test_order() -> None:
    """Policies admit in order, enter after all have admitted, and settle in reverse."""
    log: list[str] = []
    served = await serve([Note(log, name="a"), Note(log, name="b")], make_call("hi"))

    assert served.text == "Hello world"
    assert log == ["a admits", "b admits", "a enters", "b enters", "b settled", "a settled"]


async def test_rejected() -> None:
    """Behind a no nobody is asked, upstream is not called, and those before it settle with it."""
    log: list[str] = []
    outcomes: list[Outcome] = []
    upstream = ScriptedUpstream()
    policies = [Note(log, name="a", outcomes=outcomes), Note(log, name="b", rejects=True), Note(log, name="c")]
    served = await serve(policies, make_call("hi"), upstream)

    assert served.rejection is not None
    assert log == ["a admits", "b admits", "a settled"]
    assert (outcomes[0].ending, outcomes[0].attempts, upstream.calls) == (Ending.REJECTED, 0, [])


async def test_failing_settlement() -> None:
    """A lease that fails or hangs while it settles does not stop the others."""
    log: list[str] = []
    policies = [Note(log, name="a"), Note(log, name="b", error="boom"), Note(log, name="c", error="hang")]
    call = make_call("hi")
    chain = Chain(policies, ScriptedUpstream(), call.services, settle_within=0.01)
    served = await serve(policies, call, chain=chain)

    assert served.outcome is not None
    assert log[-3:] == ["c settled", "b settled", "a settled"]


async def test_cancelled_while_it_settles() -> None:
    """A task that is cancelled in the middle of a settlement settles the rest, and is cancelled then."""
    log: list[str] = []
    policies = [Note(log, name="a"), Note(log, name="b"), Note(log, name="c", error="hang")]
    call = make_call("hi")
    chain = Chain(policies, ScriptedUpstream(), call.services)
    task = asyncio.get_running_loop().create_task(serve(policies, call, chain=chain))
    while "c settled" not in log:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert log[-3:] == ["c settled", "b settled", "a settled"]


async def test_failing_charge() -> None:
    """A policy that cannot say what a call cost has it charged as it was held, and stops nobody else from settling."""

    class BrokenLease(ClaimLease):
        def charge(self, claim: Claim, usage: Usage) -> int:
            raise ZeroDivisionError

    class Broken(Policy, frozen=True):
        async def admit(self, call: Call) -> Lease:
            return BrokenLease(self.claim(call, 5, limit=1000, window=Calendar("day"), unit="tokens", per_token=1))

    services, store = counting()
    log: list[str] = []
    policies = [Note(log, name="a"), Broken(name="x"), Budget(name="y", tokens=1000)]
    served = await serve(policies, make_call("hi", services=services, body={"max_tokens": 40}))

    assert (served.text, log[-1]) == ("Hello world", "a settled")
    assert sorted((account.spent, account.reserved) for account in await store.accounts()) == [(7, 0), (45, 0)]


async def test_one_step() -> None:
    """All claims of a call are one reserve and one settle, however many limits there are."""
    services, store = counting()
    await serve(limits(), make_call("hi", services=services))

    assert store.steps == ["reserve 3", "settle"]


async def test_refused_after_reserving() -> None:
    """A call that a queue refuses gives all back, its place in the rate too."""
    services, store = counting()

    class Full(Policy, frozen=True):
        async def enter(self, call: Call) -> Lease | None:
            raise Rejection(503, "queue_full", "full")

    policies = [Rate(name="rate", requests=1), Budget(name="b", tokens=1000), Full(name="full")]
    for _ in range(3):
        served = await serve(policies, make_call("hi", services=services))
        assert served.rejection is not None
        assert served.rejection.code == "queue_full"

    assert store.steps == ["reserve 2", "release"] * 3
    assert [(account.spent, account.reserved) for account in await store.accounts()] == [(0, 0)]


class Sink:
    """A client that takes everything; *seen* is called with each batch."""

    def __init__(self, seen: Callable[[Batch], None]) -> None:
        self._seen = seen

    def write_nowait(self, batch: Batch) -> bool:
        self._seen(batch)
        return True

    async def drain(self) -> None:
        return


async def test_last_batch_after_settling() -> None:
    """The end goes out after settling: who reads it may call again at once (BerriAI/litellm#40846)."""
    log: list[str] = []
    call = make_call("hi")

    sink = Sink(lambda batch: log.append("last" if batch.last else "batch"))
    await Chain([Note(log, name="a")], ScriptedUpstream(["x"]), call.services).run(call, sink)

    assert log[-3:] == ["batch", "a settled", "last"]


@pytest.mark.parametrize(
    ("hangs", "attempts", "spent"),
    [([Hang()], 1, 5), (["a", Hang()], 1, 6), ([BROKEN], 1, 0)],
    ids=["before output", "mid-stream", "in the backoff"],
)
async def test_cancelled(hangs: Any, attempts: int, spent: int) -> None:
    """A cancelled call closes its attempt first, then settles once, with what it used; no await of that is lost."""
    services, store = counting()
    outcomes: list[Outcome] = []
    asleep = anyio.Event()

    async def sleep(_: float) -> None:
        asleep.set()
        await anyio.sleep_forever()

    services.sleep = sleep
    upstream = ScriptedUpstream(hangs)
    policies = [Note([], name="a", outcomes=outcomes), Budget(name="b", tokens=1000), RetryClassifier(name="r")]
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
    assert [(account.spent, account.reserved) for account in await store.accounts()] == [(spent, 0)]
    assert upstream.open_attempts == 0


async def test_sink_that_raises() -> None:
    """A sink that raises ends the call there; it is charged for what was read, and upstream is closed."""
    services, store = counting()
    upstream = ScriptedUpstream(["a", "b", "c"])

    def fail(_: Batch) -> None:
        raise OSError

    call = make_call("hi", services=services)
    with pytest.raises(OSError):  # noqa: PT011  # the very one that was raised
        await Chain([Budget(name="b", tokens=1000)], upstream, services).run(call, Sink(fail))

    assert [(account.spent, account.reserved) for account in await store.accounts()] == [(6, 0)]
    assert upstream.open_attempts == 0


async def test_admitted_once() -> None:
    """Policies admit once, whatever is tried again behind them; the retry's reservation is the first one."""
    services, store = counting()
    log: list[str] = []
    upstream = ScriptedUpstream([BROKEN], [BROKEN], ["ok"])
    policies = [Note(log, name="a"), Budget(name="b", tokens=1000), RetryClassifier(name="r")]
    served = await serve(policies, make_call("hi", services=services), upstream)

    assert (served.text, len(upstream.calls)) == ("ok", 3)
    assert log.count("a admits") == 1
    assert store.steps == ["reserve 1", "settle"]


async def test_no_retry_after_output() -> None:
    """What breaks after output is never tried again."""
    upstream = ScriptedUpstream(["a", BROKEN], ["b"])
    served = await serve([RetryClassifier(name="r")], make_call("hi"), upstream)

    assert (served.text, served.failure, len(upstream.calls)) == ("a", BROKEN, 1)


async def test_top_up() -> None:
    """An attempt that may have cost its prompt is paid, and held for, once more before the next one."""
    services, store = counting()
    upstream = ScriptedUpstream([PAID], [PAID], ["ok"])
    served = await serve(
        [Budget(name="b", tokens=1000), RetryClassifier(name="r")],
        make_call("hi", services=services, body={"max_tokens": 9}),
        upstream,
    )

    assert served.text == "ok"
    assert store.steps == ["reserve 1", "reserve 1", "reserve 1", "settle"]
    assert [(account.spent, account.reserved) for account in await store.accounts()] == [(3 * 5 + 1, 0)]


async def test_no_room_for_a_retry() -> None:
    """Where the prompt cannot be held once more, there is no other attempt."""
    upstream = ScriptedUpstream([PAID], ["ok"])
    call = make_call("hi", body={"max_tokens": 95})
    served = await serve([Budget(name="b", tokens=100), RetryClassifier(name="r")], call, upstream)

    assert (served.failure, len(upstream.calls)) == (PAID, 1)


async def test_retry_budget() -> None:
    """An outage is not multiplied: a start of ten retries and a tenth of the calls, for all calls together."""
    clock = FakeClock()
    services = make_services(clock=clock)

    async def sleep(_: float) -> None:
        return None

    services.sleep = sleep
    upstream = ScriptedUpstream([BROKEN])
    chain = Chain([RetryClassifier(name="r", attempts=3)], upstream, services)
    for _ in range(1000):
        await serve([], make_call("hi", services=services), chain=chain)

    assert 1000 + 100 < len(upstream.calls) <= 1000 + 10 + 100


async def test_first_opinion_decides() -> None:
    """The first policy with an opinion judges a failure; it may name another upstream."""

    class Elsewhere(Policy, frozen=True):
        def retry(self, call: Call, failure: Failure) -> Decision | None:
            return Retry(upstream="spare") if failure.attempt == 1 else GIVE_UP

    upstream = ScriptedUpstream([BROKEN])
    served = await serve([Elsewhere(name="e"), RetryClassifier(name="r")], make_call("hi"), upstream)

    assert (upstream.names, served.failure) == (["upstream-1", "spare"], BROKEN)


async def test_deadline() -> None:
    """A retry that cannot end in time is not waited for."""
    call = make_call("hi")
    call.deadline = call.services.monotonic() + 5
    late = UpstreamError(openai.OpenAIError("x"), "overloaded", retry_after=6)
    served = await serve([RetryClassifier(name="r")], call, ScriptedUpstream([late], ["ok"]))

    assert served.failure is late


class DownStore(MemoryStore):
    """A store that does not answer while it is down."""

    down = True

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        if self.down:
            raise StoreDown("gone")
        return await super().reserve(call_id, claims, ceiling, part)

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
        if self.down:
            raise StoreDown("gone")
        await super().settle(call_id, charges, refund=refund)


@pytest.mark.parametrize(
    ("policies", "code"),
    [
        ([Rate(name="r", requests=1)], None),
        ([Budget(name="b", tokens=100)], "store_unavailable"),
        ([Rate(name="r", requests=1), Budget(name="b", tokens=100)], "store_unavailable"),
        ([Budget(name="b", tokens=100, when_store_fails="admit")], None),
        ([Rate(name="r", requests=1, when_store_fails="refuse")], "store_unavailable"),
    ],
)
async def test_store_down(policies: list[Policy], code: str | None) -> None:
    """Without its store a budget refuses with 503 and a rate admits, unless they are told otherwise."""
    clock = FakeClock()
    served = await serve(policies, make_call("hi", services=make_services(clock=clock, store=DownStore(clock=clock))))

    assert (served.rejection.code if served.rejection else None) == code
    assert served.rejection is None or served.rejection.status == 503


async def test_settled_when_the_store_is_back() -> None:
    """A charge that the store could not take is kept and sent again; it is not lost, and not made twice."""
    clock = FakeClock()
    store = DownStore(clock=clock)
    services = make_services(clock=clock, store=store)
    chain = Chain([Budget(name="b", tokens=1000)], ScriptedUpstream(["a", "b"]), services)
    store.down = False

    def take_down(_: Batch) -> None:
        store.down = True

    await chain.run(make_call("hi", services=services), Sink(take_down))
    assert [account.spent for account in await store.accounts()] == [0]
    store.down = False
    await chain.run(make_call("hi", services=services), Sink(take_down))
    store.down = False
    await chain._ledger.catch_up()

    assert [(account.spent, account.reserved) for account in await store.accounts()] == [(14, 0)]


async def test_usage() -> None:
    """Upstream's own count is charged where it came; else the estimate and what was read."""
    services, store = counting()
    upstream = ScriptedUpstream(["a"], usage=Usage(input=100, output=11))
    await serve([Budget(name="b", tokens=1000)], make_call("hi", services=services), upstream)

    assert [(account.spent, account.reserved) for account in await store.accounts()] == [(111, 0)]


async def test_lower_bound() -> None:
    """A count that is only a lower bound never refunds what was held."""
    services, store = counting()
    upstream = ScriptedUpstream(["a"], usage=Usage(output=1, unreported=1, exact=False))
    await serve([Budget(name="b", tokens=1000)], make_call("hi", services=services, body={"max_tokens": 50}), upstream)

    assert [(account.spent, account.reserved) for account in await store.accounts()] == [(55, 0)]


class Tap(Lease):
    def __init__(self, see: Callable[[Event], Event | None], last: str = "") -> None:
        self.see, self.last = see, last

    def on_event(self, event: Event) -> Event | None:
        return self.see(event)

    def flush(self) -> Sequence[Event]:
        return [piece(self.last)] if self.last else []


class EventFilters(Policy, frozen=True):
    see: Any
    last: str = ""

    async def admit(self, call: Call) -> Lease:
        return Tap(self.see, self.last)


async def test_taps() -> None:
    """A lease may change, drop and add pieces; the policy nearest the client sees each last."""
    outer = EventFilters(lambda event: event.with_text(event.text + "1"), name="outer")
    inner = EventFilters(
        lambda event: None if event.text == "b" else event.with_text(event.text.upper()), "z", name="inner"
    )
    served = await serve([outer, inner], make_call("hi"), ScriptedUpstream(["a", "b", "c"]))

    raw = b"".join(batch.raw for batch in served.batches)
    assert served.text == "A1C11z1"
    assert [text for text in (b'"A1"', b'"B1"', b'"C1"', b'"z1"') if text in raw] == [b'"A1"', b'"C1"', b'"z1"']
    assert raw.index(b'"z1"') < raw.index(b'"stop"')


async def test_last_word_of_best_of() -> None:
    """Of several answers that are made only those that are sent are waited for: the last word stands before the finish."""
    last = EventFilters(lambda event: event, "z", name="last")
    served = await serve([last], make_call("hi", body={"best_of": 2}), ScriptedUpstream(["a"]))

    raw = b"".join(batch.raw for batch in served.batches)
    assert raw.index(b'"a"') < raw.index(b'"z"') < raw.index(b'"stop"')


async def test_stop() -> None:
    """A lease may end an answer: a clean end with its reason, upstream closed, what was read is paid."""

    def see(event: Event) -> Event:
        if event.text == "bad":
            raise Stop("content_filter")
        return event

    services, store = counting()
    upstream = ScriptedUpstream(["a", "bad", "c"])
    served = await serve(
        [EventFilters(see, name="t"), Budget(name="b", tokens=1000)], make_call("hi", services=services), upstream
    )

    assert served.text == "a"
    assert served.batches[-1].last
    assert b'"finish_reason":"content_filter"' in served.batches[-1].raw
    assert upstream.open_attempts == 0
    assert [(account.spent, account.reserved) for account in await store.accounts()] == [(5 + 2, 0)]


async def test_only() -> None:
    """A policy is for the calls that fit each of its patterns; claims go by the call as it was rewritten."""

    class Reroute(Policy, frozen=True):
        async def admit(self, call: Call) -> None:
            call.model = "big"

    services, store = counting()
    policies = [
        Budget(name="big", tokens=1000, match=Match(model="b*")),
        Budget(name="other", tokens=1000, match=Match(tenant=["x", "y?"])),
        Reroute(name="r", match=Match(path="/v1/*")),
    ]
    await serve(policies, make_call("hi", services=services))

    assert [account.policy for account in await store.accounts()] == ["big"]


def test_policy_without_a_hook() -> None:
    """A policy that overrides no hook is refused when the chain is built, and so are two of one name."""

    class Idle(Policy, frozen=True):
        async def _admit(self, call: Call) -> None: ...

    services = make_services()
    with pytest.raises(TypeError, match="Idle overrides none of admit, enter, retry; override one of them"):
        Chain([Idle()], ScriptedUpstream(), services)
    with pytest.raises(ValueError, match="two policies are named trim"):
        Chain([Rate(name="trim", requests=1), Rate(name="trim", requests=2)], ScriptedUpstream(), services)


async def test_running_object() -> None:
    """What a policy has running is made when the chain is built, serves its calls, and is closed with the chain."""
    log: list[str] = []

    class Queue(RunningPolicy):
        async def enter(self, call: Call) -> Lease | None:
            log.append("entered")
            return None

        async def stop(self) -> None:
            log.append("closed")

    class Queued(Policy, frozen=True):
        def start(self, services: Services) -> RunningPolicy:
            log.append("opened")
            return Queue()

    services = make_services()
    chain = Chain([Queued(name="q")], ScriptedUpstream(), services)
    for _ in range(2):
        await serve([], make_call("hi", services=services), chain=chain)
    await chain.close()

    assert log == ["opened", "entered", "entered", "closed"]


async def test_plain_library() -> None:
    """The chain works under plain asyncio, cancelled natively."""
    services, store = counting()
    hang = Hang()
    call = make_call("hi", services=services)
    task = asyncio.create_task(serve([Budget(name="b", tokens=1000)], call, ScriptedUpstream(["a", hang])))
    await hang.reached.wait()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert [(account.spent, account.reserved) for account in await store.accounts()] == [(6, 0)]


async def test_failed_attempts_are_reported() -> None:
    """The owner of a call learns which attempts failed before the last one, when, and how it ended."""
    control = CallControl()
    call = make_call("hi")
    upstream = ScriptedUpstream([BROKEN], ["fine"])
    await Chain([RetryClassifier(name="r")], upstream, call.services).run(call, Sink(lambda _: None), control=control)

    (failed,) = control.failed_attempts
    assert (failed.upstream, failed.error_kind, failed.started_after_seconds) == ("upstream-1", "overloaded", 0.0)
    assert control.outcome is not None
    assert (control.outcome.ending, control.outcome.attempts) == (Ending.DONE, 2)
    assert control.upstream_after_seconds is not None
    assert control.upstream_after_seconds > failed.seconds
