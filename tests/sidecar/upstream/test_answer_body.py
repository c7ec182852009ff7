"""Delivery of an answer's body: the same for any split into reads and any pauses of the client."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest
from chunks import delta, sse
from hypothesis import given
from hypothesis import strategies as st
from scripted_body import ScriptedResponse, body_of

from policies.api.event import Batch
from policies.api.upstream import UpstreamError

pytestmark = pytest.mark.anyio

A, B = sse(delta(content="a")), sse(delta(content="b"))
FINISH, DONE = sse(delta(finish="stop")), b"data: [DONE]\n\n"
USAGE = sse({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}})
ERROR = sse({"error": {"message": "no"}})


async def pushed(reads: list[bytes], room: list[bool]) -> tuple[list[bytes], str]:
    """Deliver *reads* to a client that pauses where *room* is False; return what was delivered, and how it ended."""
    answer, delivered, rooms = ScriptedResponse(), list[bytes](), list(room)
    body, timeout = body_of(answer)

    def write(batch: Batch) -> bool:
        delivered.append(batch.raw)
        return rooms.pop() if rooms else True

    async def take_all() -> str:
        try:
            while not body.over:
                await body.deliver(write)
        except UpstreamError as error:
            return error.kind
        return "over"

    task = asyncio.get_running_loop().create_task(take_all())
    try:
        for data in reads:
            await asyncio.sleep(0)
            answer.arrive(data)
        end = await asyncio.wait_for(task, 5)
        assert not answer.has_listener
        return delivered, end
    finally:
        task.cancel()
        timeout.stop()


@given(
    st.lists(st.sampled_from([A, B, FINISH, DONE, USAGE, ERROR, b": hm\n\n", b"data: nonsense\n\n"]), max_size=8),
    st.lists(st.integers(0, 400), max_size=6),
    st.lists(st.booleans(), max_size=6),
)
def test_any_split_and_any_pause_deliver_the_same(parts: list[bytes], cuts: list[int], room: list[bool]) -> None:
    """Any split of a stream and any pauses of its client give the bytes and the end of a single read."""
    stream = b"".join(parts)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reads = [stream[begin:end] for begin, end in pairwise(edges) if begin < end]

    async def both() -> None:
        delivered, end = await pushed([*reads, b""], room)
        expected, expected_end = await pushed([stream, b""] if stream else [b""], [])
        assert (b"".join(delivered), end) == (b"".join(expected), expected_end)

    asyncio.run(both())


async def test_nothing_is_delivered_after_a_cancellation() -> None:
    """Bytes that arrive after a cancellation are not delivered."""
    answer, delivered = ScriptedResponse(), list[Batch]()
    body, timeout = body_of(answer)

    def write(batch: Batch) -> bool:
        delivered.append(batch)
        return True

    task = asyncio.get_running_loop().create_task(body.deliver(write))
    await asyncio.sleep(0)
    answer.arrive(A)
    task.cancel()
    answer.arrive(B)
    with pytest.raises(asyncio.CancelledError):
        await task
    answer.arrive(B)
    timeout.stop()

    assert [batch.raw for batch in delivered] in ([A], [A, B])
    assert not answer.has_listener


async def test_exception_of_the_receiver_is_raised() -> None:
    """`deliver` raises an exception of the receiver, also a TimeoutError, which is not read as a timeout of upstream."""
    for error in (ValueError("x"), TimeoutError("x")):
        answer = ScriptedResponse()
        body, timeout = body_of(answer)

        def write(batch: Batch, error: Exception = error) -> bool:
            raise error

        task = asyncio.get_running_loop().create_task(body.deliver(write))
        await asyncio.sleep(0)
        answer.arrive(A)
        with pytest.raises(type(error), match="x"):
            await task
        timeout.stop()


async def test_silent_upstream_is_an_idle_timeout() -> None:
    """An upstream that falls silent fails after the idle time."""
    answer = ScriptedResponse()
    body, timeout = body_of(answer, idle=0.02)
    task = asyncio.get_running_loop().create_task(body.deliver(lambda _: True))
    await asyncio.sleep(0)
    answer.arrive(A)
    with pytest.raises(UpstreamError) as failed:
        await task
    timeout.stop()

    assert failed.value.kind == "idle_timeout"


async def test_bytes_beside_a_timeout_count() -> None:
    """Bytes that arrive in the iteration of the idle timeout count: an error, and an end."""
    for last, end in ((ERROR, "server"), (DONE, "over")):
        answer = ScriptedResponse()
        body, timeout = body_of(answer, idle=0.02)
        task = asyncio.get_running_loop().create_task(body.deliver(lambda _: True))
        await asyncio.sleep(0)
        answer.arrive(A)
        asyncio.get_running_loop().call_later(0.01, answer.arrive, last)
        await asyncio.sleep(0)
        time.sleep(0.05)  # noqa: ASYNC251  # block the loop, so that both are due in one iteration
        try:
            await task
            ended = "over"
        except UpstreamError as error:
            ended = error.kind
        timeout.stop()
        assert ended == end


async def test_finished_stream_is_complete_after_its_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is silent behind its finish is complete after the grace period."""
    monkeypatch.setattr("sidecar.upstream.answer_body.FINISH_GRACE_SECONDS", 0.02)
    answer, delivered = ScriptedResponse(), list[Batch]()
    body, timeout = body_of(answer)
    answer.arrive(A + FINISH)

    def write(batch: Batch) -> bool:
        delivered.append(batch)
        return True

    await body.deliver(write)
    timeout.stop()

    assert (delivered[-1].last, body.over) == (True, True)
