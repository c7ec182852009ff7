"""A stream without a ceiling reserves its output step by step, and ends cleanly where there is no room."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from growing import PROMPT, Gate, PartStore, budget, finish_of, running, streamed
from jumping_clock import JumpingClock

from policies import Batch, Budget, RetryClassifier, StoreDown, UpstreamError
from policies.builtin.prices import Price
from policies.engine import growth
from policies.engine.chain import Chain
from policies.testing import CollectingSink, FakeClock, ScriptedUpstream, make_call, make_services, piece, serve

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> PartStore:
    return PartStore(clock)


async def test_no_ceiling_is_written(store: PartStore, clock: FakeClock) -> None:
    """With `estimate` the body of a stream without a ceiling stays as it is."""
    call, upstream = make_call("hi", services=make_services(clock=clock, store=store)), ScriptedUpstream(["a"])
    await serve([budget(1_000)], call, upstream)
    assert "max_tokens" not in upstream.calls[0]
    assert store.ceilings == [20]


async def test_next_step_is_reserved_when_half_of_the_last_is_left(store: PartStore, clock: FakeClock) -> None:
    """The reservation grows at half of the last step, so a stream is always covered, and settles at its use."""
    served = await streamed(store, clock, budget(1_000), *["x"] * 9)
    assert store.ceilings == [20]
    served = await streamed(store, clock, budget(1_000), *["x"] * 45)
    assert store.ceilings == [20, 20, 20, 20]
    assert (served.text, finish_of(served)) == ("x" * 45, "stop")
    assert await store.totals() == (PROMPT + 9 + PROMPT + 45, 0)


async def test_stream_ends_with_length_where_there_is_no_room(store: PartStore, clock: FakeClock) -> None:
    """A stream uses what is left, ends with the finish `length`, and is charged what was read."""
    served = await streamed(store, clock, budget(PROMPT + 33), *["x"] * 500)
    assert store.ceilings == [20, 13]
    assert finish_of(served) == "length"
    assert 33 <= len(served.text) <= 35
    assert await store.totals() == (PROMPT + len(served.text), 0)
    assert served.outcome is not None
    assert (served.outcome.ending, served.outcome.status, served.outcome.code) == ("done", 200, "budget_exceeded")
    refusal = served.batches[-1].refusal
    assert refusal is not None
    assert (refusal.code, refusal.final, refusal.retry_after) == ("budget_exceeded", True, None)
    assert (refusal.details["used"], refusal.details["held"], refusal.details["case"]) == (PROMPT + 33, 0, "spent")


async def test_answer_that_has_finished_waits_for_no_store(store: PartStore, clock: FakeClock) -> None:
    """An answer that finishes where it would have to pause ends as upstream ends it, without waiting for the store."""
    store.answers = anyio.Event()
    end = Batch(events=[piece("x"), piece("", finish="stop")])
    served = await streamed(store, clock, budget(1_000), *["x"] * 39, end)
    assert served.rejection is None
    assert served.outcome is not None
    assert (served.outcome.code, served.batches[-1].refusal) == ("", None)
    assert await store.totals() == (PROMPT + 40, 0)


async def test_output_behind_the_finish_does_not_escape_the_limit(store: PartStore, clock: FakeClock) -> None:
    """An upstream that goes on after the finish is cut off where its reservation is used up."""
    finish = Batch(events=[piece("", finish="stop")])
    served = await streamed(store, clock, budget(PROMPT + 20), *["x"] * 20, finish, *["x"] * 100)
    assert len(served.text) <= 23
    assert served.batches[-1].refusal is not None


async def test_remainder_below_the_floor_is_not_reserved(store: PartStore, clock: FakeClock) -> None:
    """A step has at least `floor` tokens; the first one may be shorter than `answer`."""
    served = await streamed(store, clock, budget(PROMPT + 20 + 3), *["x"] * 100)
    assert store.ceilings == [20]
    assert finish_of(served) == "length"
    small = PartStore(clock)
    served = await streamed(small, clock, budget(PROMPT + 7), *["x"] * 5)
    assert (small.ceilings, finish_of(served)) == ([7], "stop")


async def test_room_that_returns_is_used(store: PartStore, clock: FakeClock) -> None:
    """A refused step is asked for again when the reservation is used up: other calls may have ended meanwhile."""
    first, second = (make_call("hi", services=make_services(clock=clock, store=store)) for _ in range(2))
    policy, gate, refused = budget(2 * PROMPT + 40), Gate(), Gate()
    async with (
        running(first, policy, gate) as other,
        running(second, policy, *["x"] * 15, refused, *["x"] * 10) as served,
    ):
        await refused.reached.wait()
        gate.opened.set()
        while other.outcome is None:
            await anyio.lowlevel.checkpoint()
        refused.opened.set()
        while served.outcome is None:
            await anyio.lowlevel.checkpoint()
    assert store.ceilings == [20, 20, 20]
    assert (served.text, finish_of(served)) == ("x" * 25, "stop")


@pytest.mark.parametrize("many", [1, 3])
async def test_steps_cover_all_answers_together(store: PartStore, clock: FakeClock, many: int) -> None:
    """The first reservation has `answer` tokens for each of `n` answers, a step `answer` tokens over all of them."""
    await streamed(store, clock, budget(1_000), *["x"] * (20 * many - 9), n=many)
    assert store.ceilings[0] == 20
    assert store.most_held == PROMPT + 20 * many + 20


async def test_every_limit_of_the_call_grows(store: PartStore, clock: FakeClock) -> None:
    """Token and dollar budgets grow together, by the smallest of their steps; the tightest one ends the stream."""
    services = make_services(clock=clock, store=store)
    prices = {"*": Price(input=1, output=2)}
    dollars = Budget(name="d", usd=(PROMPT + 2 * 40) / 1e6, prices=prices, answer=16, floor=4)
    served = await serve([budget(1_000), dollars], make_call("hi", services=services), ScriptedUpstream(["x"] * 500))
    assert store.ceilings == [16, 16, 8]
    assert finish_of(served) == "length"
    spent = {account.policy: (account.spent, account.reserved) for account in await store.accounts()}
    read = len(served.text)
    assert spent == {"b": (PROMPT + read, 0), "d": (PROMPT + 2 * read, 0)}
    assert served.outcome is not None
    assert "$" in served.outcome.message


async def test_client_caps_limit_the_growth(store: PartStore, clock: FakeClock) -> None:
    """A daily limit that the client lowered holds for further steps too."""
    call = make_call("hi", services=make_services(clock=clock, store=store))
    call.caps = type(call.caps)(day_tokens=PROMPT + 30)
    served = await serve([budget(1_000)], call, ScriptedUpstream(["x"] * 200))
    assert finish_of(served) == "length"
    assert store.ceilings == [20, 10]


async def test_growth_after_midnight_counts_in_the_first_day(store: PartStore, clock: FakeClock) -> None:
    """A stream over midnight takes all its steps from the day in which it began."""
    clock.advance(86_400 - clock.now % 86_400 - 1)
    call, gate, end = make_call("hi", services=make_services(clock=clock, store=store)), Gate(), Gate()
    async with running(call, budget(PROMPT + 55), "x", gate, *["x"] * 35, end) as served:
        await gate.reached.wait()
        clock.advance(2)
        gate.opened.set()
        await end.reached.wait()
        assert await store.accounts() == []
    clock.advance(-2)
    assert store.ceilings == [20, 20, 15]
    assert await store.totals() == (PROMPT + len(served.text), 0) == (PROMPT + 36, 0)


async def test_stream_runs_on_while_the_store_is_slow(store: PartStore, clock: FakeClock) -> None:
    """While the store answers, a stream runs on by at most one step beyond its reservation; then it pauses."""
    store.answers = anyio.Event()
    batches: list[Batch] = []
    call = make_call("hi", services=make_services(clock=clock, store=store))
    chain = Chain([budget(1_000)], ScriptedUpstream(["x"] * 100), call.services)
    async with anyio.create_task_group() as group:
        group.start_soon(chain.run, call, CollectingSink(batches))
        await store.asked.wait()
        for _ in range(500):
            await anyio.lowlevel.checkpoint()
        assert len(batches) == 20 + 20
        store.answers.set()
    assert len(batches) == 101
    assert await store.totals() == (PROMPT + 100, 0)


@pytest.mark.parametrize(("when", "ends"), [("refuse", True), ("admit", False)])
@pytest.mark.parametrize("failure", [StoreDown("gone fishing"), RuntimeError("a bug")])
async def test_policy_decides_where_the_store_fails(
    store: PartStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, failure: Exception, when: str, *, ends: bool
) -> None:
    """After one step as debt and a pause, `when_store_fails` ends the stream with an error or lets it run."""
    monkeypatch.setattr(growth, "MAX_PAUSE_SECONDS", 0.01)
    store.failure = failure
    served = await streamed(store, clock, budget(1_000, when_store_fails=when), *["x"] * 100)
    if ends:
        assert served.rejection is not None
        assert (served.rejection.status, served.rejection.code) == (503, "store_unavailable")
        assert len(served.text) == 40
    else:
        assert (len(served.text), finish_of(served)) == (100, "stop")
    assert await store.totals() == (PROMPT + len(served.text), 0)


async def test_standstill_of_the_process_is_no_failure_of_the_store(
    store: PartStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was suspended while a stream waited for the store goes on waiting when it wakes."""
    store.answers = anyio.Event()
    jumping = JumpingClock(monkeypatch)
    call = make_call("hi", services=make_services(clock=clock, store=store))
    async with running(call, budget(1_000), *["x"] * 100) as served:
        while len(served.batches) < 40:
            await anyio.lowlevel.checkpoint()
        await jumping.jump(33)
        store.answers.set()
        while served.outcome is None and served.rejection is None:
            await anyio.lowlevel.checkpoint()
    assert served.rejection is None
    assert await store.totals() == (PROMPT + 100, 0)


async def test_store_that_is_back_is_asked_again(store: PartStore, clock: FakeClock) -> None:
    """A store that fails for a moment costs the stream nothing: the step is asked for again."""
    store.failure = StoreDown("restarting", taken=True)
    services = make_services(clock=clock, store=store)

    async def sleep(seconds: float) -> None:
        store.failure = None
        await clock.sleep(seconds)

    services.sleep = sleep
    served = await serve([budget(1_000)], make_call("hi", services=services), ScriptedUpstream(["x"] * 100))
    assert (len(served.text), finish_of(served)) == (100, "stop")
    assert await store.totals() == (PROMPT + 100, 0)


async def test_cancellation_between_question_and_answer_leaves_nothing(store: PartStore, clock: FakeClock) -> None:
    """A client that leaves while a step is asked for is charged what was read, and nothing stays reserved."""
    store.answers = anyio.Event()
    call, gate = make_call("hi", services=make_services(clock=clock, store=store)), Gate()
    async with running(call, budget(1_000), *["x"] * 15, gate):
        await store.asked.wait()
        await gate.reached.wait()
    store.answers.set()
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
    assert await store.totals() == (PROMPT + 15, 0)


async def test_plain_call_gets_a_ceiling_only_where_little_is_left(store: PartStore, clock: FakeClock) -> None:
    """Without `stream`, `answer` is reserved and not written; a lower headroom becomes the ceiling."""
    upstream = ScriptedUpstream(["x"])
    services = make_services(clock=clock, store=store)
    await serve([budget(1_000)], make_call("hi", services=services, body={"stream": False}), upstream)
    assert "max_tokens" not in upstream.calls[0]
    small = make_services(clock=clock, store=PartStore(clock))
    await serve([budget(PROMPT + 11)], make_call("hi", services=small, body={"stream": False}), upstream)
    assert upstream.calls[1]["max_tokens"] == 11


async def test_ceiling_of_a_low_headroom_may_be_dropped() -> None:
    """Where an upstream refuses every ceiling, one that follows from low headroom alone may be left out: the excess is debt."""
    low, bound = make_call("hi", body={"stream": False}), make_call("hi", body={"stream": False})
    await serve([budget(PROMPT + 11)], low, ScriptedUpstream(["x"]))
    await serve([Budget(name="b", tokens=400, reserve="bound")], bound, ScriptedUpstream(["x"]))
    assert (low.ceiling_may_be_dropped, bound.ceiling_may_be_dropped) == (True, False)


async def test_bound_sets_a_ceiling() -> None:
    """With `bound` a call without a ceiling gets `answer`, by the longest matching pattern of a table."""
    upstream = ScriptedUpstream(["x"])
    policy = Budget(name="b", tokens=90_000, reserve="bound", answer={"*": 100, "o3*": 5_000, "o3-mini": 300})
    for model in ("gpt", "o3-pro", "o3-mini"):
        await serve([policy], make_call("hi", body={"model": model}), upstream)
    await serve([policy], make_call("hi", body={"max_tokens": 7}), upstream)
    assert [body["max_tokens"] for body in upstream.calls] == [100, 5_000, 300, 7]
    with pytest.raises(ValueError, match="answer: 63 is too short"):
        Budget(name="b", tokens=90_000, reserve="bound", answer=63)
    with pytest.raises(ValueError, match="answer: 63 is too short"):
        Budget(name="b", tokens=90_000, reserve="bound", answer={"*": 2_048, "small": 63})


async def test_stream_grows_after_a_retry(store: PartStore, clock: FakeClock) -> None:
    """A stream whose first attempt cost its prompt grows beside what that attempt has reserved."""
    failed = UpstreamError(RuntimeError("cut"), "server", worked=True)
    services = make_services(clock=clock, store=store)
    upstream = ScriptedUpstream([failed], ["x"] * 60)
    served = await serve([budget(1_000), RetryClassifier(name="r")], make_call("hi", services=services), upstream)
    assert (len(served.text), finish_of(served)) == (60, "stop")
    assert store.ceilings == [20, 0, 20, 20, 20]
    assert await store.totals() == (2 * PROMPT + 60, 0)


class RoomySink(CollectingSink):
    """A client with room, whose slow reading must not stop anything."""

    async def drain(self) -> None:
        raise AssertionError("the client has room")


async def test_growth_does_not_wait_for_a_client_with_room(store: PartStore, clock: FakeClock) -> None:
    """A stream that pauses for its reservation goes on without waiting until its client has read everything."""
    call, batches = make_call("hi", services=make_services(clock=clock, store=store)), list[Batch]()
    bursts = [Batch(events=[piece("x") for _ in range(50)]) for _ in range(4)]
    await Chain([budget(1_000)], ScriptedUpstream(bursts), call.services).run(call, RoomySink(batches))
    assert sum(len(batch.events) for batch in batches) == 201
    assert await store.totals() == (PROMPT + 200, 0)
